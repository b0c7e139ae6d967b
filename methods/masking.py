"""Masks that hide parts of an image from a network."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Colour = tuple[float, float, float]  # RGB
Fill = Literal["zero", "mean", "white"] | Colour


def normalised_white(mean: Colour, std: Colour) -> Colour:
    """RGB of a white pixel once images are normalised by mean and deviation (of values in 0…1)."""
    red, green, blue = ((1 - m) / s for m, s in zip(mean, std, strict=True))
    return red, green, blue


WHITE = normalised_white((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # of ImageNet


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


def masked_out(images: Tensor, mask: Tensor, fill: Fill, white: Colour) -> Tensor:
    """Images [B, 3, H, W], normalised, with `fill` where the mask (bool [B, H, W]) is True; those pixels leave no trace.

    fill: "zero", which is the mean colour that the images were normalised by; "mean", the mean colour of what is left of
    each image (zero where nothing is); "white", as if painted before normalising; or a colour, given after it.
    white: RGB of a white pixel after normalising, `DataFacts.white`.
    """
    mask = mask[:, None]
    if fill == "mean":
        left = images.masked_fill(mask, 0).sum((2, 3), keepdim=True)
        colour = left / (~mask).sum((2, 3), keepdim=True).clamp(min=1)
    elif fill == "zero":
        return images.masked_fill(mask, 0)
    else:
        colour = torch.tensor(white if fill == "white" else fill, dtype=images.dtype, device=images.device)[
            :, None, None
        ]
    return torch.where(mask, colour.to(images.dtype), images)
