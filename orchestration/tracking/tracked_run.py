"""Runs in MLflow. A run is created before its workers start; everything logged later goes through the run's storage.

`TrackedRun` writes the driver's messages to the outbox there, and `forward` delivers journal, samples and outbox to
MLflow, so that an unavailable tracking server delays delivery and nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Param
from mlflow.exceptions import MlflowException

from datasets.storage.address import parse_address
from datasets.storage.store import MissingObject, Store, StoreError, open_store
from orchestration.addresses import RUN_ID
from orchestration.errors import RequestError, first_line, without_secret
from orchestration.progress import Progress
from orchestration.tracking import groups, journal
from orchestration.tracking.forwarder import FILES, OUTBOX, Delivery, Forwarder, OnRecords, drain
from orchestration.tracking.mlflow_client import connect, default_tracking_uri, experiment_id
from orchestration.tracking.mlflow_retry import retry_while_unavailable
from orchestration.tracking.run_description import dataset_input, describe, flatten, redact
from orchestration.tracking.segments import Record, SegmentReader, SegmentWriter
from orchestration.tracking.system_metrics import SystemMonitor

if TYPE_CHECKING:
    from orchestration.config.load import Experiment

DESCRIPTION = "run.json"
EXPERIMENT = "experiment.json"
EVALUATIONS = "evaluations"  # the folder of later evaluations: other processes write there
PARAMETER_BATCH = 100
FINISH_S = 60.0
SILENT_RECORDS = 1000  # more are delivered with a bar

log = logging.getLogger(__name__)


class TrackedRun:
    """One MLflow run and its storage. A log call returns after its data are in the storage."""

    def __init__(self, run_id: str, storage: str, tracking_uri: str) -> None:
        self.run_id, self.storage, self.tracking_uri = run_id, storage, tracking_uri
        self.store = open_store(storage)
        self._written = [record for _, record in SegmentReader(self.store, OUTBOX).read_new()]
        self._outbox = SegmentWriter(self.store, OUTBOX, {"run_id": run_id})
        self.delivery = Delivery(self.store, run_id, MlflowClient(tracking_uri))

    @contextmanager
    def forward(self, on_records: OnRecords | None = None, *, system_metrics: bool = True) -> Iterator[Delivery]:
        """Within this context the workers' records are delivered and this machine is sampled.

        on_records: called with every new step (the journal's records, in order), whether or not MLflow is available.
        """
        self.delivery.on_records = on_records
        forwarder = Forwarder(self.delivery)
        monitor = SystemMonitor(self.store) if system_metrics else None
        forwarder.start()
        if monitor:
            monitor.start()
        try:
            yield self.delivery
        finally:
            if monitor:
                monitor.stop()
            forwarder.stop()
            self.delivery.read()
            self.delivery.on_records = None

    def log_evaluation(self, metrics: Mapping[str, float | None], step: int) -> None:
        """Metrics by the protocol's names, as fractions; None (rank k beyond the gallery's size) is omitted."""
        numbers = {name: float(value) for name, value in metrics.items() if value is not None}
        written = {
            (r["step"], json.dumps(r["metrics"], sort_keys=True)) for r in self._written if r["kind"] == "metrics"
        }
        if (step, json.dumps(numbers, sort_keys=True)) not in written:
            self._write({"kind": "metrics", "step": step, "metrics": numbers})

    def log_file(self, data: bytes, path: str) -> None:
        """`path` is the artifact's path in MLflow."""
        self.store.write(f"{FILES}/{path}", data)
        self._write({"kind": "file", "path": path})

    def has_logged(self, path: str) -> bool:
        """Whether the artifact at `path` was logged, by this process or an earlier one of the run."""
        return any(record["kind"] == "file" and record["path"] == path for record in self._written)

    def log_picture(self, picture: bytes | Path, name: str) -> None:
        self.log_file(picture if isinstance(picture, bytes) else picture.read_bytes(), f"pictures/{name}")

    def log_table(self, rows: Sequence[Mapping[str, Any]], name: str) -> None:
        """Rows with equal keys, in the format of MLflow's table view."""
        columns = list(rows[0]) if rows else []
        table = {"columns": columns, "data": [[row[c] for c in columns] for row in rows]}
        self.log_file(json.dumps(table).encode(), f"tables/{name}.json")

    def log_training_curves(self, name: str = "training.png") -> None:
        """A picture with a panel for each of the journal's metrics, and marks where another group of workers went on."""
        from orchestration import figures

        points: dict[str, tuple[list[int], list[float]]] = {}
        for _, record in journal.read_steps(self.store):
            for metric, value in record["metrics"].items():
                steps, values = points.setdefault(metric, ([], []))
                steps.append(record["step"])
                values.append(value)
        if points:
            self.log_picture(figures.training_curves({**points}, groups.marks(groups.read(self.store))), name)

    def is_running(self) -> bool:
        """Whether MLflow lists the run as running or scheduled. Raises: RequestError where MLflow does not answer."""
        found = find_run(self.delivery.client, self.run_id, self.tracking_uri)
        return found.info.status in ("RUNNING", "SCHEDULED")

    def set_tags(self, tags: Mapping[str, object]) -> None:
        self._write({"kind": "tags", "tags": {key: str(value) for key, value in tags.items()}})

    def finish(self, status: str, *, deadline_s: float = FINISH_S) -> bool:
        """Deliver the remaining records and end the MLflow run with FINISHED, FAILED or KILLED.

        Returns False where MLflow did not accept all within `deadline_s` seconds: the rest stays in the storage, and a
        warning says how to deliver it.
        """
        self._write({"kind": "status", "status": status})
        return self.deliver(deadline_s=deadline_s)

    def deliver(self, *, deadline_s: float = FINISH_S) -> bool:
        """As `finish`, for a run that has ended: its status stays. Nothing can be logged afterwards."""
        self._outbox.close()
        self.delivery.read()
        if self.delivery.pending > SILENT_RECORDS:
            with Progress().bar("delivering to MLflow", "records") as bar:
                error = drain(self.delivery, deadline_s, bar)
        else:
            error = drain(self.delivery, deadline_s)
        if error is not None:
            log.warning(
                "MLflow at %s did not accept all records of run %s (%s). Nothing is lost: `redress runs sync %s` delivers "
                "the %d pending records when MLflow is available.",
                *(without_secret(self.tracking_uri), self.run_id, first_line(error), self.storage),
                self.delivery.pending,
            )
        if refused := self.delivery.set_aside:
            log.warning(
                "MLflow refused parts of run %s. They stay in the storage; `redress runs sync %s` tries them again: %s",
                *(self.run_id, self.storage, "; ".join(refused)),
            )
        return error is None

    def _write(self, message: Record) -> None:
        message = message | {"time": now_ms()}
        self._written.append(message)
        self._outbox.append(message)
        self._outbox.flush()


