"""torchvision's ResNets without their classifier, of any width, with the stride of the last stage to choose.

Names of parameters and buffers are torchvision's, so its weights load as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:  # it is imported when a network is built: that takes a second and 180 MiB
    from torchvision.models.resnet import BasicBlock, Bottleneck


@dataclass(frozen=True)
class Architecture:
    """block: the name of torchvision's class."""

    block: str
    depths: tuple[int, int, int, int]


RESNETS = {
    "resnet18": Architecture("BasicBlock", (2, 2, 2, 2)),
    "resnet34": Architecture("BasicBlock", (3, 4, 6, 3)),
    "resnet50": Architecture("Bottleneck", (3, 4, 6, 3)),
    "resnet101": Architecture("Bottleneck", (3, 4, 23, 3)),
}


def weights_address(name: str) -> str:
    """Where torchvision publishes the ImageNet weights that the papers start from."""
    from torchvision.models import get_model_weights

    return str(get_model_weights(name)["IMAGENET1K_V1"].url)


class ResNet(nn.Module):
    """images [B, 3, H, W] → maps [B, channels, H/16, W/16] (H/32 with last_stride 2), rounded up.

    width scales the channels of every layer. Convolutions start as He et al. (fan out), batch norms as identity.
    """

    def __init__(self, name: str, *, width: float = 1.0, last_stride: int = 1) -> None:
        super().__init__()
        from torchvision.models import resnet

        block, depths = getattr(resnet, RESNETS[name].block), RESNETS[name].depths
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
    from torchvision.models.resnet import conv1x1

    channels = planes * block.expansion
    shortcut = None
    if stride != 1 or in_channels != channels:
        shortcut = nn.Sequential(conv1x1(in_channels, channels, stride), nn.BatchNorm2d(channels))
    first = block(in_channels, planes, stride, shortcut)
    return nn.Sequential(first, *(block(channels, planes) for _ in range(1, depth)))
