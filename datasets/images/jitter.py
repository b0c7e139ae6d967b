"""Colour jitter as torchvision defines it: brightness, contrast, saturation and hue, in an order drawn for each image."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

Limits = tuple[float, float, float, float]
NEUTRAL = np.array([1.0, 1.0, 1.0, 0.0])


def factors(limits: Limits, drawn: np.ndarray) -> np.ndarray:
    """float64 [num, 4]: the factors of brightness, contrast and saturation, around 1, and the shift of hue, around 0.

    limits: the largest deviation of each. drawn: float64 [num, 4], uniform in 0…1.
    """
    return NEUTRAL + (2 * drawn - 1) * np.array(limits)


def jittered(images: Tensor, factor: Tensor, order: Tensor) -> Tensor:
    """Images uint8 [B, 3, H, W] with their factors applied.

    factor: float64 [B, 4]. order: int64 [B, 4], which adjustment comes first, second …. Both are on the host.
    """
    from torchvision.transforms import functional  # here, as in decode.py

    adjust = (
        functional.adjust_brightness,
        functional.adjust_contrast,
        functional.adjust_saturation,
        functional.adjust_hue,
    )
    changed = []
    for image, by, each in zip(images, factor.tolist(), order.tolist(), strict=True):
        for kind in each:
            image = adjust[kind](image, by[kind])
        changed.append(image)
    return torch.stack(changed).contiguous(memory_format=torch.channels_last)
