"""A run is resumed only as a run that a fresh start would also give."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from datasets.errors import DataError
from datasets.shards.dataset import Dataset
from datasets.storage.store import StoreError, open_store
from orchestration.config.load import Experiment, load
from orchestration.engine import checkpoint
from orchestration.engine.schedule import factor
from orchestration.errors import RequestError
from orchestration.sweeps.settings import SweepSettings
from orchestration.tracking import tracked_run
from orchestration.training import train as module
from orchestration.training.preparation import check_same_experiment
from orchestration.training.train import train
from orchestration.tuning.tune import tune
from tests.orchestration.checkpoints import checkpoint_of
from tests.tiny import tiny_dataset

COSINE = "optimizers.model.schedule={name: cosine}"
MULTISTEP = "optimizers.model.schedule={name: multistep, milestones: [2]}"
CONSTANT = "optimizers.model.schedule=null"
ROOT = Path(__file__).resolve().parents[3]
Resume = Callable[..., None]


@pytest.fixture
def resume(tmp_path: Path) -> Resume:
    """`resume(began, *changed)`: check a run that began with some settings under changed ones."""
    data = tiny_dataset(tmp_path / "data")
    small = ["method.backbone=resnet18", "method.width=0.0625", "workers=1", "batch={people: 4, images: 2, lanes: 2}"]

    def described(*words: str) -> Experiment:
        return load("baseline-demo", [f"data={data}", f"storage={tmp_path}", *small, *words])

    def check(began: tuple[str, ...], *changed: str) -> None:
        checkpoint_of(described(*began), str(tmp_path / "run"), seed=1)
        check_same_experiment(described(*began, *changed), open_store(str(tmp_path / "run")))

    return check


def test_a_run_without_a_checkpoint_keeps_the_settings_that_it_was_created_with(tmp_path: Path) -> None:
    data, run = tiny_dataset(tmp_path / "data"), open_store(str(tmp_path / "run"))
    began = load("baseline-demo", [f"data={data}", "method.width=0.0625"])
    run.write("artifacts/experiment.json", json.dumps(began.resolved()).encode())
    check_same_experiment(began, run)
    with pytest.raises(RequestError, match="seed: began with 1, now 2"):
        check_same_experiment(load("baseline-demo", [f"data={data}", "method.width=0.0625", "seed=2"]), run)


@pytest.mark.parametrize("saved", [False, True])
def test_a_run_that_was_killed_before_its_first_checkpoint_still_begins_with_its_weights(
    saved: bool, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run's id is no address: workers get that of the checkpoint."""
    data = tiny_dataset(tmp_path / "data")
    words = [f"data={data}", f"storage={place / 'runs'}", "method.width=0.0625", "workers=1", "weights=null"]
    words += ["batch={people: 4, images: 2, lanes: 2}"]
    first = tracked_run.create_run(load("baseline-demo", words).resolved(), Dataset.open(data).fingerprint)
    from_it = load("baseline-demo", [*words, f"init_from={first.run_id}"])
    second = tracked_run.create_run(from_it.resolved(), Dataset.open(data).fingerprint)
    for run in (first, *([second] if saved else [])):
        checkpoint_of(load("baseline-demo", words), run.storage, seed=1)
    given: list[str | None] = []

    def carry_out(prepared: object, run: object, init_from: str | None, *_: object) -> dict[str, Any]:
        given.append(init_from)
        return {}

    monkeypatch.setattr(module, "carry_out", carry_out)
    monkeypatch.setattr(module.cluster, "connect", lambda say: None)
    monkeypatch.setattr(module.cluster, "check_resources", lambda *_: None)
    module.train(from_it, resume=second.run_id)
    assert given == [None if saved else checkpoint.find(first.storage).address]


HOLDER = """
import sys
from datasets.shards.exclusive import exclusive
with exclusive(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("resume_in", [train, tune])
def test_a_run_that_another_process_is_at_work_on_is_not_resumed(
    resume_in: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = str(tmp_path / "run")
    experiment = load("baseline-demo", [f"data={tiny_dataset(tmp_path / 'data')}", "method.width=0.0625"])
    monkeypatch.setattr(tracked_run, "open_run", lambda run: SimpleNamespace(storage=storage))
    more = [SweepSettings(over=("seed=[1, 2]",), register=None)] if resume_in is tune else []
    command = [sys.executable, "-c", HOLDER, storage]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(DataError, match=rf"process {holder.pid} is writing to .*run; wait for it"):
            resume_in(experiment, *more, resume="x")
        holder.communicate()


@pytest.mark.parametrize("schedule", [MULTISTEP, CONSTANT])
def test_a_run_may_get_longer_where_no_learning_rate_depends_on_its_length(resume: Resume, schedule: str) -> None:
    resume(("epochs=3", schedule), "epochs=6")


def test_a_cosine_over_all_epochs_is_not_made_longer(resume: Resume) -> None:
    told = r"epochs: began with 3, now 6: the schedule of optimizers.model depends on the number of epochs"
    with pytest.raises(RequestError, match=told):
        resume(("epochs=3", COSINE), "epochs=6")


@pytest.mark.parametrize("schedule", [COSINE, CONSTANT])
def test_no_run_gets_shorter(resume: Resume, schedule: str) -> None:
    with pytest.raises(RequestError, match=r"epochs: began with 3, now 1: a run can be made longer, not shorter"):
        resume(("epochs=3", schedule), "epochs=1")


def test_the_number_of_workers_stays_where_each_normalises_its_own_share(resume: Resume) -> None:
    resume((), "workers=2")
    with pytest.raises(RequestError, match="workers: began with 1, now 2"):
        resume(("sync_batch_norm=false",), "workers=2")


def test_schedules_say_whether_they_depend_on_the_number_of_epochs(tmp_path: Path) -> None:
    words = [f"data={tmp_path}", "method.width=0.0625", "epochs=12"]
    for schedule in (COSINE, MULTISTEP):
        found = load("baseline-demo", [*words, schedule]).optimizers["model"].schedule
        assert found is not None
        short, long = ([factor(found, epoch, epochs) for epoch in range(3)] for epochs in (3, 6))
        assert (short != long) is found.depends_on_length


@pytest.mark.parametrize("can_be_named", [True, False])
def test_a_run_is_told_before_it_trains_and_ends_where_that_fails(
    can_be_named: bool, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [f"data={tiny_dataset(tmp_path / 'data')}", f"storage={place / 'runs'}", "method.width=0.0625", "workers=1"]
    words += ["batch={people: 4, images: 2, lanes: 2}", "weights=null"]
    told: list[str] = []

    def tell(run: str) -> None:
        told.append(run)
        if not can_be_named:
            raise StoreError("the disk is full")

    def fit(prepared: object, run: tracked_run.TrackedRun, *_: object) -> None:
        assert told == [run.storage]
        raise module.TrainingFailedError("enough")

    monkeypatch.setattr(module, "fit", fit)
    monkeypatch.setattr(module.cluster, "connect", lambda say: None)
    monkeypatch.setattr(module.cluster, "check_resources", lambda *_: None)
    with pytest.raises(module.TrainingFailedError if can_be_named else StoreError):
        module.train(load("baseline-demo", words), on_run=tell)
    run = tracked_run.open_run(told[0])
    assert run.delivery.client.get_run(run.run_id).info.status == "FAILED"
