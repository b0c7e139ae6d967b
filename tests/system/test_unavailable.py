"""A tracking server that is killed and comes back: in the middle of a run, at its end, while its model is registered."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from datasets.storage.store import open_store
from orchestration.config.load import load
from orchestration.errors import ServiceUnavailableError
from orchestration.registry import pending
from orchestration.tracking import mlflow_retry, runs, tracked_run
from orchestration.tracking.journal import read_steps
from tests.orchestration.checkpoints import checkpoint_of
from tests.servers.mlflow_server import is_healthy, start
from tests.servers.process import HOST, Process, free_port
from tests.tiny import tiny_dataset

pytestmark = [pytest.mark.system, pytest.mark.timeout(400)]

SMALL = [
    "workers=1", "resources.cpus=1", "batch={people: 4, images: 2, lanes: 2}", "augment.height=32", "augment.width=16",
    "method.width=0.125", "optimizers.model.schedule=null",
]  # fmt: skip


class Server:
    """An MLflow server that is killed and comes back at the same address, with all it held."""

    def __init__(self, home: Path) -> None:
        self.home, self.port = home, free_port()
        self.process: Process | None = None

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.port}"

    def start(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        self.process = start(self.home, self.port)
        self.process.wait_until(lambda: is_healthy(self.address), timeout_s=120)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("unavailable") / "mlflow")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", server.address)
        server.start()
        yield server
        server.kill()
        mlflow.set_tracking_uri(None)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_dataset(tmp_path_factory.mktemp("data") / "data", persons=8)


def test_a_run_loses_and_doubles_nothing_whenever_the_server_is_killed(
    server: Server, data: str, tmp_path: Path, root: Path
) -> None:
    words = ["train", "baseline-demo", f"data={data}", f"storage={tmp_path / 'runs'}", "experiment=unavailable"]
    words += ["epochs=60", "register=of-unavailable", *SMALL, "--result", str(tmp_path / "result.json")]
    training = subprocess.Popen(
        [sys.executable, "-m", "orchestration", *words],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    client = MlflowClient(server.address)
    try:
        run_id = wait_for(lambda: delivered_run(client), 120)
        server.kill()  # in the middle: steps are on their way
        store = open_store(str(tmp_path / "runs" / run_id))
        known = len(read_steps(store))
        wait_for(lambda: len(read_steps(store)) > known or training.poll() is not None, 60)
        wait_for(lambda: store.exists(pending.FILE) or training.poll() is not None, 180)
        server.start()  # evaluation, pictures, status and the model are waiting
        told, _ = training.communicate(timeout=200)
    finally:
        training.kill()
    assert training.returncode == 0, told
    assert "the run continues and delivers later" in told
    result = json.loads((tmp_path / "result.json").read_text())
    steps = [(point.step, point.timestamp, point.value) for point in client.get_metric_history(run_id, "loss/model")]
    assert steps == [(r["step"], r["time"], r["metrics"]["loss/model"]) for _, r in read_steps(store)]
    for name, value in result["metrics"].items():
        assert [point.value for point in client.get_metric_history(run_id, name)] == [pytest.approx(value)]
    shown = runs.show_run(run_id)
    assert shown["status"] == "FINISHED"
    assert shown["models"] == [result["model"]] == ["models:/of-unavailable/1"]
    assert {"pictures/cmc.png", "experiment.json"} <= set(shown["files"])
    assert not store.exists(pending.FILE)
    assert pending.sync(run_id)["delivered"] == 0


def delivered_run(client: MlflowClient) -> str | None:
    experiment = client.get_experiment_by_name("unavailable")
    found = client.search_runs([experiment.experiment_id]) if experiment else []
    return found[0].info.run_id if found and "loss/model" in found[0].data.metrics else None


def wait_for(look, timeout_s: float):
    deadline = time.monotonic() + timeout_s
    while not (found := look()):
        assert time.monotonic() < deadline, "nothing happened in time"
        time.sleep(0.1)
    return found


@pytest.fixture(scope="module")
def run(server: Server, data: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[tracked_run.TrackedRun, str]:
    """A run that has ended, and its checkpoint."""
    storage = tmp_path_factory.mktemp("runs")
    experiment = load("baseline-demo", [f"data={data}", f"storage={storage}", "experiment=registering", *SMALL])
    tracked = tracked_run.start_run(experiment, "f" * 64)
    address = checkpoint_of(experiment, tracked.storage, seed=1)
    assert tracked.finish("FINISHED", deadline_s=30)
    return tracked, address


@pytest.mark.parametrize(
    "after", ["create_logged_model", "log_model_artifacts", "create_model_version", "set_registered_model_alias"]
)
def test_a_server_killed_during_registration_has_one_version_in_the_end(
    after: str, server: Server, run: tuple[tracked_run.TrackedRun, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tracked, address = run
    killed: list[threading.Timer]
    name, real, killed = f"killed-{after}", getattr(MlflowClient, after), []

    def and_then_the_server_is_killed(*args: object, **kwargs: object) -> object:
        answer = real(*args, **kwargs)
        if not killed:
            server.kill()
            killed.append(threading.Timer(1.0, server.start))
            killed[0].start()
            raise ConnectionError("the connection broke before the answer came")
        return answer

    monkeypatch.setattr(MlflowClient, after, and_then_the_server_is_killed)
    try:
        model = pending.register_idempotent(tracked.store, tracked.run_id, name, address, {"general/mAP": 0.5})
    finally:
        killed[0].join()
    client = MlflowClient(server.address)
    assert [f"models:/{v.name}/{v.version}" for v in client.search_model_versions(f"name='{name}'")] == [model]
    experiment = client.get_run(tracked.run_id).info.experiment_id
    assert [logged.name for logged in client.search_logged_models([experiment])].count(name) == 1
    assert not tracked.store.exists(pending.FILE)
    assert str(client.get_model_version_by_alias(name, "candidate").version) == "1"


def test_a_model_that_could_not_be_registered_waits_for_sync(
    server: Server, run: tuple[tracked_run.TrackedRun, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tracked, address = run
    monkeypatch.setattr(mlflow_retry, "RETRY_S", 1.0)
    server.kill()
    try:
        with pytest.raises(ServiceUnavailableError, match="became unavailable while registering waiting"):
            pending.register_idempotent(tracked.store, tracked.run_id, "waiting", address, {"general/mAP": 0.5})
    finally:
        server.start()
    assert pending.sync(tracked.run_id)["model"] == "models:/waiting/1"
    assert pending.sync(tracked.run_id)["model"] is None
    [version] = MlflowClient(server.address).search_model_versions("name='waiting'")
    assert version.tags["metric.general/mAP"] == "0.500000"
