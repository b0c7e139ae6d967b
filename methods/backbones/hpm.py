"""HPM, horizontal pyramid matching: Fu et al., Horizontal Pyramid Matching for Person Re-identification, AAAI 2019."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from methods.backbones.body import Embeddings, Reduction
from methods.backbones.pooling import average, maximum, stripes
from methods.backbones.resnet import ResNet
from methods.backbones.resnet_body import ResNetBody
from methods.backbones.weights import load_weights

SCALES = (1, 2, 4, 8)  # stripes at each level of the pyramid
REDUCED = 256


class HPM(ResNetBody):
    """One embedding for each of the 1 + 2 + 4 + 8 stripes of a pyramid over a ResNet's maps (24 × 8 of an image of 384 × 128).

    Each stripe's average and maximum are added, a 1 × 1 convolution (with batch norm and ReLU, as in the published code)
    reduces the sum to 256 numbers, and a classifier learns identities from these; neither is shared by stripes, and the
    loss is the sum of all cross-entropies. The descriptor is all of them in a row: 3,840 numbers. The published code pools
    by average or maximum alone, and its classifiers have no bias; here is the paper's sum, and the bias of all classifiers.
    """

    def __init__(self, backbone: str, *, width: float = 1.0, last_stride: int = 1) -> None:
        super().__init__(backbone, width)
        self.backbone = ResNet(backbone, width=width, last_stride=last_stride)
        self.channels = self.backbone.channels
        reduced = round(REDUCED * width)
        self.widths = (reduced,) * sum(SCALES)
        self.dim = sum(self.widths)
        self.reductions = nn.ModuleList(Reduction(self.channels, reduced) for _ in self.widths)

    def maps(self, images: Tensor) -> Tensor:
        return self.backbone(images)

    def pooled(self, maps: Tensor) -> Tensor:
        """[B, stripes, C], level by level, each from top to bottom."""
        found = [average(stripe) + maximum(stripe) for parts in SCALES for stripe in stripes(maps, parts)]
        return torch.stack(found, 1).to(next(self.reductions.parameters()).dtype)

    def heads(self, pooled: Tensor) -> Embeddings:
        reduced = tuple(reduce(part) for reduce, part in zip(self.reductions, pooled.unbind(1), strict=True))
        features = torch.cat(reduced, 1)
        return Embeddings(features, features, reduced, (features,))

    def load(self, state: Mapping[str, Any]) -> None:
        load_weights(self.backbone, state)
