"""Bodies in small, in float64, and images for them."""

from __future__ import annotations

import torch
from torch import Tensor

from methods.backbones.bodies import BodySettings, build_body
from methods.backbones.body import Body
from methods.backbones.pcb import PCB
from tests.methods.variants import SMALL, TOKENS

SMALL_IMAGES = (4, 3, 96, 48)  # maps of 6 × 3


def settings_of(body: str) -> dict[str, object]:
    own = {"clip-vit": TOKENS, "clip-cnn": {"body": "clip-cnn", "width": 1 / 4}}
    return own.get(body, SMALL | {"body": body})


def small(body: str, **settings: object) -> Body:
    torch.manual_seed(3)
    return build_body(BodySettings(**settings_of(body) | settings)).double()


def images(seed: int = 0) -> Tensor:
    return torch.randn(SMALL_IMAGES, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def refined(epoch: int) -> PCB:
    body = small("pcb", refine_from_epoch=2, finetune_from_epoch=4)
    assert isinstance(body, PCB)
    body.epoch = epoch
    return body
