"""A body's forward pass in micro-batches whose activations are computed again in backward: only one of them is in memory.

Cached gradients (Gao et al., Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup, 2021), by one graph and
`torch.utils.checkpoint`: the loss sees the features of the whole batch, and its gradient is that of the whole batch. This
holds where the body computes each image by itself. A batch norm in it would see one micro-batch at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

import torch
from torch import Tensor, nn

from methods.backbones.body import Body
from methods.recompute import recomputed

PER_IMAGE = ("maps", "pooled")  # of a body: what comes behind them, such as necks, sees the whole batch


def bodies_of(method: nn.Module) -> list[Body]:
    return [module for module in method.modules() if isinstance(module, Body)]


def use_micro_batches(method: nn.Module, images: int) -> None:
    """From now on the method's bodies take so many images at a time in training.

    Raises: ValueError where a body does not compute each image by itself (`Body.is_per_image`).
    """
    for body in bodies_of(method):
        if not body.is_per_image:
            raise ValueError(f"{type(body).__name__} does not compute each image by itself")
        for name in PER_IMAGE:
            setattr(body, name, in_parts(getattr(body, name), body, images))


def in_parts(forward: Callable[[Tensor], Tensor], body: Body, images: int) -> Callable[[Tensor], Tensor]:
    again = recomputed(forward, body)

    @wraps(forward)
    def joined(given: Tensor) -> Tensor:
        if not (body.training and torch.is_grad_enabled()):
            return forward(given)
        return torch.cat([again(part) for part in given.split(images)])

    return joined
