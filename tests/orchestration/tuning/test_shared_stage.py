"""A stage that a sweep's points share is trained once from each seed, and trials behind it end as if they had trained it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

from datasets.conversion.holdout import holdout
from datasets.storage.store import open_store
from orchestration.config.load import Experiment, load
from orchestration.engine import checkpoint
from orchestration.progress import Progress
from orchestration.sweeps.settings import SweepSettings, plan
from orchestration.sweeps.shared_stage import shared_stage
from orchestration.tracking import tracked_run
from orchestration.training import preparation, train, worker
from orchestration.tuning import sweep_runs
from orchestration.tuning.shared_stage import train_shared_stage
from tests.orchestration.two_stages import FIRST, WORDS, as_baseline
from tests.tiny import tiny_dataset

OVER = ("optimizers.model.lr=[1e-3, 1e-2]",)


@pytest.fixture(autouse=True)
def _two_stages() -> Iterator[None]:
    with as_baseline():
        yield


@pytest.fixture(scope="module")
def held(place: Path) -> str:
    tiny_dataset(place / "data", persons=12, clothes=2, images=4, test_persons=2)
    holdout(str(place / "data"), str(place / "held"), persons=3)
    return str(place / "held")


def experiment(held: str, place: Path) -> Experiment:
    return load("baseline-demo", [
        f"data={held}", f"storage={place / 'runs'}", "workers=1", "epochs=3", "batch={people: 4, images: 2, lanes: 2}",
        "augment.height=32", "augment.width=16", "method.width=0.0625", *WORDS,
    ])  # fmt: skip


def test_it_is_trained_once_from_each_seed(held: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = experiment(held, place)
    planned = plan(wanted, SweepSettings(over=OVER, seeds=2))
    prepared = preparation.prepare(wanted)
    stage = shared_stage(wanted, planned.space)
    assert stage == "anchors"
    sweep = sweep_runs.start_sweep(wanted, prepared.dataset.fingerprint, {"over": list(OVER), "search": "grid"})
    calls: list[int] = []

    def fit(
        prepared: preparation.Prepared, run: tracked_run.TrackedRun, config: worker.WorkerConfig, _: Progress
    ) -> None:
        """What `train.fit` does, without Ray."""
        calls.append(prepared.experiment.seed)
        worker.run(config, open_store(run.storage), torch.device("cpu"))

    monkeypatch.setattr(train, "fit", fit)
    ends = train_shared_stage(planned, prepared, sweep.run_id, stage, Progress())
    assert list(ends) == calls == list(planned.seeds)
    assert train_shared_stage(planned, prepared, sweep.run_id, stage, Progress()) == ends, "a resumed sweep takes them"
    assert calls == list(planned.seeds)
    children = MlflowClient().search_runs(
        [MlflowClient().get_run(sweep.run_id).info.experiment_id], f"tags.`mlflow.parentRunId` = '{sweep.run_id}'"
    )
    assert {run.data.tags["kind"] for run in children} == {"shared stage"}
    assert all(run.info.status == "FINISHED" for run in children)
    assert list(sweep_runs.children(MlflowClient(), sweep.run_id)) == [], "they are no trials"
    for seed, end in ends.items():
        behind(wanted, prepared, seed, end, place)


def behind(wanted: Experiment, prepared: preparation.Prepared, seed: int, end: str, place: Path) -> None:
    """A trial behind the shared stage has the weights of a run that trained both stages."""
    own = wanted.model_copy(update={"seed": seed})
    trial = own.model_copy(update={"init_from": end})
    address, stage = end.rsplit("@", 1)
    found = checkpoint.find_stage_end(address, stage)
    assert found.progress.epoch == FIRST
    states = []
    for name, one, init_from in (("whole", own, None), ("trial", trial, found.address)):
        store = place / f"{name}-{seed}"
        config = worker.WorkerConfig(one.resolved(), str(store), prepared.facts, init_from=init_from)
        worker.run(config, open_store(str(store)), torch.device("cpu"))
        newest = checkpoint.latest(open_store(str(store)))
        assert newest is not None
        states.append(newest.digests)
    assert states[0] == states[1]
