"""Runs in MLflow: nothing lost and nothing doubled, with a SQLite file and with a server that becomes unavailable."""

from __future__ import annotations

import json
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED
from sqlalchemy.exc import OperationalError

from datasets.storage.address import AddressError
from orchestration.engine.chain import continued
from orchestration.errors import RequestError, first_line, without_secret
from orchestration.registry import pending
from orchestration.tracking import forwarder, mlflow_client, mlflow_retry, runs, tracked_run
from orchestration.tracking.forwarder import Delivery, drain
from orchestration.tracking.journal import Journal, read_steps
from orchestration.tracking.provenance import source_digest
from orchestration.tracking.system_metrics import SystemMonitor
from tests.servers.mlflow_server import mlflow_server
from tests.servers.process import free_port

HERE = continued(None, {"workers": 1, "device": "cpu"}, 0)
FINGERPRINT = "0123456789abcdef" * 4


@dataclass
class Step:
    step: int
    metrics: dict[str, float] = field(default_factory=dict)
    epoch: int = 0
    batch: int = 0
    stage: str = "first"


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A SQLite file that this session's tests share; making its tables takes seconds."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"
    mlflow_client.connect(uri)
    return uri


@pytest.fixture
def experiment(tmp_path: Path) -> dict:
    return {
        "name": "tiny",
        "experiment": tmp_path.name,
        "storage": str(tmp_path / "runs"),
        "data": "s3://key:secret@bucket/ltcc",
        "method": {"name": "some", "tau": 0.0625, "note": "x" * 7000},
        "seed": 3,
        "threads": 1,
        "select_on_test": True,
        "many": {f"k{i}": i for i in range(150)},
    }


def record(run: tracked_run.TrackedRun, first: int, last: int, num_metrics: int = 3) -> None:
    with Journal(run.store, HERE) as journal:
        for n in range(first, last):
            journal.record(Step(n, {f"loss/{k}": n + k / 7 for k in range(num_metrics)}, batch=n))


def history(run: tracked_run.TrackedRun, metric: str) -> list[tuple[int, int, float]]:
    return [
        (m.step, m.timestamp, m.value) for m in MlflowClient(run.tracking_uri).get_metric_history(run.run_id, metric)
    ]


def written(run: tracked_run.TrackedRun, metric: str) -> list[tuple[int, int, float]]:
    return [(r["step"], r["time"], r["metrics"][metric]) for _, r in read_steps(run.store)]


def test_a_run_carries_experiment_data_and_code(database: str, experiment: dict) -> None:
    run = tracked_run.create_run(experiment, FINGERPRINT, tracking_uri=database)
    with run.forward(system_metrics=False):
        record(run, 0, 5)
    run.log_evaluation({"clothes-changing/mAP": 0.25, "clothes-changing/rank-20": None}, step=5)
    run.log_evaluation({"clothes-changing/mAP": 0.25}, step=5)
    run.log_picture(b"\x89PNG", "ranked.png")
    run.log_table([{"mode": "general", "mAP": 0.5}], "metrics")
    run.log_training_curves()
    assert run.finish("FINISHED", deadline_s=20)
    found = runs.show_run(run.run_id, tracking_uri=database)
    assert found["status"] == "FINISHED"
    assert found["settings"]["method.tau"] == "0.0625"
    assert found["settings"]["many.k149"] == "149"
    assert len(found["settings"]["method.note"]) == 6000
    assert found["settings"]["data"] == "s3://bucket/ltcc"
    assert "secret" not in json.dumps(found)
    assert found["tags"]["data.fingerprint"] == FINGERPRINT
    assert found["tags"]["source.digest"] == source_digest()
    assert found["tags"]["select_on_test"] == "true"
    assert found["tags"]["storage"] == run.storage
    assert {"experiment.json", "pictures/ranked.png", "pictures/training.png", "tables/metrics.json"} == set(
        found["files"]
    )
    assert found["metrics"] == {"clothes-changing/mAP": 0.25}
    assert len(history(run, "clothes-changing/mAP")) == 1
    inputs = MlflowClient(database).get_run(run.run_id).inputs.dataset_inputs
    assert [i.dataset.digest for i in inputs] == [FINGERPRINT[:36]]
    listed = runs.list_runs(experiment["experiment"], tracking_uri=database)
    assert [r["run_id"] for r in listed] == [run.run_id]
    assert json.loads(json.dumps(listed)) == listed


