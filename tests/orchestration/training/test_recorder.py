"""Training goes on while a checkpoint is written; whatever happens meanwhile, it resumes to the same bits."""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch.multiprocessing.spawn import ProcessExitedException

from datasets.shards.dataset import Dataset
from datasets.storage.store import Store, StoreError, open_store
from methods.method import Stage
from orchestration.config import build
from orchestration.config.load import load
from orchestration.engine import checkpoint
from orchestration.engine.checkpoint_writer import CheckpointWriter
from orchestration.engine.loop import StepReport, TrainingProgress
from orchestration.engine.snapshot import Snapshot
from orchestration.engine.strategies.strategy import FullState, OwnRows
from orchestration.tracking.journal import read_steps
from orchestration.training import interrupt
from orchestration.training.recorder import Recorder
from orchestration.training.worker import Training, WorkerConfig, run
from tests.orchestration.processes import in_processes
from tests.tiny import tiny_dataset

SOON = 60.0  # seconds after which a test has failed
STEPS, EVERY = 14, 2  # of the training, two epochs; between two checkpoints
FOLDERS = [f"checkpoints/{step:08d}" for step in (2, 4, 6, 7, 9, 11, 13, 14)]  # the epochs' ends among them
Write = Callable[[str], None]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_dataset(tmp_path_factory.mktemp("data") / "tiny", persons=8, clothes=2, images=4)


def config(data: str, place: str, workers: int = 1, *words: str) -> WorkerConfig:
    experiment = load("baseline-demo", [
        f"data={data}", f"workers={workers}", "epochs=2", "batch={people: 4, images: 2, lanes: 2}", "augment.height=32",
        "augment.width=16", "method.width=0.0625", f"checkpoint={{every_batches: {EVERY}, keep: null}}", *words,
    ])  # fmt: skip
    dataset = Dataset.open(data)
    return WorkerConfig(experiment.resolved(), place, build.describe_data(dataset, dataset.index("train")))


class Watched(Store):
    """A store that calls the process's `before(path)` ahead of each write of a checkpoint's file."""

    before: ClassVar[Write]

    def write(self, path: str, data: bytes | memoryview) -> None:
        if path.startswith("checkpoints/"):
            Watched.before(path.removeprefix("checkpoints/"))
        super().write(path, data)


def watched(place: Path | str, before: Write) -> Store:
    Watched.before = staticmethod(before)
    return Watched(str(place))


def train(data: str, place: Path | str, workers: int = 1, before: Write = lambda path: None) -> TrainingProgress:
    return run(config(data, str(place), workers), watched(place, before), torch.device("cpu"))


def files(place: Path) -> dict[str, bytes]:
    """Everything in the checkpoints of a run."""
    return {
        str(path.relative_to(place)): path.read_bytes() for path in (place / "checkpoints").rglob("*") if path.is_file()
    }


def steps_of(place: Path) -> list[tuple[int, dict[str, float]]]:
    """Each step in a run's journal, without what was measured."""
    return [
        (record["step"], {k: v for k, v in record["metrics"].items() if not k.startswith("speed/")})
        for _, record in read_steps(open_store(str(place)))
    ]


