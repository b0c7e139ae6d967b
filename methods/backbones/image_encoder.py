"""The model that CAL and its baseline share: ResNet, pooling, batch-norm neck; for images, and for clips of video."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from methods.backbones.body import Embeddings
from methods.backbones.pooling import POOLINGS
from methods.backbones.resnet import ResNet
from methods.backbones.resnet_body import ResNetBody
from methods.backbones.weights import load_weights


class ImageEncoder(ResNetBody):
    """images [B, 3, H, W], or clips [B, T, 3, H, W] of T frames → features [B, dim] behind the neck.

    The frames of a clip pass the network one by one, are pooled over space, then averaged over time: CAL's C2D. dim is
    4,096 for a ResNet-50 with pooling "max-average" (CAL, Sec. 5.2), 2,048 with "max" (its code, for video).

    The neck's weight starts at N(1, 0.02), its bias at 0. neck_bias: whether that bias is trained. triplet_before_neck: a
    pair loss compares the neck's input instead of its output.
    """

    def __init__(
        self,
        backbone: str,
        *,
        width: float = 1.0,
        last_stride: int = 1,
        neck_bias: bool = True,
        pooling: str = "max-average",
        triplet_before_neck: bool = False,
    ) -> None:
        super().__init__(backbone, width)
        self.backbone = ResNet(backbone, width=width, last_stride=last_stride)
        pool, vectors = POOLINGS[pooling]
        self.pool = pool() if isinstance(pool, type) else pool
        self.channels = self.backbone.channels
        self.dim = vectors * self.channels
        self.widths = (self.dim,)
        self.neck = nn.BatchNorm1d(self.dim)
        nn.init.normal_(self.neck.weight, 1.0, 0.02)
        self.neck.bias.requires_grad_(neck_bias)
        self.triplet_before_neck = triplet_before_neck

    def maps(self, images: Tensor) -> Tensor:
        return self.backbone(images)

    def pooled(self, maps: Tensor) -> Tensor:
        return self.pool(maps).to(self.neck.weight.dtype)  # maps are half as precise under autocast

    def heads(self, pooled: Tensor) -> Embeddings:
        features = self.neck(pooled)
        return Embeddings(features, pooled, (features,), (pooled if self.triplet_before_neck else features,))

    def load(self, state: Mapping[str, Any]) -> None:
        load_weights(self.backbone, state)
