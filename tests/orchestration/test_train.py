"""`redress train` end to end on Ray workers: through killed processes to the same bits and the same history."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient

from datasets.store import open_store
from orchestration import checkpoint
from orchestration.experiment import Experiment, load
from orchestration.journal import read_steps
from orchestration.train import train
from tests.tiny import tiny_dataset

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

EPOCHS = 2


@pytest.fixture(scope="module")
def data(place: Path) -> str:
    return tiny_dataset(place / "data", persons=18, clothes=2, images=6)


def wanted(data: str, storage: Path, *overrides: str) -> Experiment:
    """CAL on three workers (two would hide what a third does), checkpoints in mid-epoch."""
    settings = [
        f"data={data}", f"storage={storage}", f"epochs={EPOCHS}", "seed=3", "workers=3", "resources.cpus=0.5",
        "batch.people=6", "batch.images=2", "batch.lanes=3", "checkpoint.every_batches=4",
        "augment.height=32", "augment.width=16", "method.width=0.125", "method.adversarial_from_epoch=1",
        "optimizers.model.schedule=null",
    ]  # fmt: skip
    return load("cal-demo", [*settings, *overrides])


@pytest.fixture(scope="module")
def undisturbed(data: str, place: Path, ray_cluster: str) -> dict[str, Any]:
    return train(wanted(data, place / "undisturbed"))


@pytest.fixture(scope="module")
def survivor(data: str, place: Path, ray_cluster: str) -> dict[str, Any]:
    """A run that lost a worker in its first epoch, and rank 0, which keeps journal and checkpoints, in its second."""
    storage = place / "survivor"
    with meanwhile(lambda: kill_workers(storage, [(6, 2), (24, 0)])) as killed:
        result = train(wanted(data, storage))
    assert len(killed.result()) == 2
    return result


@contextmanager
def meanwhile(act: Callable[[], Any]) -> Iterator[Future[Any]]:
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(act)


def kill_workers(storage: Path, plan: list[tuple[int, int]]) -> list[int]:
    """For each (steps, rank): once the only run below `storage` has recorded so many steps, SIGKILL that worker."""
    killed = []
    for steps, rank in plan:
        wait_for_steps(storage, steps)
        killed.append(worker_pid(rank, but=killed))
        os.kill(killed[-1], signal.SIGKILL)
    return killed


def wait_for_steps(storage: Path, steps: int, timeout_s: float = 120) -> Path:
    """The folder of the run below `storage`, when its journal has so many steps."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        for run in storage.glob("*"):
            if len(read_steps(open_store(str(run)))) >= steps:
                return run
        time.sleep(0.05)
    raise TimeoutError(f"no run below {storage} came to {steps} steps")


def worker_pid(rank: int, but: list[int]) -> int:
    """The process of a rank in the newest attempt of Ray Train."""
    import ray
    from ray.train.v2._internal.state.state_actor import get_state_actor

    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        runs = ray.get(get_state_actor().get_train_run_attempts.remote())
        attempts = [attempt for attempts in runs.values() for attempt in attempts.values()]
        newest = max(attempts, key=lambda attempt: attempt.start_time_ns)
        pids = [worker.pid for worker in newest.workers if worker.world_rank == rank]
        if pids and pids[0] not in but:
            return pids[0]
        time.sleep(0.1)
    raise TimeoutError(f"no worker of rank {rank}")


def final_state(result: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Everything that the last checkpoint keeps: parameters, buffers, optimizers' states."""
    last = checkpoint.find(result["run"])
    return {f"{file}/{name}": t for file in checkpoint.FILES for name, t in checkpoint.load_tensors(last, file).items()}


def history(result: dict[str, Any]) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of every point that MLflow has of training and evaluation, by metric."""
    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    names = [n for n in client.get_run(result["run_id"]).data.metrics if not n.startswith(("speed/", "system/"))]
    return {n: [(p.step, p.value) for p in client.get_metric_history(result["run_id"], n)] for n in names}


def test_a_run_is_trained_tracked_evaluated(undisturbed: dict[str, Any]) -> None:
    steps = [record for _, record in read_steps(open_store(undisturbed["run"]))]
    assert [s["step"] for s in steps] == list(range(len(steps)))
    assert {s["epoch"] for s in steps} == set(range(EPOCHS))
    recorded = [(s["step"], s["metrics"]["loss/model"]) for s in steps]
    points = history(undisturbed)
    assert points["loss/model"] == recorded
    for name, value in undisturbed["metrics"].items():
        assert points[name] == [(len(steps), value)]
    run = MlflowClient(os.environ["MLFLOW_TRACKING_URI"]).get_run(undisturbed["run_id"])
    assert run.info.status == "FINISHED"
    assert all(open_store(undisturbed["run"]).exists(p.removeprefix(undisturbed["run"] + "/"))
               for p in undisturbed["pictures"])  # fmt: skip


def test_after_workers_were_killed_the_weights_are_the_same_bits(
    undisturbed: dict[str, Any], survivor: dict[str, Any]
) -> None:
    expected, found = final_state(undisturbed), final_state(survivor)
    assert expected.keys() == found.keys()
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []


def test_after_workers_were_killed_the_history_is_the_same(
    undisturbed: dict[str, Any], survivor: dict[str, Any]
) -> None:
    assert history(survivor) == history(undisturbed)
    assert survivor["metrics"] == undisturbed["metrics"]


def test_workers_were_killed_in_mid_epoch(survivor: dict[str, Any]) -> None:
    last_of_each_attempt = [records[-1] for records in journals(survivor["run"])]
    assert len(last_of_each_attempt) == 3, "one attempt, and one after each kill"
    assert all(record["batch"] > 0 for record in last_of_each_attempt[:2])


def journals(run: str) -> list[list[dict[str, Any]]]:
    """The records of each process that wrote the run's journal."""
    store = open_store(run)
    return [[json.loads(line) for line in store.read(path).splitlines()[1:]] for path in store.list("journal")]
