"""The batch-norm necks behind CLIP's features."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class Necks(nn.ModuleList):
    """A batch norm for each of several features: tuple of [B, width] → tuple of [B, width].

    They start as torch's batch norms, as in CLIP-ReID's code. trains_bias: whether their biases are trained.
    """

    def __init__(self, widths: Sequence[int], trains_bias: bool) -> None:
        super().__init__(nn.BatchNorm1d(width) for width in widths)
        for neck in self:
            assert isinstance(neck, nn.BatchNorm1d)
            neck.bias.requires_grad_(trains_bias)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return tuple(neck(one) for neck, one in zip(self, features, strict=True))