def test_steps_arrive_with_the_journals_times_whatever_happens_between(database: str, experiment: dict) -> None:
    run = tracked_run.create_run(experiment, FINGERPRINT, tracking_uri=database)
    record(run, 0, 700)
    client = MlflowClient(database)
    delivery = Delivery(run.store, run.run_id, client)
    delivery.read()
    send, calls = client.log_batch, []

    def arrives_but_the_answer_is_lost(*args: object, **kwargs: object) -> None:
        send(*args, **kwargs)
        calls.append(len(kwargs["metrics"]))
        if len(calls) == 2:
            raise ConnectionError("the answer was lost")

    client.log_batch = arrives_but_the_answer_is_lost
    with pytest.raises(ConnectionError):
        delivery.deliver()
    assert delivery.pending > 0
    delivery.deliver()
    record(run, 700, 710)
    another_process = Delivery(run.store, run.run_id, MlflowClient(database))
    assert drain(another_process, 20) is None
    assert max(calls) <= forwarder.BATCH
    for metric in ("loss/0", "loss/2"):
        assert history(run, metric) == written(run, metric)


def test_a_resumed_run_goes_on_in_the_same_mlflow_run(database: str, experiment: dict) -> None:
    run = tracked_run.create_run(experiment, FINGERPRINT, tracking_uri=database)
    with run.forward(system_metrics=False):
        record(run, 0, 10)
    run.log_evaluation({"general/mAP": 0.1}, step=10)
    assert run.finish("FAILED", deadline_s=20)
    with pytest.raises(RequestError, match="fingerprint"):
        tracked_run.resume_run(run.storage, "f" * 64, tracking_uri=database)
    left = [Path(run.storage, name) for name in (".delivered.json.1.tmp", "outbox/.000001.jsonl.2.tmp")]
    of_another = Path(run.storage, "evaluations/.queries.parquet.3.tmp")
    of_another.parent.mkdir()
    for path in (*left, of_another):
        path.touch()
    again = tracked_run.resume_run(run.run_id, FINGERPRINT, tracking_uri=database)
    assert again.run_id == run.run_id
    assert not any(path.exists() for path in left), "an earlier process was killed while it wrote"
    assert of_another.exists()
    with again.forward(system_metrics=False):
        record(again, 6, 15)
    again.log_evaluation({"general/mAP": 0.2}, step=15)
    assert again.finish("FINISHED", deadline_s=20)
    assert history(run, "loss/1") == written(run, "loss/1")
    assert [step for step, _, _ in history(run, "loss/1")] == list(range(15))
    assert [value for _, _, value in history(run, "general/mAP")] == [0.1, 0.2]
    assert MlflowClient(database).get_run(run.run_id).info.status == "FINISHED"


def test_a_run_whose_creation_was_not_answered_is_made_once(
    database: str, experiment: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow_retry, "LONGEST_PAUSE_S", 0.2)
    lost = []

    def lose(name: str) -> None:
        send = getattr(MlflowClient, name)

        def call(*args: object, **kwargs: object) -> object:
            answer = send(*args, **kwargs)
            if name not in lost:
                lost.append(name)
                raise ConnectionError("the answer was lost")
            return answer

        monkeypatch.setattr(MlflowClient, name, call)

    for name in ("create_run", "log_batch", "log_inputs", "set_tag"):
        lose(name)
    run = tracked_run.create_run(experiment, FINGERPRINT, tracking_uri=database)
    monkeypatch.undo()
    assert lost == ["create_run", "log_batch", "log_inputs", "set_tag"]
    client = MlflowClient(database)
    found = client.search_runs([client.get_experiment_by_name(experiment["experiment"]).experiment_id])
    assert [r.info.run_id for r in found] == [run.run_id]
    assert len(found[0].inputs.dataset_inputs) == 1
    assert found[0].data.params["many.k149"] == "149"


def test_a_rejection_is_not_reported_as_unavailability(
    database: str, experiment: dict, caplog: pytest.LogCaptureFixture
) -> None:
    run = tracked_run.create_run(experiment, FINGERPRINT, tracking_uri=database)
    record(run, 0, 3)

    def refuse(*_: object, **__: object) -> None:
        raise MlflowException("no such permission at http://me:secret@host/api", error_code=PERMISSION_DENIED)

    run.delivery.client.log_batch = refuse
    with run.forward(system_metrics=False):
        wait_until(lambda: "rejects" in caplog.text)
    assert "MLflow rejects the records" in caplog.text
    assert "secret" not in caplog.text
    assert "http://host/api" in caplog.text


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("sqlite:////runs/mlflow.db", "sqlite:////runs/mlflow.db"),
        ("http://me:secret@host:5000/x", "http://host:5000/x"),
        ("postgresql://me:sec@ret@host/db", "postgresql://host/db"),
        ("from http://a to s3://key:secret@b/c@d, twice http://key@b", "from http://a to s3://b/c@d, twice http://b"),
    ],
)
def test_an_address_is_told_without_its_secret(text: str, told: str) -> None:
    assert without_secret(text) == told


