"""Delivery of a run's records from its storage to MLflow: each once and in order, whenever the tracking server is available.

The storage has three kinds of lists: the journal (a record per step), `system/<node>` (a record per sample) and the outbox
(other messages of the driver: evaluations, files, tags, the final status). The steps of the first two increase, so the
newest point of each metric in MLflow tells what was delivered; for the outbox, the storage holds the number of delivered
messages, and those that MLflow refused: they are set aside, named, and tried again by the next process.
"""

from __future__ import annotations

import json
import logging
import math
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

from datasets.storage.store import Store
from orchestration.errors import first_line
from orchestration.tracking import journal, system_metrics
from orchestration.tracking.mlflow_retry import is_denied, is_unauthenticated, is_unavailable
from orchestration.tracking.segments import Record, SegmentReader

OUTBOX = "outbox"
FILES = "artifacts"
CURSOR = "delivered.json"
BATCH = 1000  # MLflow's limit of metrics in one call
POLL_S = 1.0
LONGEST_PAUSE_S = 30.0
DISCOVER_S = 10.0
READERS = 8

log = logging.getLogger(__name__)
OnRecords = Callable[[Sequence[Record]], None]


class Stream:
    """A list of numbered records, and those that are not delivered to MLflow yet."""

    def __init__(self, store: Store, folder: str) -> None:
        self.reader = SegmentReader(store, folder)
        self.address = store.join(folder)
        self.waiting: deque[Record] = deque()
        self.last = -1

    def read_new(self) -> list[Record]:
        new = [record for _, record in journal.in_order(self.reader.read_new(), self.last, self.address)]
        if new:
            self.last = new[-1]["step"]
        self.waiting.extend(new)
        return new