def start_run(
    experiment: Experiment, fingerprint: str, *, resume: str | None = None, tags: Mapping[str, str] | None = None
) -> TrackedRun:
    """Create the MLflow run of an experiment, or resume an earlier one (`resume`: its id or its storage's address).

    Raises: RequestError where MLflow or the storage cannot be reached, or there is no such run.
    """
    if resume:
        return resume_run(resume, fingerprint)
    resolved = experiment.resolved()
    return create_run(resolved, fingerprint, tags=tags)


def create_run(
    experiment: Mapping[str, Any],
    fingerprint: str,
    *,
    tags: Mapping[str, str] | None = None,
    tracking_uri: str | None = None,
) -> TrackedRun:
    """A new MLflow run with the resolved experiment, the data's fingerprint and the code's digest.

    experiment: the resolved tree (plain data). Its `name`, `experiment` (MLflow's experiment), `storage`, `data`, `seed`,
    `threads`, `select` and `select_on_test` also become tags.
    Raises: RequestError where MLflow or the storage cannot be reached.
    """
    runs = open_store(str(experiment.get("storage") or "runs"))  # what is no address is refused before there is a run
    uri = tracking_uri or default_tracking_uri()
    client = connect(uri)
    name = str(experiment.get("name") or "run")
    digest = hashlib.sha256(f"{name}{time.time_ns()}{os.getpid()}".encode()).hexdigest()
    run_name, where = f"{name}-{digest[:10]}", str(experiment.get("experiment") or "redress")
    all_tags = describe(experiment, fingerprint) | dict(tags or {})
    run_id = retry_while_unavailable(
        lambda: created(client, experiment_id(client, where, uri), run_name, all_tags), "creating the run"
    )
    storage = runs.join(run_id)
    description = {"run_id": run_id, "fingerprint": fingerprint, "tracking_uri": without_secret(uri)}
    try:
        retry_while_unavailable(
            lambda: describe_run(client, run_id, experiment, fingerprint, storage), "creating the run"
        )
        tracked = TrackedRun(run_id, storage, uri)
        tracked.log_file(json.dumps(redact(experiment), indent=1).encode(), EXPERIMENT)
        tracked.store.write(DESCRIPTION, json.dumps(description, indent=1).encode())  # last: what has it can be resumed
    except BaseException as error:
        with contextlib.suppress(Exception):  # else MLflow shows the run as running for ever
            client.set_terminated(run_id, "FAILED")
        if isinstance(error, StoreError):
            raise RequestError(
                f"storage {storage} cannot be written: {error}. Set `storage` to a writable address."
            ) from error
        raise
    return tracked