def test_whoever_watches_is_told_each_step_once(database: str, experiment: dict) -> None:
    run = tracked_run.create_run(experiment, FINGERPRINT, tracking_uri=database)
    seen: list[dict] = []
    with run.forward(on_records=seen.extend, system_metrics=False):
        record(run, 0, 4)
        time.sleep(forwarder.POLL_S + 0.3)
        record(run, 4, 8)
    assert [r["step"] for r in seen] == list(range(8))


def test_the_machine_is_sampled_into_the_same_run(database: str, experiment: dict) -> None:
    run = tracked_run.create_run(experiment, FINGERPRINT, tracking_uri=database)
    for node in ("driver", "10.0.0.7", "driver"):
        monitor = SystemMonitor(run.store, node, sample_s=0.05)
        monitor.start()
        time.sleep(0.2)
        monitor.stop()
    assert run.finish("FINISHED", deadline_s=20)
    numbers = runs.show_run(run.run_id, tracking_uri=database)["numbers"]
    assert {"system/cpu_utilization_percentage", "system/process_memory_usage_megabytes"} <= set(numbers)
    assert "system/10.0.0.7/system_memory_usage_megabytes" in numbers
    steps = [step for step, _, _ in history(run, "system/cpu_utilization_percentage")]
    assert steps == list(range(len(steps)))
    assert len(steps) > 2


@pytest.mark.system
def test_a_server_that_is_killed_and_comes_back_gets_everything_once(
    tmp_path: Path, database: str, experiment: dict
) -> None:
    home, port = tmp_path / "server", free_port()
    home.mkdir()
    shutil.copy(database.removeprefix("sqlite:///"), home / "mlflow.db")  # tables at hand: the server starts sooner
    with mlflow_server(home, port) as address:
        ended = tracked_run.create_run(experiment, FINGERPRINT, tracking_uri=address)
        run = tracked_run.create_run(experiment, FINGERPRINT, tracking_uri=address)
        stopped, step = threading.Event(), 0
        journal = Journal(run.store, HERE, flush_s=0.05)

        def train() -> None:
            nonlocal step
            while not stopped.wait(0.005):
                journal.record(Step(step, {"loss/0": step / 3}, batch=step))
                step += 1

        training = threading.Thread(target=train)
        training.start()
        forwarding = run.forward(system_metrics=False)
        delivery = forwarding.__enter__()
        wait_until(lambda: delivery.delivered > 100)
        kill_server(port)
    before = step
    record(ended, 0, 20)
    ended.log_picture(b"\x89PNG", "while-unavailable.png")
    assert not ended.finish("FINISHED", deadline_s=0.5), "what MLflow did not take waits in the storage"
    assert step > before, "training does not wait for MLflow"
    with mlflow_server(home, port) as address:
        wait_until(lambda: len(history(run, "loss/0")) > before)
        stopped.set()
        training.join()
        journal.close()
        forwarding.__exit__(None, None, None)
        assert run.finish("FINISHED", deadline_s=20)
        assert history(run, "loss/0") == written(run, "loss/0")
        assert [s for s, _, _ in history(run, "loss/0")] == list(range(step))
        for _ in range(2):
            assert pending.sync(ended.storage, tracking_uri=address)["waiting"] == 0
            assert history(ended, "loss/2") == written(ended, "loss/2")
        shown = runs.show_run(ended.run_id, tracking_uri=address)
        assert shown["status"] == "FINISHED"
        assert "pictures/while-unavailable.png" in shown["files"]


def kill_server(port: int) -> None:
    """-9 to the server on this port and its workers, all children of this process."""
    for child in psutil.Process().children():
        if f"--port={port}" in child.cmdline():
            for process in [*child.children(recursive=True), child]:
                process.kill()


def wait_until(holds, timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, "nothing happened in time"
        time.sleep(0.1)


def test_an_address_that_does_not_answer_is_named_with_the_mend(experiment: dict) -> None:
    address = f"http://someone:secret@127.0.0.1:{free_port()}"
    started = time.monotonic()
    with pytest.raises(RequestError) as told:
        tracked_run.create_run(experiment, FINGERPRINT, tracking_uri=address)
    assert time.monotonic() - started < 10
    assert address.replace("someone:secret@", "") in str(told.value)
    assert "secret" not in str(told.value)
    assert "MLFLOW_TRACKING_URI" in str(told.value)


def test_a_run_that_does_not_exist_and_a_storage_that_cannot_be_written_are_requests_gone_wrong(
    database: str, experiment: dict, tmp_path: Path
) -> None:
    with pytest.raises(RequestError, match="has no run"):
        tracked_run.open_run("0" * 32, tracking_uri=database)
    with pytest.raises(RequestError, match="no run at"):
        tracked_run.open_run(str(tmp_path / "nowhere"), tracking_uri=database)
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="storage"):
        tracked_run.create_run(experiment | {"storage": str(tmp_path / "file")}, FINGERPRINT, tracking_uri=database)
    with pytest.raises(RequestError, match="no MLflow experiment 'nosuch'"):
        runs.list_runs("nosuch", tracking_uri=database)


