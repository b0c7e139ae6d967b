"""A sweep whose driver is interrupted, then killed, and taken up each time: nothing is trained twice, nothing is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from datasets.conversion.holdout import holdout
from datasets.storage.store import open_store
from orchestration.config.load import load
from orchestration.sweeps.settings import SweepSettings, plan
from orchestration.sweeps.state import Trial
from orchestration.tracking import mlflow_client
from orchestration.tracking.journal import read_steps
from orchestration.training.preparation import prepare
from orchestration.tuning import sweep_runs
from orchestration.tuning.tune import tune
from tests.servers.process import wait_for
from tests.tiny import tiny_dataset

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]

TRIALS, EPOCHS = 6, 3
OBJECTIVE = "clothes-changing/mAP"
SMALL = [
    "batch.people=4", "batch.images=2", "batch.lanes=2", "augment.height=32", "augment.width=16", "method.width=0.125",
    "method.adversarial_from_epoch=1", "optimizers.model.schedule=null",
]  # fmt: skip
WORDS = [
    *SMALL, f"epochs={EPOCHS}", "workers=1", "resources.cpus=1", "--over", "method.epsilon=[0, 0.1, 0.5]", "--seeds", "2",
    "--every", "1", "--concurrent", "1", "--no-register",
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    mlflow_client.connect()
    tiny_dataset(tmp_path / "data", persons=12, clothes=2, images=8, test_persons=2)
    holdout(str(tmp_path / "data"), str(tmp_path / "held"), persons=3)
    return tmp_path


def start(folder: Path, root: Path, name: str, words: list[str]) -> subprocess.Popen[bytes]:
    """redress tune with a Ray of its own, in a process group of its own."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    with (folder / f"{name}.log").open("wb") as log, (folder / f"{name}.json").open("wb") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "orchestration", "tune", *words, "--json"],
            cwd=root, stdout=out, stderr=log, env=kept | {"OMP_NUM_THREADS": "1"}, start_new_session=True,
        )  # fmt: skip


def children(sweep: str) -> list[Run]:
    return list(sweep_runs.children(MlflowClient(os.environ["MLFLOW_TRACKING_URI"]), sweep))


def finished(sweep: str) -> dict[str, int]:
    return {child.info.run_id: child.info.end_time for child in children(sweep) if child.info.status == "FINISHED"}


def the_sweep(folder: Path) -> str | None:
    found = [path.parent.name for path in (folder / "runs").glob("*/sweep.json")]
    return found[0] if found else None


def going(sweep: str) -> bool:
    """Whether a trial has trained some of its steps and not all."""
    for child in children(sweep):
        if child.info.status == "RUNNING" and "storage" in child.data.tags:
            steps = read_steps(open_store(child.data.tags["storage"]))
            if steps and steps[-1][1]["epoch"] >= 1:
                return True
    return False


def test_a_sweep_that_was_interrupted_and_then_killed_repeats_nothing(folder: Path, root: Path) -> None:
    first = start(folder, root, "first", ["cal-demo", f"data={folder / 'held'}", f"storage={folder / 'runs'}", *WORDS])
    sweep = wait_for(lambda: the_sweep(folder), first, folder / "first.log")
    wait_for(lambda: finished(sweep) and going(sweep), first, folder / "first.log")
    os.kill(first.pid, signal.SIGINT)
    assert first.wait(90) == 130
    assert MlflowClient(os.environ["MLFLOW_TRACKING_URI"]).get_run(sweep).info.status == "KILLED"
    assert all(child.info.status in ("FINISHED", "KILLED") for child in children(sweep))
    assert f"redress tune --resume {sweep}" in json.loads((folder / "first.json").read_text())["error"]["message"]
    by_first = finished(sweep)

    second = start(folder, root, "second", ["--resume", sweep])
    wait_for(lambda: len(finished(sweep)) > len(by_first) and going(sweep), second, folder / "second.log")
    family = psutil.Process(second.pid).children(recursive=True)
    os.kill(second.pid, signal.SIGKILL)
    second.wait()
    psutil.wait_procs(family, timeout=30)
    by_second = finished(sweep)
    assert len(by_second) < TRIALS

    third = start(folder, root, "third", ["--resume", sweep])
    assert third.wait(300) == 0, (folder / "third.log").read_text()[-3000:]
    answer = json.loads((folder / "third.json").read_text())
    assert [point["state"] for point in answer["points"]] == ["finished"] * 3
    assert len(children(sweep)) == TRIALS
    by_third = finished(sweep)
    assert len(by_third) == TRIALS
    assert all(by_second[run] == end for run, end in by_first.items())
    assert all(by_third[run] == end for run, end in by_second.items())
    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    for child in children(sweep):
        steps = [record for _, record in read_steps(open_store(child.data.tags["storage"]))]
        points = client.get_metric_history(child.info.run_id, "loss/model")
        assert [(p.step, p.value) for p in points] == [(s["step"], s["metrics"]["loss/model"]) for s in steps]
        assert [s["step"] for s in steps] == list(range(len(steps)))


def test_trials_of_two_workers_are_jobs_and_a_first_seed_behind_those_of_an_earlier_process_is_stopped(
    folder: Path, ray_cluster: str
) -> None:
    """MLflow has an unbeatable first seed of the better configuration; its second seed and the other configuration remain."""
    settings = SweepSettings(
        over=("optimizers.model.lr=[3e-3, 1e-3]",), seeds=2, every=1, grace=1, stop="asha", concurrent=1
    )
    words = [
        f"data={folder / 'held'}",
        f"storage={folder / 'runs'}",
        *SMALL,
        "epochs=2",
        "workers=2",
        "resources.cpus=0.4",
    ]
    wanted = load("cal-demo", words)
    planned, fingerprint = plan(wanted, settings), prepare(wanted).dataset.fingerprint
    sweep = sweep_runs.start_sweep(wanted, fingerprint, asdict(planned.settings)).run_id
    better, behind = {"optimizers.model.lr": 3e-3}, {"optimizers.model.lr": 1e-3}
    done = sweep_runs.create_or_resume(sweep, planned.trial_experiment(better, 1), fingerprint, Trial(better, 1))
    done.log_evaluation({f"validation/{OBJECTIVE}": 0.99}, step=1)
    done.set_tags(sweep_runs.end_tags("finished", {1: 0.98, 2: 0.99}, None))
    done.finish("FINISHED")
    answer = tune(wanted, settings, resume=sweep)
    states = {point["values"]["optimizers.model.lr"]: point for point in answer["points"]}
    assert [states[rate]["state"] for rate in (3e-3, 1e-3)] == ["finished", "stopped"]
    second, stopped = states[3e-3]["seeds"][2], states[1e-3]
    assert states[3e-3]["score"] == pytest.approx((0.99 + second) / 2)
    assert (stopped["epochs"], list(stopped["seeds"])) == (1, [1])
    found = {(c.data.tags["point"], c.data.tags["seed"]): c for c in children(sweep)}
    assert len(found) == 3
    assert {child.info.status for child in found.values()} == {"FINISHED"}
    epochs = {
        key: {record["epoch"] for _, record in read_steps(open_store(child.data.tags["storage"]))}
        for key, child in found.items()
    }
    assert epochs[Trial(better, 2).configuration_id, "2"] == {0, 1}
    assert epochs[Trial(behind, 1).configuration_id, "1"] == {0}
    assert "is below the threshold of --stop" in found[Trial(behind, 1).configuration_id, "1"].data.tags["sweep.reason"]
