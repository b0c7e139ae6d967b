"""A trial of a sweep in this process, as a Tune actor runs it, with faults between and within its steps."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient

from datasets.conversion.holdout import holdout
from datasets.storage.store import StoreError, open_store
from methods.method import Method
from orchestration.config.load import Experiment, load
from orchestration.engine import checkpoint
from orchestration.errors import UnreachableError
from orchestration.sweeps.settings import SweepSettings, plan
from orchestration.sweeps.state import SweepState, Trial
from orchestration.tracking import mlflow_client, tracked_run
from orchestration.tracking.journal import read_steps
from orchestration.training import stop_signal, worker
from orchestration.training.preparation import prepare
from orchestration.tuning import sweep_runs, trial_runners
from orchestration.tuning.ray_tune import to_result
from orchestration.tuning.trial import Job, SweepTrial, trainable
from orchestration.workers.hang import EXIT_STATUS
from orchestration.workers.watch import Patience, Watch, watch_of
from tests.tiny import tiny_dataset

OBJECTIVE = "clothes-changing/mAP"
VALUES = {"method.epsilon": 0.5}


@pytest.fixture(scope="module")
def experiment(place: Path) -> Experiment:
    tiny_dataset(place / "data", persons=12, clothes=2, images=4, test_persons=2)
    holdout(str(place / "data"), str(place / "held"), persons=3)
    return load("cal-demo", [
        f"data={place / 'held'}", f"storage={place / 'runs'}", "epochs=2", "workers=1", "batch.people=4", "batch.images=2",
        "batch.lanes=2", "augment.height=32", "augment.width=16", "method.width=0.125", "method.adversarial_from_epoch=1",
        "optimizers.model.schedule=null",
    ])  # fmt: skip


def begin(experiment: Experiment, retries: int = 1) -> tuple[type[SweepTrial], dict[str, Any], str]:
    """A sweep, what its actors are made of, and the configuration of one trial."""
    planned = plan(experiment, SweepSettings(over=("method.epsilon=[0.1, 0.5]",), every=1))
    prepared = prepare(experiment)
    parent = sweep_runs.start_sweep(experiment, prepared.dataset.fingerprint, asdict(planned.settings))
    job = Job(
        sweep=parent.run_id, process="1", tracking_uri=os.environ["MLFLOW_TRACKING_URI"], has_password=False,
        fingerprint=prepared.dataset.fingerprint, facts=prepared.facts, objective=OBJECTIVE, validate_every=1, waits=True,
        retries=retries, gpu=False,
    )  # fmt: skip
    resolved = planned.trial_experiment(VALUES, 1).resolved()
    config = {"values": VALUES, "seed": 1, "is_first_seed": True, "experiment": resolved}
    return trainable(job), config, parent.run_id


def read_back(sweep: str) -> SweepState:
    sweep_state = SweepState((1,))
    sweep_runs.read_back(client(), sweep, OBJECTIVE, sweep_state)
    return sweep_state


def client() -> MlflowClient:
    return MlflowClient(os.environ["MLFLOW_TRACKING_URI"])


def fail_once_in_epoch(monkeypatch: pytest.MonkeyPatch, epoch: int, times: int) -> None:
    advance, left = worker.Training.advance, [times]

    def advance_or_fail(self: worker.Training, epochs: int) -> None:
        advance(self, epochs)
        if epochs == epoch and left[0]:
            left[0] -= 1
            raise StoreError("the object store is away")

    monkeypatch.setattr(worker.Training, "advance", advance_or_fail)


def test_a_trial_that_failed_goes_on_in_another_process_to_the_same_score(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    actor, config, undisturbed = begin(experiment)
    smooth = actor(dict(config))
    assert [smooth.train()["done"], smooth.train()["done"]] == [False, True]
    smooth.stop()
    actor, config, sweep = begin(experiment)
    fail_once_in_epoch(monkeypatch, epoch=2, times=1)
    first = actor(dict(config))
    assert first.train()["epoch"] == 1
    with pytest.raises(StoreError):
        first.train()
    first.stop()
    second = actor(dict(config))
    result = second.train()
    second.stop()
    assert (result["done"], result["state"], result["epoch"]) == (True, "finished", 2)
    [child] = list(sweep_runs.children(client(), sweep))
    assert child.info.status == "FINISHED"
    [other] = list(sweep_runs.children(client(), undisturbed))
    name = f"validation/{OBJECTIVE}"
    mine, theirs = (client().get_metric_history(run.info.run_id, name) for run in (child, other))
    assert [(p.step, p.value) for p in mine] == [(p.step, p.value) for p in theirs]
    ends = [checkpoint.load_tensors(checkpoint.find(run.data.tags["storage"]), file) for run in (child, other)
            for file in checkpoint.FILES]  # fmt: skip
    assert all(torch.equal(ends[0][key], ends[2][key]) for key in ends[0])
    configuration = read_back(sweep).configuration(VALUES)
    assert configuration.score is not None
    assert (configuration.score.mean, configuration.results[1].state) == (child.data.metrics[name], "finished")
    assert configuration.results[1].curve.keys() == {1, 2}


def test_a_trial_that_keeps_failing_is_reported_with_its_reason_and_is_no_result_to_go_on_from(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    actor, config, sweep = begin(experiment, retries=1)
    fail_once_in_epoch(monkeypatch, epoch=1, times=9)
    first = actor(dict(config))
    with pytest.raises(StoreError):
        first.train()
    first.stop()
    second = actor(dict(config))
    result = second.train()
    second.stop()
    assert (result["done"], result["state"]) == (True, "failed")
    assert to_result(result).reason == "StoreError: the object store is away"
    [child] = list(sweep_runs.children(client(), sweep))
    assert (child.info.status, child.data.tags["sweep.reason"]) == ("FAILED", "StoreError: the object store is away")
    assert read_back(sweep).configuration(VALUES).results == {}


def test_a_stopped_first_seed_stays_stopped_though_mlflow_does_not_know(experiment: Experiment) -> None:
    actor, config, sweep = begin(experiment)
    first = actor(dict(config))
    result = first.train()
    stop_signal.send_stop(open_store(result["storage"]), 1, "is below the threshold of --stop")
    first.let_go()  # its process is killed before it reads the stop signal
    second = actor(dict(config))
    result = second.train()
    second.stop()
    assert (result["done"], result["state"], result["epoch"]) == (True, "stopped", 1)
    configuration = read_back(sweep).configuration(VALUES)
    assert configuration.stopped
    assert configuration.score is not None
    assert configuration.score.mean == result["score"] == json.loads(result["curve"])["1"]
    steps = read_steps(open_store(result["storage"]))
    assert {record["epoch"] for _, record in steps} == {0}


def test_an_actor_that_is_reused_leaves_the_earlier_trial_as_it_was_decided(experiment: Experiment) -> None:
    actor, config, sweep = begin(experiment)
    trial = actor(dict(config))
    result = trial.train()
    stop_signal.send_stop(open_store(result["storage"]), 1, "is below the threshold of --stop")
    other = {"method.epsilon": 0.1}
    resolved = (
        plan(experiment, SweepSettings(over=("method.epsilon=[0.1, 0.5]",))).trial_experiment(other, 1).resolved()
    )
    assert trial.reset({"values": other, "seed": 1, "is_first_seed": True, "experiment": resolved})
    assert trial.train()["epoch"] == 1
    trial.stop()  # as when the sweep is ended
    states = {child.data.tags["point"]: child for child in sweep_runs.children(client(), sweep)}
    assert states[Trial(VALUES, 1).configuration_id].data.tags["sweep.state"] == "stopped"
    assert states[Trial(VALUES, 1).configuration_id].info.status == "FINISHED"
    assert states[Trial(other, 1).configuration_id].info.status == "KILLED"
    assert read_back(sweep).configuration(other).results == {}


def test_a_trial_starts_from_a_run_as_a_training_does(experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    actor, config, _ = begin(experiment)
    first = actor(dict(config))
    run = first.train()
    first.stop()
    started: list[worker.WorkerConfig] = []
    load_initial_weights = worker.load_initial_weights

    def watched(config: worker.WorkerConfig, method: Method) -> None:
        load_initial_weights(config, method)
        started.append(config)

    monkeypatch.setattr(worker, "load_initial_weights", watched)
    actor, config, _ = begin(experiment.model_copy(update={"init_from": run["run_id"]}))
    second = actor(dict(config))
    assert second.train()["state"] == "running"
    second.stop()
    assert [config.init_from for config in started] == [checkpoint.find(run["storage"]).address]


def test_a_trial_waits_for_a_tracking_server_that_is_away(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect, refusals = mlflow_client.connect, [2]

    def connect_later(uri: str | None = None, **options: Any) -> MlflowClient:
        if refusals[0]:
            refusals[0] -= 1
            raise UnreachableError("MLflow cannot be reached")
        return connect(uri)

    actor, config, sweep = begin(experiment)
    monkeypatch.setattr(mlflow_client, "connect", connect_later)
    trial = actor(dict(config))
    assert trial.train()["epoch"] == 1
    trial.stop()
    assert (refusals, len(list(sweep_runs.children(client(), sweep)))) == ([0], 1)


def test_a_trial_whose_end_mlflow_did_not_hear_is_closed_as_it_ended(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    actor, config, sweep = begin(experiment)
    trial = actor(dict(config))
    trial.train()
    with monkeypatch.context() as patch:
        patch.setattr(tracked_run.TrackedRun, "deliver", lambda *_, **__: False)
        assert trial.train()["state"] == "finished"
    trial.stop()
    sweep_runs.close_open_runs(client(), sweep, "FAILED")
    [child] = list(sweep_runs.children(client(), sweep))
    assert (child.info.status, child.data.tags["sweep.state"]) == ("FINISHED", "finished")


def test_a_trial_that_stands_still_ends_its_process_and_the_next_attempt_says_where(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only while it trains: Tune may let a trial wait as long as it likes between two scores."""
    ended: list[int] = []
    patience = [Patience(step_s=120, long_s=120)]
    monkeypatch.setattr(trial_runners, watch_of.__name__, lambda store, _: Watch(store, patience[0], end=ended.append))
    actor, config, sweep = begin(experiment)
    first = actor(dict(config))
    assert first.train()["epoch"] == 1
    assert isinstance(first.runner, trial_runners.InProcessRunner)
    assert first.runner.training.watch.closed.is_set()
    patience[0] = Patience(step_s=1, long_s=1)
    with monkeypatch.context() as patch:
        patch.setattr(worker.Training, "advance", lambda *_: wait_for_the_end(ended))
        with pytest.raises(StoreError):
            first.train()
    assert ended == [EXIT_STATUS]
    first.stop()
    patience[0] = Patience(step_s=120, long_s=120)
    second = actor(dict(config))
    while not (result := second.train())["done"]:
        pass
    assert result["state"] == "finished"
    second.stop()
    [child] = list(sweep_runs.children(client(), sweep))
    assert "training stood still for" in child.data.tags["sweep.hang"]
    assert "test_trial.py" in child.data.tags["sweep.hang"]


def wait_for_the_end(ended: list[int]) -> bool:
    deadline = time.monotonic() + 60
    while not ended and time.monotonic() < deadline:
        time.sleep(0.05)
    raise StoreError("the process would have ended")