@pytest.fixture(scope="module")
def undisturbed(data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("undisturbed")
    assert train(data, place).step == STEPS
    assert checkpoint.complete_folders(open_store(str(place))) == FOLDERS
    return place


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What training does, in order, each entry at its beginning."""
    entries: list[str] = []

    def note(owner: type, name: str, word: Callable[..., str]) -> None:
        original = getattr(owner, name)

        def noting(*arguments: Any) -> Any:
            entries.append(word(*arguments))
            return original(*arguments)

        monkeypatch.setattr(owner, name, noting)

    note(Recorder, "on_step", lambda self, report: f"step {report.step + 1}")
    note(Snapshot, "take", lambda self, state: "snapshot")
    note(CheckpointWriter, "drain", lambda self: "wait" if self.pending and not self.pending.done() else "no wait")
    return entries


def until(log: list[str], entry: str) -> None:
    """Wait for an entry."""
    end = time.monotonic() + SOON
    while entry not in log:
        assert time.monotonic() < end, f"no {entry!r} in {log}"
        time.sleep(0.001)


def test_steps_go_on_while_a_checkpoint_is_written_and_the_next_one_waits(
    data: str, undisturbed: Path, log: list[str], tmp_path: Path
) -> None:
    """The first write lasts until training waits for it. Its snapshot holds what the step before it left."""

    def before(path: str) -> None:
        if path.startswith("00000002/"):
            until(log, "wait")
        log.append(path)

    train(data, tmp_path, before=before)
    first = [f"00000002/{name}" for name in (*checkpoint.FILES, checkpoint.FACTS, checkpoint.DESCRIPTION)]
    begin = log.index("snapshot")
    after = ["snapshot", "step 3", "step 4", "wait", *first, "snapshot"]
    assert [entry for entry in log[begin:] if entry != "no wait"][: len(after)] == after
    assert files(tmp_path) == files(undisturbed), "each checkpoint was written, and the same bits"


def test_a_complete_checkpoint_has_every_step_before_it_in_the_journal(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestration.tracking.segments.LONGEST_WAIT_S", SOON)
    in_journal: dict[int, int] = {}

    def before(path: str) -> None:
        folder, _, name = path.partition("/")
        if name == checkpoint.DESCRIPTION:
            in_journal[int(folder)] = len(steps_of(tmp_path))

    train(data, tmp_path, before=before)
    assert {*in_journal} == {int(folder[-8:]) for folder in FOLDERS}
    assert all(steps >= folder for folder, steps in in_journal.items()), in_journal


class KilledHere:
    """Ends its process ahead of a write."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __call__(self, path: str) -> None:
        if path == self.path:
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(("workers", "name"), [(1, "optimizers.safetensors"), (2, "checkpoint.json")])
def test_a_run_killed_while_it_writes_a_checkpoint_resumes_from_the_one_before(
    workers: int, name: str, data: str, tmp_path: Path
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    in_processes(workers, train, data, whole, workers)
    with pytest.raises(ProcessExitedException, match="SIGKILL"):
        in_processes(workers, train, data, killed, workers, KilledHere(f"00000004/{name}"))
    assert (killed / "checkpoints/00000004/model.safetensors").exists()
    store = open_store(str(killed))
    assert checkpoint.complete_folders(store) == ["checkpoints/00000002"]
    in_processes(workers, train, data, killed, workers)
    assert files(killed) == files(whole)
    assert steps_of(killed) == steps_of(whole)


@pytest.mark.parametrize("failing", [EVERY, STEPS])
def test_an_error_of_the_thread_ends_the_run_with_that_error(
    failing: int, data: str, undisturbed: Path, tmp_path: Path
) -> None:
    """Whether training goes on after that checkpoint or has ended with it."""
    error = StoreError("cannot write there: the store is gone. Bring it back")

    def before(path: str) -> None:
        if path.startswith(f"{failing:08d}/"):
            raise error

    with pytest.raises(StoreError) as caught:
        train(data, tmp_path, before=before)
    assert caught.value is error
    folders = checkpoint.complete_folders(open_store(str(tmp_path)))
    assert folders == [folder for folder in FOLDERS if int(folder[-8:]) < failing]
    train(data, tmp_path)
    assert files(tmp_path) == files(undisturbed)


def test_the_error_of_training_is_raised_rather_than_that_of_the_thread(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    raised = threading.Event()

    def before(path: str) -> None:
        assert raised.wait(SOON)
        raise StoreError("the store is gone")

    def on_step(self: Recorder, report: StepReport) -> None:
        if report.step == EVERY:
            raised.set()
            raise ZeroDivisionError("of training")

    monkeypatch.setattr(Recorder, "on_step", on_step)
    with pytest.raises(ZeroDivisionError, match="of training"), caplog.at_level(logging.WARNING):
        train(data, tmp_path, before=before)
    assert "the last checkpoint was not written: StoreError: the store is gone" in caplog.text


def test_a_checkpoint_that_is_being_written_when_training_fails_is_completed(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raised = threading.Event()

    def on_step(self: Recorder, report: StepReport) -> None:
        assert self.journal is not None
        self.journal.record(report)
        if report.step == EVERY:
            raised.set()
            raise ZeroDivisionError

    monkeypatch.setattr(Recorder, "on_step", on_step)
    with pytest.raises(ZeroDivisionError):
        train(data, tmp_path, before=lambda path: assert_set(raised))
    assert checkpoint.complete_folders(open_store(str(tmp_path))) == [f"checkpoints/{EVERY:08d}"]


def assert_set(event: threading.Event) -> None:
    assert event.wait(SOON)


def test_a_run_that_is_asked_to_stop_returns_when_its_checkpoint_is_complete(
    data: str, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(str(tmp_path))
    monkeypatch.setattr(interrupt, "POLL_S", 0.0)
    on_step = Recorder.on_step

    def asking(self: Recorder, report: StepReport) -> None:
        on_step(self, report)
        if report.step == 1:
            store.write(interrupt.REQUEST, b"")

    monkeypatch.setattr(Recorder, "on_step", asking)
    slow = watched(tmp_path, lambda path: time.sleep(0.1))
    with closing(Training(config(data, str(tmp_path)), slow, torch.device("cpu"))) as training:
        assert not training.advance(2)
        assert checkpoint.complete_folders(store) == ["checkpoints/00000002", "checkpoints/00000003"]
        assert len(read_steps(store)) == 3
    interrupt.forget(store)
    train(data, tmp_path)
    expected = files(undisturbed)
    assert {path: content for path, content in files(tmp_path).items() if path in expected} == expected


class Held:
    """The part of a strategy that a recorder asks for."""

    def full_state(self) -> FullState:
        return FullState({"weight": torch.ones(3)}, {})

    def own_rows(self) -> OwnRows:
        return OwnRows(FullState({}, {}), {}, {})


def test_training_waits_for_the_checkpoint_at_the_end_of_a_stage(data: str, tmp_path: Path) -> None:
    experiment = load("baseline-demo", [f"data={data}", "epochs=4", "checkpoint={every_epochs: 1, keep: 1}"])
    stages = [Stage("first", 0, ("a",)), Stage("second", 2, ("b",))]
    store = watched(tmp_path, lambda path: time.sleep(0.1))
    training = Training(config(data, str(tmp_path / "run")), store.sub("run"), torch.device("cpu"))
    with closing(training), closing(Recorder(store, experiment, {}, stages, Held(), training.journal, 0)) as recorder:  # type: ignore[arg-type]
        pending = []
        for epoch in (1, 2, 3, 4):
            recorder.on_progress(TrainingProgress(epoch, 0, epoch), end_of_epoch=True)
            pending.append(recorder.writer.pending is not None)
        assert pending == [True, False, True, False]
        descriptions = [
            json.loads(path.read_bytes()) for path in sorted(tmp_path.glob("checkpoints/*/checkpoint.json"))
        ]
        assert [(found["position"]["epoch"], found["ends_stage"]) for found in descriptions] == [
            (2, "first"), (4, "second"),
        ]  # fmt: skip
