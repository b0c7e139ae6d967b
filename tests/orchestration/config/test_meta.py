"""A method without weights: built in a moment, and what it has of people."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from methods import METHODS
from methods.method import Method
from orchestration.config import meta
from orchestration.config.load import Experiment, load
from orchestration.config.meta import WHOLE, build_on_meta, outline, per_class_tensors, watched


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


@pytest.mark.parametrize("recipe", ["baseline-ltcc", "cal-ltcc", "ifd-ltcc", "pixel-sampling-prcc"])
def test_an_outline_is_that_of_the_method(recipe: str) -> None:
    experiment = load(recipe, ["data=x"])
    method, found = build_on_meta(experiment), outline(experiment)
    assert (found.inputs, found.takes_clips, found.pairs_for) == (method.inputs, method.takes_clips, method.pairs_for)
    assert (found.stages, found.weights_address) == (
        method.stages(),
        method.weights_address() if experiment.weights else None,
    )
    assert found.trained == set(method.parameters_of())


def test_a_method_is_built_once_for_all_values_of_what_its_constructor_does_not_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    built: list[Any] = []

    def build(experiment: Experiment, **options: Any) -> Method:
        built.append(experiment.method)
        return build_on_meta(experiment, **options)

    monkeypatch.setattr(meta, "build_on_meta", build)
    monkeypatch.setattr(meta, "_outlines", {})
    words = ["optimizers.model.lr=1e-3", "batch.people=16", "method.tau=0.1", "method.tau=0.2", "method.epsilon=0.3"]
    for word in words:
        load("cal-ltcc", ["data=x", word])
    assert len(built) == 1
    assert outline(load("cal-ltcc", ["data=x", "method.adversarial_from_epoch=7"])).stages[1].first_epoch == 7
    assert len(built) == 2, "the stages read it"
    assert outline(load("cal-ltcc", ["data=x"])).stages[1].first_epoch == 25
    assert len(built) == 2
    load("cal-ltcc", ["data=x", "method.backbone=resnet101"])
    assert len(built) == 3


@pytest.mark.parametrize("read", [lambda s: s.model_dump(), lambda s: s.model_copy(), lambda s: dict(s)])
def test_what_reads_all_settings_is_noticed(read: Callable[[Any], object]) -> None:
    settings, names = watched(load("cal-ltcc", ["data=x"]).method)
    read(settings)
    assert names & WHOLE