@pytest.fixture(autouse=True)
def own_tracking_uri(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import mlflow

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    before = mlflow.get_tracking_uri()
    yield
    mlflow.set_tracking_uri(before)


def test_a_deleted_run_or_experiment_says_how_to_restore_it(database: str, experiment: dict) -> None:
    run = tracked_run.create_run(experiment, FINGERPRINT, tracking_uri=database)
    client = MlflowClient(database)
    number = client.get_run(run.run_id).info.experiment_id
    by_run = rf"run {run.run_id} was deleted in MLflow at sqlite.*`mlflow runs restore --run-id {run.run_id}`"
    by_experiment = rf"experiment .* was deleted in MLflow.*`mlflow experiments restore --experiment-id {number}`"
    for delete, told in (
        (lambda: client.delete_run(run.run_id), by_run),
        (lambda: client.delete_experiment(number), by_experiment),
    ):
        delete()
        for request in (tracked_run.resume_run, pending.sync, runs.show_run):
            for name in (run.run_id, run.storage):
                with pytest.raises(RequestError, match=told):
                    request(name, tracking_uri=database)


def test_the_newest_runs_of_redress_are_listed_behind_those_of_others(database: str, experiment: dict) -> None:
    ours = [tracked_run.create_run(experiment, FINGERPRINT, tracking_uri=database).run_id for _ in range(2)]
    client = MlflowClient(database)
    number = client.get_run(ours[0]).info.experiment_id
    for _ in range(4):
        client.create_run(number)
    for limit, found in ((1, ours[1:]), (2, ours[::-1]), (3, ours[::-1])):
        listed = runs.list_runs(experiment["experiment"], limit=limit, tracking_uri=database)
        assert [run["run_id"] for run in listed] == found
    with pytest.raises(RequestError, match="--limit 0"):
        runs.list_runs(limit=0, tracking_uri=database)


def test_a_database_that_is_gone_is_not_made_anew(tmp_path: Path, database: str, experiment: dict) -> None:
    run = tracked_run.create_run(experiment, FINGERPRINT, tracking_uri=database)
    gone = tmp_path / "gone.db"
    for make in (lambda: None, gone.touch):
        make()
        for request in (tracked_run.resume_run, pending.sync, runs.show_run):
            with pytest.raises(RequestError, match=r"no MLflow database at .*gone\.db.*MLFLOW_TRACKING_URI"):
                request(run.storage, tracking_uri=f"sqlite:///{gone}")
        with pytest.raises(RequestError, match="no MLflow database"):
            runs.list_runs(tracking_uri=f"sqlite:///{gone}")
    assert gone.stat().st_size == 0


def test_an_error_of_the_database_is_one_line(database: str, experiment: dict) -> None:
    run = tracked_run.create_run(experiment, FINGERPRINT, tracking_uri=database)
    client = run.delivery.client
    original = sqlite3.OperationalError("database is locked")
    error = MlflowException("(raised as a result of Query-invoked autoflush)\n(sqlite3.OperationalError) …")
    error.__cause__ = OperationalError("UPDATE runs SET …", {}, original)
    told = "database is locked (another process is writing to it. Try again, or end that process)"
    assert first_line(error) == told
    assert first_line(RequestError("our own words")) == "our own words"
    with pytest.raises(MlflowException) as caught:
        client.get_run("0" * 32)
    assert first_line(caught.value).startswith("Run with id=000")


def test_a_run_that_cannot_be_begun_does_not_stay_running(
    database: str, experiment: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(AddressError, match="empty part"):
        tracked_run.create_run(experiment | {"storage": "s3://b//r"}, FINGERPRINT, tracking_uri=database)
    client = MlflowClient(database)
    assert client.get_experiment_by_name(experiment["experiment"]) is None, "nothing was created"

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(tracked_run, "describe_run", fail)
    with pytest.raises(ZeroDivisionError):
        tracked_run.create_run(experiment, FINGERPRINT, tracking_uri=database)
    number = client.get_experiment_by_name(experiment["experiment"]).experiment_id
    assert [run.info.status for run in client.search_runs([number])] == ["FAILED"]
