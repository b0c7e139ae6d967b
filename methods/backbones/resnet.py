"""ResNets (He et al., CVPR 2016) without their classifier, of any width, with the stride of the last stage to choose.

Names of parameters and buffers are torchvision's, so its weights load as they are, and what is computed is the same. They are
written out here since torchvision takes a second and 180 MiB to import, in every worker and in every process that only checks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from methods.recompute import Recomputable
from methods.shardable import Shardable


class BasicBlock(Shardable, Recomputable):
    """Two 3×3 convolutions beside a shortcut: [B, in_channels, h, w] → [B, planes, h/stride, w/stride]."""

    expansion: ClassVar[int] = 1

    def __init__(self, in_channels: int, planes: int, stride: int = 1, downsample: nn.Module | None = None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, planes, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = downsample

    def forward(self, maps: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(maps)))
        out = self.bn2(self.conv2(out))
        out += maps if self.downsample is None else self.downsample(maps)
        return self.relu(out)


class Bottleneck(Shardable, Recomputable):
    """1×1, 3×3 (which strides) and 1×1 beside a shortcut: [B, in_channels, h, w] → [B, 4·planes, h/stride, w/stride]."""

    expansion: ClassVar[int] = 4

    def __init__(self, in_channels: int, planes: int, stride: int = 1, downsample: nn.Module | None = None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, planes * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, maps: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(maps)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += maps if self.downsample is None else self.downsample(maps)
        return self.relu(out)


@dataclass(frozen=True)
class Architecture:
    block: type[BasicBlock] | type[Bottleneck]
    depths: tuple[int, int, int, int]


RESNETS = {
    "resnet18": Architecture(BasicBlock, (2, 2, 2, 2)),
    "resnet34": Architecture(BasicBlock, (3, 4, 6, 3)),
    "resnet50": Architecture(Bottleneck, (3, 4, 6, 3)),
    "resnet101": Architecture(Bottleneck, (3, 4, 23, 3)),
}


def weights_address(name: str) -> str:
    """Address of torchvision's ImageNet weights, from which the papers start."""
    from torchvision.models import get_model_weights

    return str(get_model_weights(name)["IMAGENET1K_V1"].url)


class ResNet(nn.Module):
    """images [B, 3, H, W] → maps [B, channels, H/16, W/16] (H/32 with last_stride 2), rounded up.

    width scales the channels of every layer. Convolutions start as He et al. (fan out), batch norms as identity.
    """

    def __init__(self, name: str, *, width: float = 1.0, last_stride: int = 1) -> None:
        super().__init__()
        block, depths = RESNETS[name].block, RESNETS[name].depths
        planes = [round(base * width) for base in (64, 128, 256, 512)]
        self.conv1 = nn.Conv2d(3, planes[0], 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(planes[0])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = stage(block, planes[0], planes[0], depths[0], stride=1)
        self.layer2 = stage(block, planes[0] * block.expansion, planes[1], depths[1], stride=2)
        self.layer3 = stage(block, planes[1] * block.expansion, planes[2], depths[2], stride=2)
        self.layer4 = stage(block, planes[2] * block.expansion, planes[3], depths[3], stride=last_stride)
        self.channels = planes[3] * block.expansion
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        maps = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        return self.layer4(self.layer3(self.layer2(self.layer1(maps))))


def stage(
    block: type[BasicBlock] | type[Bottleneck], in_channels: int, planes: int, depth: int, stride: int
) -> nn.Sequential:
    """`depth` blocks; the first strides, and projects its shortcut where shapes differ."""
    channels = planes * block.expansion
    shortcut = None
    if stride != 1 or in_channels != channels:
        shortcut = nn.Sequential(
            nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False), nn.BatchNorm2d(channels)
        )
    first = block(in_channels, planes, stride, shortcut)
    return nn.Sequential(first, *(block(channels, planes) for _ in range(1, depth)))
