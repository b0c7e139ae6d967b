"""How a group ended is read from what Ray Train raises and from what the workers left in the run's storage."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from ray.exceptions import ActorDiedError
from ray.train import ControllerError, PreemptionError, PreemptionInfo, WorkerGroupError
from ray.train.v2._internal.exceptions import (
    WorkerGroupStartupFailedError,
    WorkerGroupStartupTimeoutError,
    WorkerHealthCheckFailedError,
)

from datasets.storage.store import Store, open_store
from orchestration.training.endings import CONTROLLER_LOST, End, Failure, ending_of
from orchestration.training.worker import FAILURE
from orchestration.workers.hang import SUMMARY, Hangs, Summary


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path))


def workers(failures: dict[int, Exception]) -> WorkerGroupError:
    return WorkerGroupError("…", failures)


def dead(*, preempted: bool = False) -> Exception:
    error = ActorDiedError()
    error._preempted = preempted
    return WorkerHealthCheckFailedError("…", error)


COLLATERAL = RuntimeError("[/gloo/pair.cc:545] Connection closed by peer [127.0.0.1]:36655.\nat some line")


@pytest.mark.parametrize(
    ("error", "end", "what"),
    [
        (workers({0: COLLATERAL, 2: dead()}), End.LOST, "rank 2 ended: killed, out of memory, or its node was lost"),
        (workers({0: COLLATERAL, 1: dead(preempted=True)}), End.PREEMPTED, "the node of rank 1 was pre-empted"),
        (
            workers({1: COLLATERAL}),
            End.LOST,
            "rank 1 lost the connection to a worker that ended, or whose node was lost",
        ),
        (workers({1: OSError("no space")}), End.LOST, "rank 1 stopped with OSError: no space"),
        (PreemptionError(PreemptionInfo(None, {})), End.PREEMPTED, "a node was pre-empted"),
        (ActorDiedError(), End.LOST, f"{CONTROLLER_LOST}: it was killed, or the machine had no memory left."),
        (ControllerError(WorkerGroupStartupTimeoutError(4)), End.NO_ROOM, "the workers found no room in time"),
        (ControllerError(WorkerGroupStartupFailedError("no code")), End.LOST, "the workers did not start: no code"),
        (ControllerError(ValueError("a wrong setting")), End.FAILED, ""),
        (OSError("no storage"), End.FAILED, ""),
    ],
)
def test_errors_of_ray_are_told_apart(store: Store, error: Exception, end: End, what: str) -> None:
    ending = ending_of(None, error, store, Hangs(store))
    assert (ending.end, ending.what) == (end, what)
    assert ending.failure is not None
    assert ending.failure.message


def test_what_a_worker_recorded_as_final_comes_before_what_ray_says(store: Store) -> None:
    store.write(FAILURE, json.dumps({"type": "DataError", "message": "a shard is damaged"}).encode())
    expected = Failure("DataError", "a shard is damaged")
    assert ending_of(None, workers({0: dead()}), store, Hangs(store)).failure == expected
    assert (
        ending_of({"failure": {"type": "DataError", "message": "a shard is damaged"}}, None, store, Hangs(store)).end
        is End.FAILED
    )


def test_a_group_that_the_watch_ended_is_lost_with_the_words_of_the_watch(store: Store) -> None:
    hangs = Hangs(store)
    summary = Summary("1", 9, [1], "rank 1 stood still in decode.")
    store.write(SUMMARY, json.dumps(asdict(summary)).encode())
    ending = ending_of(None, workers({0: dead()}), store, hangs)
    assert (ending.end, ending.what) == (End.LOST, "rank 1 stood still in decode")
    assert hangs.messages == [summary.message]
    assert ending_of(None, workers({0: dead()}), store, hangs).what.startswith("rank 0 ended"), (
        "this one is another loss"
    )


def test_a_group_that_returned_has_no_failure(store: Store) -> None:
    ending = ending_of({"epoch": 2, "batch": 0, "step": 9}, None, store, Hangs(store))
    assert (ending.end, ending.failure) == (End.RETURNED, None)
