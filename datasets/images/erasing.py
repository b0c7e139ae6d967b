"""Random erasing (Zhong et al., AAAI 2020), as CAL's code does it: which box of each image, and one colour over it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

ATTEMPTS = 100  # as published; the boxes asked for nearly always fit at once


def boxes(
    attempts: np.ndarray,
    place: np.ndarray,
    size: tuple[int, int],
    area: tuple[float, float],
    aspect: tuple[float, float],
) -> np.ndarray:
    """The first of each sample's attempts that fits, at its place: int64 [num, 4]: top, left, height, width.

    attempts: float64 [num, ATTEMPTS, 2], drawn from 0…1. place: [num, 2], the same. size: height and width of the image.
    Where none fits all are 0.
    """
    area_of = (area[0] + attempts[..., 0] * (area[1] - area[0])) * size[0] * size[1]
    aspect_of = aspect[0] + attempts[..., 1] * (aspect[1] - aspect[0])
    tried = np.rint(np.sqrt(np.stack([area_of * aspect_of, area_of / aspect_of], axis=-1)))  # height and width
    fits = np.all(tried < size, axis=-1)
    chosen = np.take_along_axis(tried, fits.argmax(1)[:, None, None], axis=1)[:, 0]
    corner = np.floor(place * (np.array(size) - chosen + 1))
    return np.where(fits.any(1, keepdims=True), np.concatenate([corner, chosen], axis=1), 0).astype(np.int64)


def erase(images: Tensor, box: Tensor, fill: tuple[float, float, float]) -> None:
    """In place: the colour `fill` in images [B, 3, H, W] where a box [B, 4] says so; boxes are on the host."""
    colour = torch.tensor(fill, dtype=images.dtype, device=images.device)[:, None, None]
    if images.device.type == "cpu":
        for number in box[:, 2].nonzero()[:, 0].tolist():
            top, left, height, width = box[number].tolist()
            images[number, :, top : top + height, left : left + width] = colour
        return
    top, left, height, width = box.to(images.device, non_blocking=True)[:, :, None].unbind(1)  # [B, 1] each
    y, x = (torch.arange(length, device=images.device) for length in images.shape[2:])
    is_erased = ((y >= top) & (y < top + height))[:, :, None] & ((x >= left) & (x < left + width))[:, None]
    torch.where(is_erased[:, None], colour, images, out=images)
