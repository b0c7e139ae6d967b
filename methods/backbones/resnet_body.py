"""The base of bodies that are made of a ResNet."""

from __future__ import annotations

from methods.backbones.body import Body
from methods.backbones.resnet import weights_address


class ResNetBody(Body):
    """resnet: name of the ResNet, one of `RESNETS`. width: factor on its channels."""

    def __init__(self, resnet: str, width: float) -> None:
        super().__init__()
        self.resnet, self.width = resnet, width

    def weights_address(self) -> str | None:
        """Address of the published ImageNet weights of the ResNet; None where the width is not 1."""
        return weights_address(self.resnet) if self.width == 1 else None
