"""Global poolings: a feature map to one vector."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def max_and_average(maps: Tensor) -> Tensor:
    """maps [B, C, H, W] → [B, 2C]: global maximum, then global average (CAL, Sec. 5.2; the order of its code)."""
    return torch.cat([maps.amax((2, 3)), maps.mean((2, 3))], 1)


def maximum(maps: Tensor) -> Tensor:
    """maps [B, C, H, W] → [B, C]: global maximum (CAL's code, for the frames of video)."""
    return maps.amax((2, 3))


def average(maps: Tensor) -> Tensor:
    """maps [B, C, H, W] → [B, C]: global average (the strong baseline of Luo et al., 2019)."""
    return maps.mean((2, 3))


def generalised_mean(maps: Tensor, p: float | Tensor = 3.0, eps: float = 1e-6) -> Tensor:
    """maps [B, C, H, W] → [B, C]: (mean of xᵖ)^(1/p), values clamped to at least eps (Radenović et al., TPAMI 2019)."""
    return maps.clamp(min=eps).pow(p).mean((2, 3)).pow(1 / p)


class GeneralisedMean(nn.Module):
    """`generalised_mean` with a trained exponent that starts at `p`: maps [B, C, H, W] → [B, C] in the exponent's dtype."""

    def __init__(self, p: float = 3.0) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor([p]))

    def forward(self, maps: Tensor) -> Tensor:
        return generalised_mean(maps.to(self.p.dtype), self.p)  # a power of a bfloat16 has too few digits


def bounds(height: int, parts: int) -> list[tuple[int, int]]:
    """Top and bottom (one past the last row) of `parts` horizontal stripes of equal height.

    Where the height is no multiple of `parts`, heights differ by at most one row and a row may be in two stripes, as in
    torch's adaptive pooling; with fewer rows than parts, each part has one.
    """
    return [(height * part // parts, -(-height * (part + 1) // parts)) for part in range(parts)]


def stripes(maps: Tensor, parts: int) -> list[Tensor]:
    """maps [B, C, H, W] → horizontal stripes [B, C, h, W], from top to bottom."""
    return [maps[:, :, top:bottom] for top, bottom in bounds(maps.shape[2], parts)]


POOLINGS: dict[str, tuple[Callable[[Tensor], Tensor] | type[nn.Module], int]] = {  # and how many vectors of C it gives
    "max-average": (max_and_average, 2),
    "max": (maximum, 1),
    "average": (average, 1),
    "generalised-mean": (GeneralisedMean, 1),
}
