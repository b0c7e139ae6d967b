"""The ResNets: torchvision's numbers at full width, the papers' shapes, weights that load or say why not."""

from __future__ import annotations

import pytest
import torch
import torchvision

from methods.backbones.image_encoder import ImageEncoder
from methods.backbones.resnet import RESNETS, ResNet, weights_address
from methods.backbones.weights import load_weights


def test_the_papers_image_model_has_the_published_size() -> None:
    with torch.device("meta"):
        encoder = ImageEncoder("resnet50")
        features = encoder(torch.empty(2, 3, 384, 192))
        maps = encoder.backbone(torch.empty(1, 3, 384, 192))
    assert sum(p.numel() for p in encoder.parameters()) == 23_516_224
    assert features.shape == (2, 4096)
    assert maps.shape == (1, 2048, 24, 12)


@pytest.mark.parametrize("name", RESNETS)
def test_parameters_are_named_and_shaped_as_torchvisions(name: str) -> None:
    with torch.device("meta"):
        ours, theirs = ResNet(name), torchvision.models.get_model(name)
    shapes = {key: value.shape for key, value in theirs.state_dict().items() if not key.startswith("fc.")}
    assert {key: value.shape for key, value in ours.state_dict().items()} == shapes
    assert weights_address(name).rsplit("/", 1)[1].startswith(name)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_with_torchvisions_weights_and_stride_it_computes_the_same(name: str) -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(name).eval()
    ours = ResNet(name, last_stride=2).eval()
    load_weights(ours, theirs.state_dict())
    images = torch.randn(2, 3, 64, 32)
    with torch.no_grad():
        assert torch.equal(theirs.fc(theirs.avgpool(ours(images)).flatten(1)), theirs(images))


def test_width_scales_every_layer_and_the_last_stride_keeps_the_map() -> None:
    narrow = ResNet("resnet18", width=0.375)
    assert narrow.channels == 192
    assert {m.out_channels for m in narrow.modules() if isinstance(m, torch.nn.Conv2d)} == {24, 48, 96, 192}
    assert narrow(torch.zeros(1, 3, 96, 48)).shape == (1, 192, 6, 3)
    assert ResNet("resnet18", width=0.375, last_stride=2)(torch.zeros(1, 3, 96, 48)).shape == (1, 192, 3, 2)
