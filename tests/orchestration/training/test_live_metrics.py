"""Rank 0's gauges: the right value and tags of each step, and none outside a cluster."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.util.metrics import Gauge

from datasets.storage.store import open_store
from orchestration.config.load import load
from orchestration.engine.chain import continued
from orchestration.engine.loop import StepReport, throughput
from orchestration.engine.strategies.single_process import SingleProcess
from orchestration.tracking.journal import Journal, environment
from orchestration.training import live_metrics
from orchestration.training.live_metrics import HELP, OF_A_STEP, STARTED, LiveMetrics
from orchestration.training.recorder import Recorder

Shown = list[tuple[str, float, dict[str, str]]]


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Shown:
    """What Ray's gauges are set to, in order."""
    values: Shown = []

    def note(self: Any, value: float, tags: dict[str, str] | None = None) -> None:
        values.append((self.info["name"], value, self.info["default_tags"] | (tags or {})))

    monkeypatch.setattr(Gauge, "set", note)
    return values


def report(unit: str) -> StepReport:
    """As the loop makes it."""
    return StepReport(0, 0, 0, "identity", {"loss/model": 1.0} | throughput(unit, 64, 0.5, 0.125))


def test_a_step_is_shown_with_the_runs_id_and_name(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_metrics, "is_in_cluster", lambda: True)
    before = time.time()
    metrics = LiveMetrics("s3://reid/runs/0123", "cal-ltcc")
    tags = {"run": "0123", "experiment": "cal-ltcc"}
    [(name, started, of_run)] = shown
    assert (name, of_run) == (STARTED, tags)
    assert before <= started <= time.time()
    shown.clear()
    metrics.show(report("images"))
    assert shown == [
        ("redress_images_per_second", 128.0, tags),
        ("redress_data_wait_seconds", 0.125, tags),
        ("redress_step_seconds", 0.5, tags),
    ]


def test_a_stage_that_reads_no_images_shows_no_images(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_metrics, "is_in_cluster", lambda: True)
    metrics = LiveMetrics("/runs/0123", "ccaf")
    shown.clear()
    metrics.show(report("rows"))
    assert [name for name, *_ in shown] == ["redress_data_wait_seconds", "redress_step_seconds"]


def test_memory_is_shown_where_there_is_a_gpu(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_metrics, "is_in_cluster", lambda: True)
    monkeypatch.setattr(live_metrics, "gpu_memory", lambda: 7 << 30)
    metrics = LiveMetrics("/runs/0123", "cal")
    metrics.show(report("images"))
    assert ("redress_gpu_memory_bytes", 7 << 30, {"run": "0123", "experiment": "cal"}) in shown


@pytest.mark.parametrize("ray", [None, SimpleNamespace(is_initialized=lambda: False)])
def test_without_a_cluster_nothing_is_shown(ray: object, shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", ray)  # others of this process may have connected to one
    LiveMetrics("/runs/0123", "cal").show(report("images"))
    assert shown == []


@pytest.mark.parametrize("is_first", [True, False])
def test_of_the_ranks_of_a_training_the_first_shows_its_steps(
    is_first: bool, shown: Shown, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_metrics, "is_in_cluster", lambda: True)
    experiment = load("baseline-demo", ["data=/given", "batch={people: 4, images: 2, lanes: 2}"])
    store = open_store(str(tmp_path / "0123"))
    strategy = SingleProcess()
    journal = Journal(store, continued(None, environment(experiment, strategy), 0)) if is_first else None
    recorder = Recorder(store, experiment, {}, [], strategy, journal, 0)
    recorder.on_step(report("images"))
    assert {name for name, *_ in shown} == ({STARTED, *OF_A_STEP} if is_first else set())
    assert {tags["run"] for *_, tags in shown} <= {"0123"}
    if journal:
        journal.close()


def test_every_gauge_is_explained_and_ray_takes_its_name() -> None:
    assert OF_A_STEP.keys() < HELP.keys()
    for name in HELP:
        assert not Gauge(name, description=HELP[name])._discard_metric
