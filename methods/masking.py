"""Masks that hide parts of an image from a network."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Fill = Literal["zero", "mean"] | tuple[float, float, float]


def label_table(labels: Iterable[int]) -> Tensor:
    """bool [256], True for `labels`, so that `table[parsing.long()]` says where these are."""
    table = torch.zeros(256, dtype=torch.bool)
    table[list(labels)] = True
    return table


def grown(mask: Tensor, margin: int) -> Tensor:
    """bool [B, H, W], with everything that is at most `margin` pixels (rows and columns) away from what was True."""
    if margin == 0:
        return mask
    return F.max_pool2d(mask[:, None].float(), 2 * margin + 1, stride=1, padding=margin)[:, 0] > 0


def masked_out(images: Tensor, mask: Tensor, fill: Fill) -> Tensor:
    """Images [B, 3, H, W], normalised, with `fill` where the mask (bool [B, H, W]) is True; those pixels leave no trace.

    fill: "zero", which is the mean colour that the images were normalised by; "mean", the mean colour of what is left of
    each image (zero where nothing is); or a colour, given after normalisation.
    """
    mask = mask[:, None]
    if fill == "mean":
        left = images.masked_fill(mask, 0).sum((2, 3), keepdim=True)
        colour = left / (~mask).sum((2, 3), keepdim=True).clamp(min=1)
    elif fill == "zero":
        return images.masked_fill(mask, 0)
    else:
        colour = torch.tensor(fill, dtype=images.dtype, device=images.device)[:, None, None]
    return torch.where(mask, colour.to(images.dtype), images)
