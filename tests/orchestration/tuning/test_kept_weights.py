"""Trials take the sweep's weights where they want the same, and fetch their own where not."""

from __future__ import annotations

import pytest

from orchestration.config.load import load
from orchestration.tuning.kept_weights import KeptWeights


@pytest.mark.parametrize(
    ("words", "same"),
    [
        (["method.label_smoothing=0.2"], True),
        (["method.body=pcb"], True),  # of the same ResNet
        (["method.backbone=resnet34"], False),
        (["weights=/other.pth"], False),
        (["weights=null"], False),
    ],
)
def test_weights_are_those_of_their_name_and_backbone(words: list[str], same: bool) -> None:
    base = ["data=/given", "weights=imagenet", "method.backbone=resnet18", "method.width=1"]
    kept = KeptWeights.of(load("baseline-demo", base), "/sweep/weights/0.safetensors")
    assert kept.are_of(load("baseline-demo", [*base, *words])) is same
