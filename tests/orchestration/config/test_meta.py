"""A method without weights: built in a moment, and what it has of people."""

from __future__ import annotations

import pytest
import torch

from methods import METHODS
from orchestration.config.load import load
from orchestration.config.meta import build_on_meta, per_class_tensors


@pytest.mark.parametrize("recipe", ["baseline-ltcc", "cal-ltcc", "ifd-ltcc", "pixel-sampling-prcc"])
def test_a_method_has_the_names_and_shapes_of_a_real_one_and_no_memory(recipe: str) -> None:
    experiment = load(recipe, ["data=x"])
    method = build_on_meta(experiment)
    assert type(method) is METHODS[experiment.method.name]
    tensors = [*method.parameters(), *method.buffers()]
    assert all(tensor.is_meta for tensor in method.parameters())
    assert sum(tensor.numel() for tensor in tensors) > 20_000_000
    assert method.stages()[0].first_epoch == 0


def test_what_is_of_the_people_of_training_is_told_by_its_shape() -> None:
    identity = {"classifier.weight", "classifier.bias"}
    assert per_class_tensors(load("baseline-ltcc", ["data=x"])) == identity
    assert per_class_tensors(load("cal-ltcc", ["data=x"])) == {*identity, "clothes_classifier.weight"}


def test_initialisation_is_skipped_here_alone() -> None:
    build_on_meta(load("baseline-ltcc", ["data=x"]))
    torch.manual_seed(0)
    assert torch.empty(100).normal_().std() > 0.5
