"""Which settings a method looks at is seen by trying it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from methods import METHODS
from orchestration.config.load import load, recipes
from orchestration.sweeps import unused_settings
from orchestration.sweeps.unused_settings import inert, try_out, unread

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("name", [name for name in recipes() if name.endswith("-demo")])
def test_the_made_up_batch_suits_every_method(name: str) -> None:
    settings = load(name, ["data=not://given"]).method
    try_out(METHODS[settings.name], settings)


def test_settings_of_a_loss_without_weight_are_not_looked_at() -> None:
    unpaired = load("pixel-sampling-demo", ["data=not://given", "method.consistency_weight=0"])
    assert "does not look at it" in (inert("method.consistency", unpaired) or "")
    paired = load("pixel-sampling-demo", ["data=not://given"])
    assert inert("method.consistency", paired) is None
    assert "does not look at it" in (inert("method.finetune_from_epoch", paired) or "")


@pytest.mark.parametrize("body", ["global", "pcb", "mgn", "hpm"])
@pytest.mark.parametrize("name", [name for name in recipes() if name.endswith("-demo")])
def test_what_is_looked_at_does_not_depend_on_how_wide_the_network_is(
    name: str, body: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = load(name, ["data=not://given", f"method.body={body}"])
    narrow = unread(experiment)
    monkeypatch.setattr(unused_settings, "NARROW", {})
    assert narrow == unread(experiment) != set()


GROWTH = """
import resource, sys
from orchestration.config.load import load
from orchestration.sweeps.unused_settings import inert

def peak_kb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

experiment = load("ifd-ltcc", ["data=not://given"])
before = peak_kb()
assert inert("method.tau", experiment) is None
print((peak_kb() - before) >> 10)
"""


def test_trying_a_method_with_two_resnet_50_takes_no_memory_worth_mentioning() -> None:
    done = subprocess.run([sys.executable, "-c", GROWTH], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 100, "MiB; of the networks at full width it is 330"
