"""The main job as a Ray job: two nodes, data and runs in a real object store, the run in an MLflow server over HTTP."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from datasets.storage.store import Store, open_store
from datasets.synthetic.dataset import render_dataset
from tests.servers.ray_nodes import Cluster
from tests.servers.swift import ObjectStore

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

EPOCHS = 2
SMALL = [
    f"epochs={EPOCHS}",
    "batch.people=4",
    "batch.images=4",
    "batch.lanes=2",
    "augment.height=64",
    "augment.width=32",
    "method.adversarial_from_epoch=1",
    "optimizers.model.schedule.milestones=[1]",
    "workers=2",
    "resources.cpus=2",  # all of a node, so that each node has one worker
]


@dataclass(frozen=True)
class Job:
    """A finished job: what the shell saw, and what the job itself wrote to --result."""

    shell: subprocess.CompletedProcess[str]
    result: dict[str, Any]
    runs: Store


@pytest.fixture(scope="module")
def environment(object_store: ObjectStore) -> Iterator[str]:
    """A bucket with a rendered data set at `data`, opened by this process's environment; yields its address."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in object_store.environment.items():
            patch.setenv(name, value)
        bucket = object_store.create_bucket("reid")
        render_dataset(f"{bucket}/data", preset="tiny", splits="ltcc", workers=1)
        yield bucket


@pytest.fixture(scope="module")
def job(environment: str, two_nodes: Cluster, root: Path) -> Job:
    bucket = environment
    result = f"{bucket}/results/cal.json"
    words = ["train", "cal-demo", f"data={bucket}/data", f"storage={bucket}/runs", "experiment=system", *SMALL]
    shell = two_nodes.submit(
        ["python", "-m", "orchestration", *words, "--result", result], working_dir=root, timeout_s=400
    )
    assert shell.returncode == 0, shell.stdout[-6000:] + shell.stderr[-2000:]
    return Job(shell, json.loads(open_store(result).read("")), open_store(f"{bucket}/runs"))


def test_the_result_object_tells_run_and_metrics(job: Job) -> None:
    assert job.result["run_id"]
    for mode in ("general", "same-clothes", "clothes-changing"):
        for metric in ("rank-1", "mAP"):
            assert 0 <= job.result["metrics"][f"{mode}/{metric}"] <= 1


def test_the_tracking_server_has_every_step_once(job: Job, tracking_server: str) -> None:
    client = MlflowClient(tracking_server)
    run = client.get_run(job.result["run_id"])
    assert run.info.status == "FINISHED"
    history = client.get_metric_history(run.info.run_id, "loss/model")
    steps = [point.step for point in history]
    assert steps == list(range(len(steps)))
    assert len(steps) >= EPOCHS
    adversarial = client.get_metric_history(run.info.run_id, "loss/clothes_classifier")
    assert [point.step for point in adversarial] == steps[len(steps) // EPOCHS :], "from the second epoch on"
    for name, value in job.result["metrics"].items():
        if value is not None:
            assert run.data.metrics[name] == pytest.approx(value)


def test_checkpoints_and_journal_are_in_the_object_store(job: Job) -> None:
    names = job.runs.list()
    assert any(name.endswith(".safetensors") for name in names), names
    assert any("journal" in name for name in names), names
    assert not any(name.endswith((".pt", ".pkl", ".pth")) for name in names), "no pickled code"
    assert job.result["checkpoint"].startswith(job.runs.address)


def test_each_node_had_one_worker(job: Job, two_nodes: Cluster) -> None:
    actors = two_nodes.get("/api/v0/actors?detail=1&limit=1000")["data"]["result"]["result"]
    workers = [actor for actor in actors if actor["class_name"].endswith("RayTrainWorker")]
    assert len(workers) == 2
    assert len({worker["node_id"] for worker in workers}) == 2


def test_no_key_and_no_password_is_in_what_a_job_leaves(
    job: Job, object_store: ObjectStore, two_nodes: Cluster
) -> None:
    secrets = (object_store.secret_key, two_nodes.token)
    told = job.shell.stdout + job.shell.stderr + json.dumps(two_nodes.get("/api/jobs/"))
    assert not [secret for secret in secrets if secret in told]
    for name in job.runs.list():
        data = job.runs.read(name)
        assert not [secret for secret in secrets if secret.encode() in data], name


def test_a_wrong_request_fails_the_job_and_says_why_before_any_worker_starts(
    environment: str, two_nodes: Cluster, root: Path
) -> None:
    result = f"{environment}/results/wrong.json"
    words = ["train", "cal-demo", f"data={environment}/data", "method.epsilonn=0.2", "--result", result]
    shell = two_nodes.submit(["python", "-m", "orchestration", *words], working_dir=root)
    assert shell.returncode == 1
    told = shell.stdout + shell.stderr
    assert "epsilonn" in told
    assert "Did you mean epsilon?" in told
    assert "Traceback" not in told
    assert "exit code 2" in told
