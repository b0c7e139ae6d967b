"""Pre-trained weights load whole, or the error names what does not fit."""

from __future__ import annotations

import pytest
import torch

from methods.backbones.resnet import ResNet
from methods.backbones.weights import load_weights
from methods.method import MethodError


def test_weights_without_batch_counts_load_as_old_files_have_none() -> None:
    source, target = ResNet("resnet18", width=1 / 16), ResNet("resnet18", width=1 / 16)
    old = {key: value for key, value in source.state_dict().items() if not key.endswith("num_batches_tracked")}
    load_weights(target, old | {"fc.weight": torch.zeros(3, 32), "fc.bias": torch.zeros(3)})
    found, expected = target.state_dict(), source.state_dict()
    assert all(torch.equal(found[key], expected[key]) for key in old)


def test_weights_that_do_not_fit_are_refused_whole_and_named() -> None:
    network = ResNet("resnet18", width=1 / 16)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    wrong = dict(before)
    del wrong["bn1.weight"], wrong["bn1.bias"]
    wrong["layer1.0.conv1.weight"] = torch.zeros(64, 64, 3, 3)
    wrong["layer5.weight"] = torch.zeros(1)
    with pytest.raises(MethodError) as error:
        load_weights(network, wrong)
    for part in (
        "2 missing: bn1.weight, bn1.bias",
        "1 unknown: layer5.weight",
        "1 of another shape: layer1.0.conv1.weight (64, 64, 3, 3) for (4, 4, 3, 3)",
        "same architecture and width",
    ):
        assert part in str(error.value)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
