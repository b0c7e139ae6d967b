"""Activations that are computed again in the backward pass instead of kept: larger batches in the same memory, more time.

Chen et al., Training Deep Nets with Sublinear Memory Cost, 2016, with `torch.utils.checkpoint`. Nothing else changes: batch
norm still sees the whole batch, and updates its running statistics in the first pass alone. So weights and buffers are the
same bits. Collectives of batch norm are repeated, in the same order on every worker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import wraps

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

Forward = Callable[[Tensor], Tensor]


class Recomputable(nn.Module):
    """A block, one tensor in and one out, whose inner activations can be computed again. It draws no random numbers."""


def blocks_of(module: nn.Module) -> list[Recomputable]:
    return [block for block in module.modules() if isinstance(block, Recomputable)]


def recompute_blocks(module: nn.Module) -> None:
    """From now on the module's blocks keep only their inputs in training, and compute the rest again in backward.

    Names in `state_dict` stay. Under a sharding strategy it is called first.
    """
    for block in blocks_of(module):
        block.forward = recomputed(block.forward, block)


def recomputed(forward: Forward, module: nn.Module) -> Forward:
    """`forward`, a method of the module, that keeps its argument alone where the module trains."""

    @wraps(forward)
    def kept(given: Tensor) -> Tensor:
        if not (module.training and torch.is_grad_enabled()):
            return forward(given)
        found: Tensor = checkpoint(
            forward, given, use_reentrant=False, preserve_rng_state=False, context_fn=lambda: contexts(module)
        )
        return found

    return kept


def contexts(module: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Around the first pass, and around the one that is repeated. The latter ends as soon as the last tensor that backward
    needs is there, in the middle of `forward`, so that nothing can be put right behind it."""
    return nullcontext(), without_updates(module)


@contextmanager
def without_updates(module: nn.Module) -> Iterator[None]:
    """Within, batch norms update copies of their running statistics, which are thrown away."""
    norms = [norm for norm in module.modules() if isinstance(norm, _BatchNorm)]
    before = [dict(norm._buffers) for norm in norms]
    try:
        for norm in norms:
            for name, value in norm._buffers.items():
                norm._buffers[name] = None if value is None else value.clone()
        yield
    finally:
        for norm, buffers in zip(norms, before, strict=True):
            norm._buffers.update(buffers)
