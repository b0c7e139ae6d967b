"""A run's stages in its storage: checkpoints at their ends, runs that end or begin with one, milestones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from datasets.storage.store import Store, open_store
from orchestration.config.load import Experiment, load
from orchestration.engine import checkpoint
from orchestration.engine.loop import TrainingProgress
from orchestration.errors import RequestError
from orchestration.tracking import kept_stages
from orchestration.tracking.journal import read_steps
from orchestration.training import preparation
from orchestration.training.worker import Training, ValidationSchedule, WorkerConfig, run
from tests.orchestration.two_stages import FIRST, WORDS, TwoStages, as_baseline
from tests.tiny import tiny_dataset

EPOCHS = 5


@pytest.fixture(autouse=True)
def _two_stages() -> Iterator[None]:
    with as_baseline():
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_dataset(tmp_path_factory.mktemp("data") / "tiny", persons=12, clothes=2, images=3)


def experiment(data: str, *overrides: str) -> Experiment:
    return load("baseline-demo", [
        f"data={data}", "workers=1", f"epochs={EPOCHS}", "batch={people: 4, images: 2, lanes: 2}", "augment.height=32",
        "augment.width=16", "method.width=0.0625", *WORDS, *overrides,
    ])  # fmt: skip


def trained(wanted: Experiment, place: Path, init_from: str | None = None) -> tuple[Store, TrainingProgress]:
    config = WorkerConfig(wanted.resolved(), str(place), preparation.prepare(wanted).facts, init_from=init_from)
    store = open_store(str(place))
    return store, run(config, store, torch.device("cpu"))


def ends(store: Store) -> dict[str | None, int]:
    found = [checkpoint.read(store, folder) for folder in checkpoint.complete_folders(store)]
    return {one.ends_stage: one.progress.epoch for one in found}


def test_the_checkpoint_at_the_end_of_each_stage_is_kept(data: str, tmp_path: Path) -> None:
    store, progress = trained(experiment(data, "checkpoint.keep=1", "checkpoint.every_epochs=10"), tmp_path)
    assert progress.epoch == EPOCHS
    assert ends(store) == {"anchors": FIRST, "identity": EPOCHS}


def test_until_ends_a_run_with_a_stage_and_it_may_go_on(data: str, tmp_path: Path) -> None:
    wanted = experiment(data, "until=anchors")
    assert preparation.num_steps(wanted, preparation.prepare(wanted).dataset) == FIRST * (72 // 12)
    store, progress = trained(wanted, tmp_path / "part")
    assert progress == TrainingProgress(FIRST, 0, 12)
    assert ends(store)["anchors"] == FIRST
    whole = experiment(data)
    preparation.check_same_experiment(whole, store)
    store, progress = trained(whole, tmp_path / "part")
    other, _ = trained(whole, tmp_path / "whole")
    assert progress.epoch == EPOCHS
    assert digests(store) == digests(other)


def digests(store: Store) -> dict[str, str]:
    found = checkpoint.latest(store)
    assert found is not None
    return found.digests


def test_a_run_behind_anothers_stage_is_that_run_gone_on(data: str, tmp_path: Path) -> None:
    first, _ = trained(experiment(data, "until=anchors"), tmp_path / "first")
    whole, _ = trained(experiment(data), tmp_path / "whole")
    wanted = experiment(data, f"init_from={first.address}@anchors")
    prepared = preparation.prepare(wanted)
    assert prepared.num_steps == preparation.prepare(experiment(data)).num_steps - 12
    assert wanted.init_from is not None
    address, reset = preparation.check_initial_weights(prepared, wanted.init_from)
    assert reset == []
    behind, progress = trained(wanted, tmp_path / "behind", address)
    assert progress == TrainingProgress(EPOCHS, 0, prepared.num_steps)
    assert digests(behind) == digests(whole)


def test_a_stage_of_other_data_or_of_nobody_is_refused(data: str, tmp_path: Path) -> None:
    first, _ = trained(experiment(data, "until=anchors"), tmp_path / "first")
    other = tiny_dataset(tmp_path / "other", persons=12, clothes=2, images=3, seed=5)
    wanted = experiment(other, f"init_from={first.address}@anchors")
    with pytest.raises(
        RequestError, match=r"stage 'anchors' was trained on other data .*Train the stage on these data"
    ):
        preparation.check_initial_weights(preparation.prepare(wanted), str(wanted.init_from))
    with pytest.raises(RequestError, match="nothing is left to train behind stage 'identity'"):
        experiment(data, f"init_from={first.address}@identity")
    with pytest.raises(RequestError, match=r"has no stage 'prompts'\. It has anchors, identity"):
        experiment(data, f"init_from={first.address}@prompts")
    first.delete_tree(checkpoint.complete_folders(first)[-1])
    wanted = experiment(data, f"init_from={first.address}@anchors")
    with pytest.raises(RequestError, match=r"no checkpoint at the end of stage 'anchors'"):
        preparation.check_initial_weights(preparation.prepare(wanted), str(wanted.init_from))


def test_epochs_that_change_no_descriptor_are_not_scored(data: str, tmp_path: Path) -> None:
    wanted = experiment(data)
    config = WorkerConfig(wanted.resolved(), str(tmp_path), preparation.prepare(wanted).facts)
    config = replace(config, validation=ValidationSchedule(every=2, waits=False))
    run_of = Training(config, open_store(str(tmp_path)), torch.device("cpu"))
    assert isinstance(run_of.method, TwoStages)
    assert run_of.milestones() == [FIRST + 2, EPOCHS]
    run_of.close()


def test_rows_must_be_shared_equally(data: str) -> None:
    with pytest.raises(RequestError, match=r"8 workers cannot share the 12 rows of a batch of stage 'anchors' equally"):
        experiment(data, "workers=8", "batch={people: 8, images: 2, lanes: 8}")


def test_what_stages_told_apart_is_in_the_journal_and_the_storage(data: str, tmp_path: Path) -> None:
    """Also of a run that pauses at a milestone and ends with a stage."""
    store, _ = trained(experiment(data, "until=anchors"), tmp_path)
    metrics = [record["metrics"] for _, record in read_steps(store)]
    assert ["auc/anchors" in one for one in metrics] == [False] * (len(metrics) - 1) + [True]
    assert kept_stages.stages(store) == ["anchors"]
    assert kept_stages.read(store, "anchors")["anchors"].auc == metrics[-1]["auc/anchors"]
