"""The image model that CAL and its baseline share: ResNet, pooling, batch-norm neck."""

from __future__ import annotations

from torch import Tensor, nn

from methods.backbones.pooling import max_and_average
from methods.backbones.resnet import ResNet


class ImageEncoder(nn.Module):
    """images [B, 3, H, W] → features [B, dim] behind the neck; dim is 4,096 for a ResNet-50 (CAL, Sec. 5.2).

    The neck's weight starts at N(1, 0.02), its bias at 0. neck_bias: whether that bias is trained.
    """

    def __init__(self, backbone: str, *, width: float = 1.0, last_stride: int = 1, neck_bias: bool = True) -> None:
        super().__init__()
        self.backbone = ResNet(backbone, width=width, last_stride=last_stride)
        self.dim = 2 * self.backbone.channels
        self.neck = nn.BatchNorm1d(self.dim)
        nn.init.normal_(self.neck.weight, 1.0, 0.02)
        self.neck.bias.requires_grad_(neck_bias)

    def forward(self, images: Tensor) -> Tensor:
        return self.describe(self.backbone(images))

    def describe(self, maps: Tensor) -> Tensor:
        """The backbone's maps [B, C, h, w] → features [B, dim]."""
        pooled = max_and_average(maps)
        return self.neck(pooled.to(self.neck.weight.dtype))  # maps are half as precise under autocast
