"""Random erasing (Zhong et al., AAAI 2020), as in CAL's code: one box of each image is filled with one colour."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

ATTEMPTS = 100  # as published; nearly always the first box fits


def boxes(
    attempts: np.ndarray,
    place: np.ndarray,
    size: tuple[int, int],
    area: tuple[float, float],
    aspect: tuple[float, float],
) -> np.ndarray:
    """Each sample's box: int64 [num, 4], top, left, height, width; the first attempt that fits, all 0 where none does.

    attempts: float64 [num, ATTEMPTS, 2], uniform in 0…1: area and aspect. place: float64 [num, 2], uniform in 0…1.
    size: (height, width) of the image. area, aspect: the ranges they are drawn from.
    """
    area_of = (area[0] + attempts[..., 0] * (area[1] - area[0])) * size[0] * size[1]
    aspect_of = aspect[0] + attempts[..., 1] * (aspect[1] - aspect[0])
    tried = np.rint(np.sqrt(np.stack([area_of * aspect_of, area_of / aspect_of], axis=-1)))  # height and width
    fits = np.all(tried < size, axis=-1)
    chosen = np.take_along_axis(tried, fits.argmax(1)[:, None, None], axis=1)[:, 0]
    corner = np.floor(place * (np.array(size) - chosen + 1))
    return np.where(fits.any(1, keepdims=True), np.concatenate([corner, chosen], axis=1), 0).astype(np.int64)


def erase(images: Tensor, box: Tensor, fill: tuple[float, float, float]) -> None:
    """Fills each image's box with the colour `fill`, in place. images: [B, 3, H, W]. box: int64 [B, 4], on the host."""
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
