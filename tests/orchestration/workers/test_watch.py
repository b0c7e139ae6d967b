"""A rank that stands still is named, with its place and that of the others, and its group ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pytest

from datasets.storage.store import open_store
from orchestration.config.build import without_tables
from orchestration.config.load import load
from orchestration.engine import checkpoint
from orchestration.training.preparation import prepare
from orchestration.training.worker import WorkerConfig
from orchestration.workers.hang import EXIT_STATUS, Hangs, Summary, read, read_summary
from orchestration.workers.watch import Patience, Watch
from tests.orchestration.workers import standing_still
from tests.servers.process import free_port
from tests.tiny import tiny_dataset

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_dataset(tmp_path_factory.mktemp("watch") / "data")


@contextmanager
def group(data: str, run: Path, workers: int, fault: str, faulty: int) -> Iterator[list[subprocess.Popen[str]]]:
    """The processes of a group that trains, in which the faulty rank has a fault."""
    sizes = ["augment.height=32", "augment.width=16", "method.width=0.125", f"workers={workers}", "epochs=1"]
    batches = ["batch.people=6", "batch.images=2", "batch.lanes=6", "optimizers.model.schedule=null"]
    experiment = load("baseline-demo", [f"data={data}", f"storage={run.parent}", *sizes, *batches])
    config = WorkerConfig(experiment.resolved(), str(run), without_tables(prepare(experiment).facts))
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(workers),
    }
    command = [sys.executable, "-m", "tests.orchestration.workers.standing_still", fault, str(faulty)]
    started = [
        subprocess.Popen(
            [*command, json.dumps(asdict(config))],
            env=environment | {"RANK": str(rank)},
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(workers)
    ]
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


def ended(processes: list[subprocess.Popen[str]], statuses: dict[int, int]) -> None:
    for rank, status in statuses.items():
        said = processes[rank].communicate(timeout=180)[1]
        assert processes[rank].returncode == status, f"rank {rank}: {said}"


def summary_of(run: Path) -> Summary:
    found = read_summary(open_store(str(run)))
    assert found is not None
    return found


@pytest.mark.parametrize("faulty", [0, pytest.param(1, marks=pytest.mark.long)])
def test_a_stopped_process_is_named_with_its_place_and_that_of_those_who_wait(
    data: str, tmp_path: Path, faulty: int
) -> None:
    """Rank 0 serves the store by which ranks hear of each other."""
    run, waiting = tmp_path / "run", {0, 1, 2} - {faulty}
    with group(data, run, 3, "stops", faulty) as processes:
        ended(processes, dict.fromkeys(waiting, EXIT_STATUS))
        assert processes[faulty].poll() is None, "it is stopped still, and left to Ray"
        stopped = processes[faulty].pid
    found = summary_of(run)
    assert found.ranks == [faulty]
    assert found.step == standing_still.AT_BATCH
    assert f"rank {faulty} on {os.uname().nodename} (process {stopped}, last heard " in found.message
    assert "its process does not run, at " in found.message
    assert "standing_still.py" in found.message
    assert "in stop" in found.message
    reports = read(open_store(str(run)), found.attempt)
    assert {rank: report.by for rank, report in reports.items()} == {faulty: min(waiting), **dict.fromkeys(waiting)}
    for rank in waiting:
        assert reports[rank].phase == "in a step"
        assert f"at {reports[rank].where}" in found.message
        text = (run / "hang" / found.attempt / f"{rank}.txt").read_text()
        assert "in train_step" in text, "the stack of those who wait"
    assert "in stop" in (run / "hang" / found.attempt / f"{faulty}.txt").read_text()


def test_a_read_that_never_ends_is_named_and_all_processes_end(data: str, tmp_path: Path) -> None:
    with group(data, tmp_path / "run", 3, "reads-for-ever", 2) as processes:
        ended(processes, dict.fromkeys(range(3), EXIT_STATUS))
    found = summary_of(tmp_path / "run")
    assert found.ranks == [2]
    assert "reading a batch): it stands, at tests/orchestration/workers/standing_still.py" in found.message
    assert "ranks 0, 1 wait at " in found.message


@pytest.mark.long
def test_a_worker_alone_that_reads_for_ever_is_named(data: str, tmp_path: Path) -> None:
    with group(data, tmp_path / "run", 1, "reads-for-ever", 0) as processes:
        ended(processes, {0: EXIT_STATUS})
    assert "rank 0" in summary_of(tmp_path / "run").message


@pytest.mark.long
def test_steps_that_are_slower_but_within_the_limit_end_nothing(data: str, tmp_path: Path) -> None:
    with group(data, tmp_path / "run", 2, "reads-slowly", 1) as processes:
        ended(processes, {0: 0, 1: 0})
    store = open_store(str(tmp_path / "run"))
    assert read_summary(store) is None
    assert checkpoint.latest(store) is not None


PATIENCE = Patience(step_s=1, long_s=60)


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[tuple[Watch, list[int]]]:
    """A watch of this process, and the exit statuses that it would have ended it with."""
    statuses: list[int] = []
    watch = Watch(open_store(str(tmp_path)), PATIENCE, end=statuses.append)
    yield watch, statuses
    watch.close()


def wait_until_ended(watch: Watch) -> None:
    watch.threads[1].join(timeout=60)
    assert not watch.threads[1].is_alive()


def test_a_process_alone_is_ended_after_its_last_progress(watched: tuple[Watch, list[int]], tmp_path: Path) -> None:
    watch, statuses = watched
    watch.progress("in a step", step=7)
    wait_until_ended(watch)
    assert statuses == [EXIT_STATUS]
    assert summary_of(tmp_path).step == 7


def test_every_progress_counts_and_long_phases_have_a_limit_of_their_own(watched: tuple[Watch, list[int]]) -> None:
    watch, statuses = watched
    assert watch.left() > PATIENCE.step_s, "before the first step"
    watch.progress(step=1)
    assert watch.left() <= PATIENCE.step_s
    with watch.during("writing a checkpoint", is_long=True):
        assert watch.left() > PATIENCE.step_s
        time.sleep(2 * PATIENCE.step_s)
    assert statuses == []
    assert watch.left() <= PATIENCE.step_s


SUBJECT = """
import ctypes, sys, time
from datasets.storage.store import open_store
from orchestration.workers.watch import Patience, Watch

watch = Watch(open_store(sys.argv[1]), Patience(1, 60))
watch.progress(step=1)
time.sleep(0.5)
ctypes.PyDLL(None).sleep(120)  # keeps the interpreter's lock
"""


def test_code_that_keeps_the_interpreters_lock_is_ended_with_its_stack(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SUBJECT, str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 1
    assert "Timeout" in done.stderr
    assert "line 9 in <module>" in done.stderr


def test_a_driver_says_each_hang_of_its_own_workers_once(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    assert Hangs(store).look() is None
    store.write("hang.json", json.dumps(asdict(Summary("earlier", 3, [0], "before"))).encode())
    hangs = Hangs(store)
    assert hangs.look() is None
    store.write("hang.json", json.dumps(asdict(Summary("now", 9, [1], "rank 1 stood still"))).encode())
    assert hangs.look() == "rank 1 stood still"
    assert hangs.look() is None
    assert hangs.messages == ["rank 1 stood still"]
