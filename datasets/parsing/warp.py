"""The square input of SCHP: a crop scaled until its longer side fits, centred and padded with zeros; and the inverse.

Both maps are bilinear and parallel to the axes, so each is a product with one matrix per axis. Coordinates refer to pixel
centres: the longer side's first and last pixels map to the square's first and last, as the published code's affine
matrices do. (That code interpolates in fixed point, at 1/32 of a pixel; here nothing is rounded.)
"""

from __future__ import annotations

import torch
from torch import Tensor


def to_square(images: Tensor, side: int) -> Tensor:
    """float [B, C, h, w] → float [B, C, side, side]."""
    height, width = images.shape[2:]
    step = _step(height, width, side)
    rows = _centred(side, height, step).to(images)
    columns = _centred(side, width, step).to(images)
    return rows @ images @ columns.T


def from_square(logits: Tensor, side: int, size: tuple[int, int]) -> Tensor:
    """Logits of a square, float [B, L, g, g] → float [B, L, H, W] on the image, with (H, W) = size.

    side: of the square input, in pixels. As published, logits are first enlarged to `side` with aligned corners, then
    mapped back; here in one product.
    """
    height, width = size
    up = _taps(torch.linspace(0, logits.shape[2] - 1, side, dtype=torch.float64), logits.shape[2])
    step = 1 / _step(height, width, side)
    rows = (_centred(height, side, step) @ up).to(logits)
    columns = (_centred(width, side, step) @ up).to(logits)
    return rows @ logits @ columns.T


def _step(height: int, width: int, side: int) -> float:
    """The distance of the square's pixels, in pixels of the image."""
    return max(height - 1, width - 1, 1) / (side - 1)


def _centred(outputs: int, inputs: int, step: float) -> Tensor:
    """float64 [outputs, inputs]: samples at a distance of `step` inputs, with the centres aligned."""
    places = (inputs - 1) / 2 + (torch.arange(outputs, dtype=torch.float64) - (outputs - 1) / 2) * step
    return _taps(places, inputs)


def _taps(places: Tensor, inputs: int) -> Tensor:
    """float64 [outputs, inputs]: linear interpolation at the places (float64 [outputs]), zero beyond both ends."""
    return (1 - (places[:, None] - torch.arange(inputs, dtype=torch.float64)).abs()).clamp(min=0)