class Delivery:
    """Delivers a run's records to MLflow. Not a thread: `Forwarder` and `redress runs sync` call `deliver`."""

    def __init__(self, store: Store, run_id: str, client: MlflowClient, on_records: OnRecords | None = None) -> None:
        self.store, self.run_id, self.client, self.on_records = store, run_id, client, on_records
        self.delivered = 0  # records that this object delivered, at least in part
        self._steps = Stream(store, journal.FOLDER)
        self._streams = {journal.FOLDER: self._steps}
        self._outbox = SegmentReader(store, OUTBOX)
        self._messages: deque[tuple[int, Record]] = deque()  # with their numbers in the outbox
        cursor = json.loads(store.read(CURSOR)) if store.exists(CURSOR) else {}
        self._done = int(cursor.get("outbox", 0))
        self._refused_before: set[int] = set(cursor.get("set_aside", []))
        self._refused: dict[int, str] = {}  # messages of the outbox
        self._refused_metrics: dict[str, str] = {}
        self._num_read = 0
        self.on_progress: Callable[[int, int], None] | None = None  # called with the number delivered and the total
        self._newest: dict[str, tuple[int, int]] | None = None
        self._discovered = -DISCOVER_S

    @property
    def pending(self) -> int:
        """The number of records read and not delivered."""
        return sum(len(stream.waiting) for stream in self._streams.values()) + len(self._messages)

    def read(self) -> None:
        """Read the records written since the last call."""
        if time.monotonic() - self._discovered >= DISCOVER_S:
            self.discover()
        streams = list(self._streams.values())
        with ThreadPoolExecutor(
            min(len(streams), READERS)
        ) as pool:  # many machines: the store answers one at a time slowly
            new = dict(zip(streams, pool.map(Stream.read_new, streams), strict=True))[self._steps]
        if new and self.on_records:
            self.on_records(new)
        for _, message in self._outbox.read_new():
            if self._num_read >= self._done or self._num_read in self._refused_before:
                self._messages.append((self._num_read, message))
            self._num_read += 1

    @property
    def set_aside(self) -> list[str]:
        """What MLflow refused for good, each with MLflow's reason."""
        return [*self._refused_metrics.values(), *self._refused.values()]

    def discover(self) -> None:
        """Find the machines that have samples in the storage."""
        self._discovered = time.monotonic()
        for path in self.store.list(system_metrics.FOLDER):
            node = Path(path).parent.name
            self._streams.setdefault(node, Stream(self.store, f"{system_metrics.FOLDER}/{node}"))

    def deliver(self, until: float = math.inf) -> None:
        """Send all records read. Where MLflow is unavailable its error is raised, and the rest stays for the next call.

        What MLflow refuses for good is set aside. until: a time of `time.monotonic`. Raises: NotInTimeError after it.
        """
        denied: Exception | None = None
        try:
            for stream in self._streams.values():
                try:
                    self._deliver_stream(stream, until)
                except MlflowException as error:
                    if is_unavailable(error):
                        raise
                    denied = error  # what is no metric may be accepted
            while self._messages:
                check_time(until)
                self._deliver_next_message()
                self._report()
            if denied:
                raise denied
        except Exception:
            self._newest = None  # a failed call may still have reached the server
            raise

    def _report(self) -> None:
        if self.on_progress:
            self.on_progress(self.delivered, self.delivered + self.pending)

    def _deliver_next_message(self) -> None:
        number, message = self._messages[0]
        try:
            self._deliver_message(message)
            self.delivered += 1
        except Exception as error:
            if is_unavailable(error) or is_unauthenticated(error):
                raise
            self._refused[number] = f"{title(message)}: {first_line(error)}"
            warn_refused(self._refused[number])
        self._messages.popleft()
        self._refused_before.discard(number)
        self._done = max(self._done, number + 1)
        cursor = {"outbox": self._done, "set_aside": sorted({*self._refused, *self._refused_before})}
        self.store.write(CURSOR, json.dumps(cursor if cursor["set_aside"] else {"outbox": self._done}).encode())

    def _deliver_stream(self, stream: Stream, until: float) -> None:
        if not stream.waiting:
            return
        if self._newest is None:
            self._newest = newest_points(self.client, self.run_id)
        known = len(self._refused_metrics)
        for records in batches(stream.waiting):
            new = [[m for m in as_metrics(record) if self._is_new(m)] for record in records]
            metrics = [metric for of_record in new for metric in of_record]
            for start in range(0, len(metrics), BATCH):
                check_time(until)
                self._log(metrics[start : start + BATCH])
            for _ in records:
                stream.waiting.popleft()
            self.delivered += sum(map(bool, new))
            self._report()
        for refused in list(self._refused_metrics.values())[known:]:
            warn_refused(refused)

    def _log(self, metrics: list[Metric]) -> None:
        """One call, or several smaller ones where MLflow refuses it; a metric that it refuses alone is set aside."""
        metrics = [metric for metric in metrics if metric.key not in self._refused_metrics]
        if not metrics:
            return
        try:
            self.client.log_batch(self.run_id, metrics=metrics)
        except MlflowException as error:
            if is_unavailable(error) or is_denied(error):
                raise
            if len(metrics) > 1:
                middle = len(metrics) // 2
                self._log(metrics[:middle])
                self._log(metrics[middle:])
                return
            [metric] = metrics
            self._refused_metrics[metric.key] = f"metric {metric.key!r}: {first_line(error)}"

    def _is_new(self, metric: Metric) -> bool:
        newest = (self._newest or {}).get(metric.key)
        return newest is None or (metric.step, metric.timestamp) > newest

    def _deliver_message(self, message: Record) -> None:
        kind = message["kind"]
        if kind == "metrics":
            metrics = [m for m in as_metrics(message) if not self._is_there(m)]
            for start in range(0, len(metrics), BATCH):
                self._log(metrics[start : start + BATCH])
            if refused := [self._refused_metrics[m.key] for m in metrics if m.key in self._refused_metrics]:
                raise RefusedError("; ".join(refused))
        elif kind == "file":
            self._deliver_file(message["path"])
        elif kind == "tags":
            self._set_tags(message["tags"])
        elif kind == "status":
            if message["status"] == "RUNNING":
                self.client.update_run(self.run_id, status="RUNNING")
            else:
                self.client.set_terminated(self.run_id, message["status"], end_time=message["time"])

    def _set_tags(self, tags: dict[str, str]) -> None:
        """All that MLflow takes. Raises: RefusedError that names the others."""
        refused = []
        for key, value in tags.items():
            try:
                self.client.set_tag(self.run_id, key, value)
            except MlflowException as error:
                if is_unavailable(error) or is_unauthenticated(error):
                    raise
                refused.append(f"{key!r}: {first_line(error)}")
        if refused:
            raise RefusedError("; ".join(refused))

    def _is_there(self, metric: Metric) -> bool:
        history = self.client.get_metric_history(self.run_id, metric.key)
        return any((m.step, m.timestamp) == (metric.step, metric.timestamp) for m in history)

    def _deliver_file(self, path: str) -> None:
        folder, _, name = path.rpartition("/")
        with tempfile.TemporaryDirectory() as directory:
            local = Path(directory, name)
            local.write_bytes(self.store.read(f"{FILES}/{path}"))
            self.client.log_artifact(self.run_id, str(local), folder or None)


