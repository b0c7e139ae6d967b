"""The journal of a run: the metrics of every step, written to the run's storage before they are sent elsewhere.

After a crash the loop repeats the steps since the last checkpoint. Each repeated step must give the metrics in the
journal; a difference means that data, code or machine changed. Repeated steps are not written twice.
"""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets.storage.store import Store
from orchestration import numerics
from orchestration.engine.chain import Chain
from orchestration.tracking.segments import FLUSH_S, JournalError, Record, SegmentReader, SegmentWriter

if TYPE_CHECKING:
    from orchestration.config.load import Experiment
    from orchestration.engine.loop import StepReport
    from orchestration.engine.strategies.strategy import Strategy

FOLDER = "journal"
MEASURED = ("speed/", "memory/")  # metrics of the machine, not of the training: they differ when a step is replayed
LOSSES = "loss"  # prefix of the metrics that are compared where bits cannot be
TOLERANCE = 1e-3
LIBRARIES = ("torch", "torchvision", "numpy", "pyarrow")


class ReplayMismatch(RuntimeError):  # noqa: N818 — the name says what happened
    """A step repeated after a crash gave other metrics than the first time."""

    def __init__(self, step: int, metric: str, recorded: object, replayed: object, rule: str) -> None:
        super().__init__(
            f"step {step}, repeated after a restart, gives {metric} = {replayed!r}; the journal has {recorded!r} ({rule}). "
            "The data, the code or the machine changed. Resume where they are unchanged, or start a new run with --init-from."
        )
        self.step, self.metric, self.recorded, self.replayed = step, metric, recorded, replayed


def environment(experiment: Experiment, strategy: Strategy) -> dict[str, Any]:
    """Everything that must be equal for a repeated step to be bit-identical. Call it in the training process."""
    import torch  # not at the top: the forwarder reads journals without it

    return {
        "workers": strategy.workers,
        "strategy": strategy.name,
        "threads": experiment.threads,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "numerics": experiment.numerics,
        "processor": "x86 with AVX2" if is_portable_here(experiment) else processor(),
        "python": platform.python_version(),
        **{name: installed(name) for name in LIBRARIES},
    }


