"""Which stage all points of a sweep share is found by what each stage reads."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from methods.method import Batch, Update
from orchestration.config.load import load
from orchestration.sweeps.presets import read_sweep
from orchestration.sweeps.shared_stage import shared_stage
from orchestration.sweeps.space import read_space
from tests.orchestration.two_stages import WORDS, TwoStages, as_baseline


class Smoothing(TwoStages):
    """Reads a setting in a step of the first stage."""

    def updates(self, batch: Batch) -> Iterator[Update]:
        if self.stage.name == "anchors":
            assert self.settings.label_smoothing >= 0
        yield from super().updates(batch)


@pytest.mark.parametrize(
    ("key", "shared"),
    [
        ("method.label_smoothing", True),  # read in the second stage alone
        ("method.width", False),  # read where the method is built
        ("optimizers.model.lr", True),
        ("optimizers.anchors.lr", False),
        ("batch.images", False),
        ("epochs", False),
    ],
)
def test_a_stage_that_no_swept_setting_reaches_is_shared(key: str, shared: bool) -> None:
    with as_baseline():
        experiment = load("baseline-demo", ["data=/given", *WORDS])
        assert shared_stage(experiment, [key]) == ("anchors" if shared else None)
        assert shared_stage(experiment, ["optimizers.anchors.lr", key]) is None


def test_a_setting_that_the_first_stage_reads_keeps_it_apart() -> None:
    with as_baseline(Smoothing):
        experiment = load("baseline-demo", ["data=/given", *WORDS])
        assert shared_stage(experiment, ["method.label_smoothing"]) is None


def test_stages_that_change_the_descriptor_are_never_shared() -> None:
    experiment = load("cal-demo", ["data=/given"])
    assert shared_stage(experiment, ["method.epsilon"]) is None


@pytest.mark.parametrize("name", ["ccaf", "ccaf-lambda-dis"])
def test_the_prompts_of_ccaf_are_shared_by_its_sweeps(name: str) -> None:
    ready = read_sweep(name)
    keys = read_space(ready["over"])
    assert shared_stage(load(ready["experiment"], ["data=/given"]), keys) == "prompts"
    assert shared_stage(load(ready["experiment"], ["data=/given"]), ["method.prompt_tokens"]) is None


def test_a_sweep_behind_anothers_stage_shares_none() -> None:
    with as_baseline():
        experiment = load("baseline-demo", ["data=/given", *WORDS, "init_from=/some/run@anchors"])
        assert shared_stage(experiment, ["optimizers.model.lr"]) is None


def test_the_random_state_is_as_before() -> None:
    torch.manual_seed(5)
    expected = torch.randn(2)
    torch.manual_seed(5)
    with as_baseline():
        shared_stage(load("baseline-demo", ["data=/given", *WORDS]), ["method.label_smoothing"])
    assert torch.equal(torch.randn(2), expected)
