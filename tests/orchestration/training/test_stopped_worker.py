"""A training of which a worker's process was stopped: named, restarted, and it ends as if nothing had happened."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient

from datasets.storage.store import open_store
from orchestration.config.load import Experiment, load
from orchestration.engine import checkpoint
from orchestration.tracking.journal import read_steps
from orchestration.training.train import TrainingFailedError, train
from orchestration.workers.hang import read_summary
from tests.tiny import tiny_dataset

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def data(place: Path) -> str:
    return tiny_dataset(place / "data", persons=30, clothes=2, images=6, test_persons=2)


def experiment(data: str, storage: Path, *words: str) -> Experiment:
    return load("cal-demo", [
        f"data={data}", f"storage={storage}", "epochs=2", "seed=3", "workers=3", "resources.cpus=0.5", "hang_s=15",
        "batch.people=6", "batch.images=2", "batch.lanes=3", "checkpoint.every_batches=4",
        "augment.height=32", "augment.width=16", "method.width=0.125", "method.adversarial_from_epoch=1",
        "optimizers.model.schedule=null", *words,
    ])  # fmt: skip


def strike(storage: Path, rank: int, steps: int, number: signal.Signals = signal.SIGSTOP) -> int:
    """Send a signal to the process of a rank once the only run below `storage` has made so many steps; its id."""
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline:
        for run in storage.glob("*"):
            if len(read_steps(open_store(str(run)))) >= steps:
                pid = worker_pid(rank)
                os.kill(pid, number)
                return pid
        time.sleep(0.05)
    raise TimeoutError(f"no run below {storage} came to {steps} steps")


def worker_pid(rank: int) -> int:
    import ray
    from ray.train.v2._internal.state.state_actor import get_state_actor

    state: Any = get_state_actor()
    runs: Any = ray.get(state.get_train_run_attempts.remote())
    attempts = [attempt for attempts in runs.values() for attempt in attempts.values()]
    newest = max(attempts, key=lambda attempt: attempt.start_time_ns)
    return next(worker.pid for worker in newest.workers if worker.world_rank == rank)


def final_state(run: str) -> dict[str, torch.Tensor]:
    last = checkpoint.find(run)
    return {f"{file}/{name}": t for file in checkpoint.FILES for name, t in checkpoint.load_tensors(last, file).items()}


def test_a_stopped_worker_is_named_and_the_run_ends_with_the_bits_of_an_undisturbed_one(
    data: str, place: Path, ray_cluster: str
) -> None:
    undisturbed = train(experiment(data, place / "undisturbed"))
    stopped: list[int] = []
    storage = place / "stopped"
    thread = threading.Thread(target=lambda: stopped.append(strike(storage, 1, 6)), daemon=True)
    thread.start()
    result: dict[str, Any] = train(experiment(data, storage))
    thread.join()
    found = read_summary(open_store(result["run"]))
    assert found is not None
    assert found.ranks == [1]
    assert f"(process {stopped[0]}, last heard " in found.message
    assert "its process does not run, at " in found.message
    tags = MlflowClient(os.environ["MLFLOW_TRACKING_URI"]).get_run(result["run_id"]).data.tags
    assert (tags["hangs"], tags["last_hang"]) == ("1", found.message)
    expected, ended = final_state(undisturbed["run"]), final_state(result["run"])
    assert expected.keys() == ended.keys()
    assert [name for name in expected if not torch.equal(expected[name], ended[name])] == []


SGD = [f"optimizers.{name}={{name: sgd, lr: 0.01}}" for name in ("model", "clothes_classifier")]
TWO = ["workers=2", "batch.people=4", "batch.lanes=2", *SGD]


@pytest.mark.long
def test_a_killed_worker_under_zero_ends_with_the_bits_of_data_parallel(
    data: str, place: Path, ray_cluster: str
) -> None:
    """Restarted from plain tensors, in Ray's workers."""
    data_parallel = final_state(train(experiment(data, place / "data-parallel", *TWO))["run"])
    storage = place / "zero"
    thread = threading.Thread(target=lambda: strike(storage, 1, 6, signal.SIGKILL), daemon=True)
    thread.start()
    result = train(experiment(data, storage, *TWO, "strategy.name=zero"))
    thread.join()
    tags = MlflowClient(os.environ["MLFLOW_TRACKING_URI"]).get_run(result["run_id"]).data.tags
    assert tags["restarts"] == "1"
    ended = final_state(result["run"])
    assert ended.keys() == data_parallel.keys()
    assert [name for name, value in data_parallel.items() if not torch.equal(value, ended[name])] == []


def test_a_wrong_network_interface_ends_training_with_those_that_there_are(
    data: str, place: Path, ray_cluster: str
) -> None:
    wanted = experiment(data, place / "interface", "resources.network_interface=eth99")
    with pytest.raises(TrainingFailedError, match=r"RequestError: resources.network_interface = eth99: .* it has .*lo"):
        train(wanted)