def created(client: MlflowClient, experiment: str, run_name: str, tags: Mapping[str, str]) -> str:
    """The id of a new run, or of the existing one where an earlier call created it and its answer was lost."""
    digest = run_name.rpartition("-")[2]  # unlike the name it needs no quoting
    existing = client.search_runs([experiment], f"attributes.run_name LIKE '%-{digest}'")
    run = existing[0] if existing else client.create_run(experiment, run_name=run_name, tags=dict(tags))
    return str(run.info.run_id)


def describe_run(
    client: MlflowClient, run_id: str, experiment: Mapping[str, Any], fingerprint: str, storage: str
) -> None:
    """Log parameters, data set and storage of a new run. Idempotent."""
    parameters = [Param(key, value) for key, value in flatten(experiment).items()]
    for start in range(0, len(parameters), PARAMETER_BATCH):
        client.log_batch(run_id, params=parameters[start : start + PARAMETER_BATCH])
    client.log_inputs(run_id, [dataset_input(experiment, fingerprint)])
    client.set_tag(run_id, "storage", without_secret(storage))


def resume_run(run: str, fingerprint: str | None = None, *, tracking_uri: str | None = None) -> TrackedRun:
    """Resume the run of that id or in that storage, which no other process is writing to.

    Raises: RequestError where there is none, or its data differ.
    """
    tracked = open_run(run, tracking_uri=tracking_uri)
    known = json.loads(tracked.store.read(DESCRIPTION))["fingerprint"]
    if fingerprint is not None and fingerprint != known:
        raise RequestError(
            f"run {tracked.run_id} was trained on data with fingerprint {known[:12]}…, these have {fingerprint[:12]}…. "
            "Resume with the data of the run, or start a new run with --init-from."
        )
    tracked.store.clean_temp(spare=EVALUATIONS)  # an earlier attempt may have been killed while it wrote there
    tracked._write({"kind": "status", "status": "RUNNING"})
    return tracked


def open_run(run: str, *, tracking_uri: str | None = None) -> TrackedRun:
    """The tracked run of that id or in that storage. Raises: RequestError."""
    uri = tracking_uri or default_tracking_uri()
    client: MlflowClient | None = None
    storage = run
    if RUN_ID.fullmatch(run):
        client = connect(uri, create=False)
        storage = find_run(client, run, uri).data.tags.get("storage", "")
        if not storage:
            raise RequestError(f"run {run} was not created by redress: it has no tag `storage`.")
    storage = str(parse_address(storage))
    try:
        description = json.loads(open_store(storage).read(DESCRIPTION))
    except (StoreError, FileNotFoundError) as error:
        raise RequestError(
            f"no run at {storage}: {first_line(error)}. `redress runs list` shows the storage of each run."
        ) from error
    find_run(client or connect(uri, create=False), description["run_id"], uri)
    return TrackedRun(description["run_id"], storage, uri)


def read_experiment(store: Store) -> dict[str, Any]:
    """The resolved experiment that the run in `store` began with. Raises: RequestError where the storage lacks it."""
    path = f"{FILES}/{EXPERIMENT}"
    try:
        return dict(json.loads(store.read(path)))
    except MissingObject as error:
        raise RequestError(f"run {store.address} has neither a checkpoint nor {path}. Start a new run.") from error


def find_run(client: MlflowClient, run_id: str, uri: str) -> mlflow.entities.Run:
    """The run in MLflow. Raises: RequestError where there is none, or it or its experiment was deleted."""
    try:
        run = client.get_run(run_id)
        experiment = client.get_experiment(run.info.experiment_id)
        for name, stage, command in (
            (f"the MLflow experiment {experiment.name!r} of run {run_id}", experiment.lifecycle_stage,
             f"mlflow experiments restore --experiment-id {experiment.experiment_id}"),
            (f"run {run_id}", run.info.lifecycle_stage, f"mlflow runs restore --run-id {run_id}"),
        ):  # fmt: skip
            if stage == "deleted":
                raise RequestError(
                    f"{name} was deleted in MLflow at {without_secret(uri)}. To restore it, set MLFLOW_TRACKING_URI and use "
                    f"`{command}`."
                )
        return run
    except MlflowException as error:
        raise RequestError(
            f"MLflow at {without_secret(uri)} has no run {run_id} ({first_line(error)}). "
            "`redress runs list` lists its runs. MLFLOW_TRACKING_URI sets the server."
        ) from error


def now_ms() -> int:
    return time.time_ns() // 1_000_000