class RefusedError(RuntimeError):
    """MLflow refused a part of a message for good."""


class NotInTimeError(TimeoutError):
    """The deadline passed before all records were delivered."""


def check_time(until: float) -> None:
    if time.monotonic() > until:
        raise NotInTimeError("the time for delivery was over")


def warn_refused(what: str) -> None:
    log.warning("MLflow refuses %s. It is set aside; the rest is delivered", what)


def title(message: Record) -> str:
    """What a message of the outbox is about."""
    names = {"file": "path", "status": "status", "metrics": "step"}
    kind = str(message.get("kind"))
    return f"{kind} {message.get(names.get(kind, ''), '')}".strip() if kind != "tags" else "tags"


def as_metrics(record: Record) -> list[Metric]:
    return [Metric(key, value, record["time"], record["step"]) for key, value in record["metrics"].items()]


def batches(records: Sequence[Record]) -> Iterator[list[Record]]:
    """Split records into batches of at most BATCH metrics; a larger record is a batch of its own."""
    batch: list[Record] = []
    size = 0
    for record in list(records):
        if batch and size + len(record["metrics"]) > BATCH:
            yield batch
            batch, size = [], 0
        batch.append(record)
        size += len(record["metrics"])
    if batch:
        yield batch


def newest_points(client: MlflowClient, run_id: str) -> dict[str, tuple[int, int]]:
    """(step, time) of the newest point of every metric of the run in MLflow, in a single call."""
    return {metric.key: (metric.step, metric.timestamp) for metric in client.get_run(run_id).data._metric_objs}


class Forwarder:
    """A thread that reads and delivers until it is stopped. While MLflow is unavailable it waits, longer each time."""

    def __init__(self, delivery: Delivery, *, poll_s: float = POLL_S) -> None:
        self.delivery, self.poll_s = delivery, poll_s
        self.error: Exception | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._forward, name="forward to MLflow", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread. Undelivered records stay in the storage and in `delivery`."""
        self._stopped.set()
        self._thread.join()

    def _forward(self) -> None:
        pause, next_try = self.poll_s, 0.0
        while not self._stopped.wait(self.poll_s):
            try:
                self.delivery.read()
                if time.monotonic() < next_try:
                    continue
                self.delivery.deliver()
                if self.error:
                    log.warning("MLflow is available again; %d records delivered so far", self.delivery.delivered)
                self.error, pause = None, self.poll_s
            except Exception as error:
                if self.error is None:
                    what = "is unavailable" if is_unavailable(error) else "rejects the records"
                    log.warning("MLflow %s; the run continues and delivers later: %s", what, first_line(error))
                self.error = error
                next_try, pause = time.monotonic() + pause, min(2 * pause, LONGEST_PAUSE_S)


def drain(
    delivery: Delivery, deadline_s: float, on_progress: Callable[[int, int], None] | None = None
) -> Exception | None:
    """Deliver all records, retrying for `deadline_s` seconds; returns the last error, None on success.

    The deadline holds between any two calls of MLflow. on_progress: called with the number delivered and the total.
    """
    delivery.on_progress = on_progress
    deadline, pause = time.monotonic() + deadline_s, 0.2
    while True:
        try:
            delivery.discover()
            delivery.read()
            delivery.deliver(deadline)
            return None
        except Exception as error:
            if isinstance(error, NotInTimeError) or time.monotonic() + pause > deadline:
                return error
            time.sleep(pause)
            pause = min(2 * pause, 5.0)
