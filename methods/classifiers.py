"""Classifiers of identities and outfits: features [B, dim] → logits or cosines [B, num_classes]."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.losses.cosine import cosines
from methods.shardable import Shardable


class LinearClassifier(nn.Linear, Shardable):
    """Linear; weights start at N(0, 0.001), the bias, where there is one, at 0, as published."""

    readers = ("held_fixed",)

    def __init__(self, dim: int, num_classes: int, bias: bool = True) -> None:
        super().__init__(dim, num_classes, bias)
        nn.init.normal_(self.weight, std=0.001)
        if bias:
            nn.init.zeros_(self.bias)

    def held_fixed(self, features: Tensor) -> Tensor:
        """As `forward`, where gradients reach the features and no parameter."""
        return F.linear(features, self.weight.detach(), None if self.bias is None else self.bias.detach())


class CosineClassifier(Shardable):
    """Cosine to each class's weight. No bias; weights start as random directions."""

    readers = ("held_fixed",)

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(F.normalize(torch.empty(num_classes, dim).uniform_(-1, 1), dim=1))

    def forward(self, features: Tensor) -> Tensor:
        return cosines(features, self.weight)

    def held_fixed(self, features: Tensor) -> Tensor:
        """As `forward`, where gradients reach the features and no parameter."""
        return cosines(features, self.weight.detach())
