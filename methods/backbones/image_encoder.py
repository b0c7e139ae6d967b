"""The model that CAL and its baseline share: ResNet, pooling, batch-norm neck; for images, and for clips of video."""

from __future__ import annotations

from torch import Tensor, nn

from methods.backbones.pooling import POOLINGS
from methods.backbones.resnet import ResNet


class ImageEncoder(nn.Module):
    """images [B, 3, H, W], or clips [B, T, 3, H, W] of T frames → features [B, dim] behind the neck.

    A clip goes through the network frame by frame, is pooled over space, then averaged over time: CAL's C2D. dim is
    4,096 for a ResNet-50 with pooling "max-average" (CAL, Sec. 5.2), 2,048 with "max" (its code, for video).

    The neck's weight starts at N(1, 0.02), its bias at 0. neck_bias: whether that bias is trained.
    """

    def __init__(
        self,
        backbone: str,
        *,
        width: float = 1.0,
        last_stride: int = 1,
        neck_bias: bool = True,
        pooling: str = "max-average",
    ) -> None:
        super().__init__()
        self.backbone = ResNet(backbone, width=width, last_stride=last_stride)
        self.pool, vectors = POOLINGS[pooling]
        self.dim = vectors * self.backbone.channels
        self.neck = nn.BatchNorm1d(self.dim)
        nn.init.normal_(self.neck.weight, 1.0, 0.02)
        self.neck.bias.requires_grad_(neck_bias)

    def forward(self, images: Tensor) -> Tensor:
        if images.ndim == 4:
            return self.describe(self.backbone(images))
        pooled = self.pooled(self.backbone(images.flatten(0, 1)))
        return self.neck(pooled.unflatten(0, images.shape[:2]).mean(1))

    def describe(self, maps: Tensor) -> Tensor:
        """The backbone's maps of images [B, C, h, w] → features [B, dim]."""
        return self.neck(self.pooled(maps))

    def pooled(self, maps: Tensor) -> Tensor:
        return self.pool(maps).to(self.neck.weight.dtype)  # maps are half as precise under autocast
