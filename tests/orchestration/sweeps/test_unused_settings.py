"""Which settings a method uses is found by running it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from methods import METHODS
from methods.method import Stage, Survey
from orchestration.config.load import load, recipes
from orchestration.sweeps import unused_settings as module
from orchestration.sweeps.unused_settings import exercise, unused_settings, why_without_effect
from tests.orchestration.two_stages import WORDS, TwoStages, as_baseline

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("name", [name for name in recipes() if name.endswith("-demo")])
def test_the_synthetic_batch_suits_every_method(name: str) -> None:
    settings = load(name, ["data=/given"]).method
    assert list(exercise(METHODS[settings.name], settings))


def test_settings_of_a_loss_without_weight_are_not_used() -> None:
    unpaired = load("pixel-sampling-demo", ["data=/given", "method.consistency_weight=0"])
    assert "does not use it" in (why_without_effect("method.consistency", unpaired) or "")
    paired = load("pixel-sampling-demo", ["data=/given"])
    assert why_without_effect("method.consistency", paired) is None
    assert "does not use it" in (why_without_effect("method.finetune_from_epoch", paired) or "")


class Reading(TwoStages):
    """Reads a setting where a stage begins."""

    def begin_stage(self, stage: Stage, survey: Survey) -> None:
        super().begin_stage(stage, survey)
        assert self.settings.identity_margin >= 0


def test_what_a_stage_reads_where_it_begins_is_used() -> None:
    words = ["data=/given", *WORDS]
    with as_baseline():
        assert "identity_margin" in unused_settings(load("baseline-demo", words))
    with as_baseline(Reading):
        assert "identity_margin" not in unused_settings(load("baseline-demo", words))


class Failing(TwoStages):
    def begin_stage(self, stage: Stage, survey: Survey) -> None:
        raise LookupError(stage.name)


def test_a_method_that_fails_on_the_synthetic_batch_says_so() -> None:
    with as_baseline(Failing), pytest.raises(LookupError, match="anchors"):
        unused_settings(load("baseline-demo", ["data=/given", *WORDS]))


def bodies_of(name: str) -> list[str]:
    """Those of ResNets, where the recipe's method takes them."""
    takes = get_args(type(load(name, ["data=/given"]).method).model_fields["body"].annotation)
    return [body for body in takes if not body.startswith("clip-")] or list(takes)


@pytest.mark.parametrize(
    ("name", "body"), [(name, body) for name in recipes() if name.endswith("-demo") for body in bodies_of(name)]
)
def test_what_is_used_does_not_depend_on_how_wide_the_network_is(
    name: str, body: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = load(name, ["data=/given", f"method.body={body}"])
    narrow = unused_settings(experiment)
    monkeypatch.setattr(module, "NARROW", {})
    assert narrow == unused_settings(experiment) != set()


GROWTH = """
import resource, sys
from orchestration.config.load import load
from orchestration.sweeps.unused_settings import why_without_effect

def peak_kb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

experiment = load("ifd-ltcc", ["data=/given"])
before = peak_kb()
assert why_without_effect("method.tau", experiment) is None
print((peak_kb() - before) >> 10)
"""


def test_running_a_method_with_two_resnet_50_takes_no_memory_worth_mentioning() -> None:
    done = subprocess.run([sys.executable, "-c", GROWTH], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 100, "MiB; of the networks at full width it is 330"
