"""Which groups the supervisor runs: on a cluster that gains and loses places while groups, here threads, train step by step."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ray.train import ControllerError, WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError

from datasets.storage.store import Store, open_store
from orchestration import signals
from orchestration.engine import checkpoint
from orchestration.engine.loop import TrainingProgress
from orchestration.engine.strategies.strategy import FullState
from orchestration.tracking import groups
from orchestration.tracking.groups import After
from orchestration.training import interrupt, supervisor
from orchestration.training.endings import Failure
from orchestration.training.supervisor import Limits, Losses, Room, Supervisor, largest
from orchestration.training.worker import FAILURE
from orchestration.workers.hang import Hangs

END = 100  # steps; one epoch each
Turn = Callable[["Training"], None]


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(supervisor, "LOOK_S", 0.005)
    monkeypatch.setattr(supervisor, "POLL_S", 0.002)
    monkeypatch.setattr(supervisor, "SETTLE_S", 0.05)
    signals.forget()
    yield
    signals.forget()


class Training:
    """A run, and the cluster it is on: `total` places; a group trains until it is asked to stop, or `turns` do something."""

    def __init__(self, folder: Path, total: int, *turns: Turn, **limits: Any) -> None:
        self.store: Store = open_store(str(folder))
        self.total, self.used, self.turns = total, 0, list(turns)
        self.step, self.saved = 0, 0
        self.drained: list[str] = []
        self.mute: list[str] = []
        self.said: list[str] = []
        self.sizes: list[int] = []
        self.tags: dict[str, int] = {}
        given = Limits((1, 2, 4), {"CPU": 1.0}, max_failures=2, wait_s=0.2, grow_s=0.05, end=END, may_grow=False)
        self.supervisor = Supervisor(
            replace(given, **limits), self.store, self, self.start, hangs=Hangs(self.store),
            say=self.said.append, on_group=lambda found: self.tags.update(groups.tags(found)),
        )  # fmt: skip

    def places(self, needs: Mapping[str, float]) -> int:
        return self.total - self.used

    def capacity(self, needs: Mapping[str, float]) -> int:
        return self.total

    def leaving(self) -> list[str]:
        return self.drained

    def silent(self) -> list[str]:
        return self.mute

    def save(self) -> None:
        self.saved = self.step
        progress = TrainingProgress(self.step, 0, self.step)
        checkpoint.save(self.store, FullState({}, {}), progress, end_of_epoch=True, experiment={}, facts={})

    def start(self, size: int) -> Callable[[], dict[str, Any]]:
        def work() -> dict[str, Any]:
            self.used = size
            try:
                return self.train()
            finally:
                self.used = 0

        self.sizes.append(size)
        return work

    def train(self) -> dict[str, Any]:
        self.step, self.noted = self.saved, len(groups.read(self.store))
        self.store.write(interrupt.LISTENING, b"")
        turn = self.turns.pop(0) if self.turns else finishes
        turn(self)
        self.save()
        return {"epoch": self.step, "batch": 0, "step": self.step}

    def go_to(self, step: int) -> None:
        self.step = step

    def until_asked(self) -> None:
        while not self.store.exists(interrupt.REQUEST):
            time.sleep(0.002)
        self.step += 1

    def run(self) -> Failure | None:
        return self.supervisor.run()

    def is_noted(self) -> None:
        """Wait until the supervisor has seen that this group trains."""
        while len(groups.read(self.store)) <= self.noted:
            time.sleep(0.002)

    @property
    def began(self) -> list[tuple[int, int, After]]:
        return [(group.workers, group.step, group.after) for group in groups.read(self.store)]


def finishes(training: Training) -> None:
    training.go_to(training.step + 1)
    training.save()  # before the supervisor has looked, perhaps
    training.is_noted()
    training.go_to(END)


def dies(training: Training) -> None:
    training.is_noted()
    raise WorkerGroupError("…", {0: RuntimeError("gone")})


def test_one_group_of_the_largest_size_trains_an_undisturbed_run(tmp_path: Path) -> None:
    training = Training(tmp_path, 3)
    assert training.run() is None
    assert training.sizes == [2], "of 3 places, 4 lanes leave one idle"
    assert training.said == []
    assert training.tags == {"workers": 2, "restarts": 0, "resizes": 0}


def test_after_a_lost_node_the_next_group_is_smaller_and_goes_on_from_the_checkpoint(tmp_path: Path) -> None:
    def is_dropped(training: Training) -> None:
        training.total = 2
        training.mute.clear()

    def loses_a_node(training: Training) -> None:
        training.go_to(7)
        training.save()
        training.go_to(9)
        training.total, training.mute = 4, ["10.0.0.3"]
        threading.Timer(0.1, is_dropped, [training]).start()
        dies(training)

    training = Training(tmp_path, 4, loses_a_node)
    assert training.run() is None
    assert training.sizes == [4, 2], "the dead node's places were not counted"
    assert training.began == [(4, 0, After.START), (2, 7, After.LOSS)]
    assert training.tags == {"workers": 2, "restarts": 1, "resizes": 1}
    assert training.said == [
        "the group of 4 was lost: rank 0 stopped with RuntimeError: gone. Training goes on from step 7: loss 1 of at most 2 "
        "in a row without a newer checkpoint",
        "waiting until Ray drops 10.0.0.3: no connection",
        "training goes on with 2 workers from step 7",
    ]


def test_where_there_is_room_all_stop_after_one_step_and_a_larger_group_goes_on(tmp_path: Path) -> None:
    def gains_a_node(training: Training) -> None:
        training.go_to(5)
        training.is_noted()
        training.total = 4
        training.until_asked()

    training = Training(tmp_path, 2, gains_a_node)
    assert training.run() is None
    assert training.began == [(2, 0, After.START), (4, 6, After.GROWTH)], "no step is lost"
    assert training.tags == {"workers": 4, "restarts": 0, "resizes": 1}


def test_a_node_that_is_drained_is_left_with_a_checkpoint_however_often(tmp_path: Path) -> None:
    def drained(training: Training) -> None:
        training.is_noted()
        training.drained = ["10.0.0.3"]
        training.until_asked()
        training.drained = []

    training = Training(tmp_path, 2, *[drained] * 5, max_failures=0)
    assert training.run() is None
    assert training.sizes == [2] * 6
    assert [step for _, step, _ in training.began[:5]] == [0, 1, 2, 3, 4]
    assert training.tags["restarts"] >= 4
    assert "10.0.0.3 will be taken away: stopping after this step, with a checkpoint" in training.said


def test_losses_in_a_row_without_a_newer_checkpoint_end_the_run(tmp_path: Path) -> None:
    def saves_and_dies(training: Training) -> None:
        training.go_to(training.step + 3)
        training.save()
        dies(training)

    training = Training(tmp_path / "stuck", 2, *[dies] * 9)
    failure = training.run()
    assert failure is not None
    assert failure.message == (
        "gone. The workers were lost 3 times in a row without a newer checkpoint (max_failures=2)."
    )
    assert failure.may_resume
    assert len(training.sizes) == 3

    moving = Training(tmp_path / "moving", 2, *[saves_and_dies] * 9)
    assert moving.run() is None
    assert len(moving.sizes) == 10


def test_an_error_of_ours_ends_the_run_at_once(tmp_path: Path) -> None:
    def fails(training: Training) -> None:
        training.store.write(FAILURE, json.dumps({"type": "DataError", "message": "damaged"}).encode())
        dies(training)

    training = Training(tmp_path, 2, fails)
    assert training.run() == Failure("DataError", "damaged")
    assert training.sizes == [2]


def test_below_the_minimum_it_says_so_waits_and_gives_up(tmp_path: Path) -> None:
    training = Training(tmp_path, 1, sizes=(2, 4))
    failure = training.run()
    assert failure is not None
    told = "training needs 2 workers of 1 CPU, and the Ray cluster has room for 1"
    assert failure.message == f"{told}, for 0.2 s (resources.wait_s)."
    assert training.said == [f"{told}: waiting for more"]
    assert training.sizes == []


def test_room_that_comes_in_time_is_used(tmp_path: Path) -> None:
    training = Training(tmp_path, 1, sizes=(2, 4), wait_s=60)
    threading.Timer(0.1, lambda: setattr(training, "total", 2)).start()
    assert training.run() is None
    assert training.sizes == [2]


def test_a_cluster_that_grows_on_demand_is_asked_for_the_smallest_group(tmp_path: Path) -> None:
    def has_no_room(training: Training) -> None:
        training.store.delete(interrupt.LISTENING)
        training.total = 4
        raise ControllerError(WorkerGroupStartupTimeoutError(2))

    training = Training(tmp_path, 1, has_no_room, sizes=(2, 4), wait_s=60, may_grow=True, max_failures=0)
    assert training.run() is None
    assert training.sizes == [2, 4], "to find no room is no loss"


def test_after_a_signal_no_group_follows(tmp_path: Path) -> None:
    def interrupted(training: Training) -> None:
        signals._received.append(15)
        training.store.write(interrupt.REQUEST, b"")

    training = Training(tmp_path, 2, interrupted)
    assert training.run() is None
    assert training.sizes == [2]


def test_a_group_that_was_asked_and_reached_the_end_is_the_last(tmp_path: Path) -> None:
    def ends_meanwhile(training: Training) -> None:
        training.is_noted()
        training.total = 4
        training.until_asked()
        training.go_to(END)

    training = Training(tmp_path, 2, ends_meanwhile)
    assert training.run() is None
    assert training.sizes == [2]


def test_a_newer_checkpoint_begins_a_new_row_of_losses() -> None:
    losses = Losses(2)
    assert [losses.add(step) for step in (0, 0, 4, 4, 4)] == [True, True, True, True, False]
    assert not Losses(0).add(0)


def test_room_lasts_without_a_break() -> None:
    room = Room(60.0)
    assert not room.lasts(True)
    assert room.since is not None
    room.since -= 61
    assert room.lasts(True)
    assert not room.lasts(False)
    assert not room.lasts(True), "from the beginning again"


def test_the_largest_size_that_fits() -> None:
    assert [largest((2, 3, 6), places) for places in range(8)] == [0, 0, 2, 3, 3, 3, 6, 6]