def is_portable_here(experiment: Experiment) -> bool:
    return experiment.numerics == "portable" and numerics.processor_is_able()


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def installed(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "absent"


class Journal:
    """Writer of the steps of one run. Training starts or continues with the first step recorded.

    A step that the journal has already is compared: bit for bit on the CPU where its weights went through the same chain of
    environments. Otherwise (another number of workers now or before, another processor, a GPU) the losses of the first
    repeated step must agree to 1e-3. Later ones drift apart by rounding; `largest_difference` is the largest relative
    difference.
    """

    def __init__(self, store: Store, chain: Chain, *, flush_s: float = FLUSH_S) -> None:
        self.store, self.chain, self.flush_s = store, chain, flush_s
        self.changes: dict[str, list[Any]] = {}
        self.largest_difference = 0.0
        self._next_step: int | None = None
        self._recorded: dict[int, tuple[Record, Record]] = {}
        self._drifted = False
        self._writer: SegmentWriter | None = None

    def record(self, report: StepReport) -> bool:
        """Record a finished step with the time (ms since the epoch). Returns True for a new step, False for one that was
        recorded before the restart and agrees.

        Raises: ReplayMismatch; JournalError where steps are missing; StoreError where the store kept failing.
        """
        writer = self._writer or self._open(report.step)
        if report.step != self._next_step:
            raise JournalError(f"step {report.step} was reported where step {self._next_step} was expected")
        self._next_step += 1
        entry = {
            "step": report.step,
            "epoch": report.epoch,
            "batch": report.batch,
            "stage": report.stage,
            "metrics": {name: float(value) for name, value in report.metrics.items()},
        }
        if report.step in self._recorded:
            self._compare(*self._recorded.pop(report.step), entry)
            return False
        writer.append(entry | {"time": time.time_ns() // 1_000_000})
        return True

    def _open(self, step: int) -> SegmentWriter:
        last, previous = -1, None
        for header, record in read_steps(self.store):
            last, previous = record["step"], header["environment"]
            if last >= step:
                self._recorded[last] = header, record
        if last < step - 1:
            raise JournalError(
                f"the journal at {self.store.join(FOLDER)} ends with step {last}, and training continues with "
                f"step {step}: steps are missing. Restore the journal's files, or start a new run with --init-from."
            )
        self._next_step = step
        self.changes = changes(previous, self.chain.environment)
        header = {
            "environment": self.chain.environment,
            "chain": self.chain.digest,
            "changes": self.changes,
            "began": time.time_ns() // 1_000_000,
        }
        self._writer = SegmentWriter(self.store, FOLDER, header, flush_s=self.flush_s)
        return self._writer

    def flush(self) -> None:
        """Write every recorded step to the store. Call it before a checkpoint is declared complete."""
        if self._writer:
            self._writer.flush()

    def close(self) -> None:
        if self._writer:
            self._writer.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _compare(self, header: Record, recorded: Record, replayed: Record) -> None:
        step = recorded["step"]
        for key in ("epoch", "batch", "stage"):
            if recorded[key] != replayed[key]:
                raise ReplayMismatch(step, key, recorded[key], replayed[key], "the sequence of batches differs")
        exact = header.get("chain") == self.chain.digest and self.chain.environment.get("device", "cpu") == "cpu"
        if exact and not self._drifted:
            compare_bits(step, recorded["metrics"], replayed["metrics"])
            return
        tolerance = math.inf if self._drifted else TOLERANCE
        difference = compare_losses(step, recorded["metrics"], replayed["metrics"], tolerance)
        self._drifted = True
        self.largest_difference = max(self.largest_difference, difference)


def read_steps(store: Store) -> list[tuple[Record, Record]]:
    """(header, record) of every step, each once and in order. Raises: JournalError where one is damaged."""
    where = store.join(FOLDER)
    steps = in_order(SegmentReader(store, FOLDER).read_new(), -1, where)
    for header, record in steps:
        if not isinstance(header.get("environment"), dict) or not {"epoch", "batch", "stage"} <= record.keys():
            raise damaged(where, record["step"])
    return steps


def in_order(entries: list[tuple[Record, Record]], last: int, where: str) -> list[tuple[Record, Record]]:
    """The entries of steps after `last`, each step once: a second process may have appended steps before it was stopped.

    where: the address of the list, for messages. Raises: JournalError where a record is no step with metrics.
    """
    kept = []
    for header, record in entries:
        if not is_measured(record):
            raise damaged(where, record.get("step"))
        if record["step"] > last:
            kept.append((header, record))
            last = record["step"]
    return kept


def is_measured(record: Record) -> bool:
    """Whether a record has a step, a time and metrics, as what is sent to MLflow needs."""
    metrics = record.get("metrics")
    return (
        type(record.get("step")) is int
        and type(record.get("time")) is int
        and isinstance(metrics, dict)
        and all(type(value) in (int, float) for value in metrics.values())
    )


def damaged(where: str, step: object) -> JournalError:
    return JournalError(
        f"{where} is damaged: the record of step {step!r} is no step. Restore the file, or start a new run."
    )


def changes(before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The changes of the environment: name → [before, now]."""
    if before is None:
        return {}
    return {k: [before.get(k), now.get(k)] for k in {**before, **now} if before.get(k) != now.get(k)}


def compare_bits(step: int, recorded: Mapping[str, float], replayed: Mapping[str, float]) -> None:
    for name in sorted({*recorded, *replayed}):
        if name.startswith(MEASURED):
            continue
        before, now = recorded.get(name), replayed.get(name)
        if repr(before) != repr(now):  # repr differs for any two float64, and NaN equals NaN
            raise ReplayMismatch(step, name, before, now, "compared bit for bit: the same environments")


def compare_losses(step: int, recorded: Mapping[str, float], replayed: Mapping[str, float], tolerance: float) -> float:
    """The largest relative difference of the losses. Raises: ReplayMismatch where one exceeds `tolerance`."""
    largest = 0.0
    for name in sorted(n for n in {*recorded, *replayed} if n.startswith(LOSSES)):
        before, now = recorded.get(name), replayed.get(name)
        if before is None or now is None:
            raise ReplayMismatch(step, name, before, now, "one of them lacks it")
        difference = abs(before - now) / max(abs(before), abs(now), 1e-12)
        if difference > tolerance:
            raise ReplayMismatch(step, name, before, now, f"compared to {tolerance:g}: another environment")
        largest = max(largest, difference)
    return largest
