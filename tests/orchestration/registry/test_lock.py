"""The lock in the registry: one holder at a time, among threads and processes that all want it at once."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from orchestration.registry import lock
from orchestration.registry.lock import LockedError, acquire, locked, locks, release
from orchestration.tracking import mlflow_client

ROOT = Path(__file__).resolve().parents[3]
WANT_IT = """
import sys
sys.path.insert(0, sys.argv[1])
from orchestration.tracking import mlflow_client
from orchestration.registry.lock import LockedError, locked
client = mlflow_client.connect(sys.argv[2])
print("ready", flush=True)
while sys.stdin.readline():
    try:
        with locked(client, "raced", "the other"):
            print("mine", flush=True)
            sys.stdin.readline()
    except LockedError as error:
        print(error, flush=True)
        sys.stdin.readline()
    print("free", flush=True)
"""


@pytest.fixture
def client(place: Path, mlflow_database: str) -> MlflowClient:
    return mlflow_client.connect(mlflow_database)


def test_the_error_names_holder_and_expiry(client: MlflowClient) -> None:
    with (
        locked(client, "told", "ann"),
        pytest.raises(LockedError, match=r"told: locked by ann, who is deciding about it \(at most until .* UTC\)"),
        locked(client, "told", "bob"),
    ):
        pass
    with locked(client, "told", "bob"), locked(client, "another", "ann"):
        assert [one.holder for one in locks(client, "told")] == ["bob"]
    assert not locks(client, "told")


def test_what_fails_under_the_lock_gives_it_up(client: MlflowClient) -> None:
    with pytest.raises(KeyError), locked(client, "failing", "ann"):
        raise KeyError
    assert not locks(client, "failing")


def test_of_many_threads_never_two_hold_it_and_somebody_always_does(client: MlflowClient) -> None:
    inside, most, won = 0, 0, []
    counting, start = threading.Lock(), threading.Barrier(6)

    def want(number: int) -> None:
        nonlocal inside, most
        for _ in range(3):
            start.wait()
            try:
                with locked(client, "threads", f"reviewer {number}"):
                    with counting:
                        inside += 1
                        most = max(most, inside)
                        won.append(number)
                    time.sleep(0.01)
                    with counting:
                        inside -= 1
            except LockedError:
                pass

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(want, range(6)))
    assert most == 1
    assert len(won) >= 3  # each round somebody
    assert not locks(client, "threads")


def test_of_two_processes_one_wins_and_the_other_gets_an_error(client: MlflowClient, mlflow_database: str) -> None:
    """This process and another go for it at once, several times."""
    other = subprocess.Popen(
        [sys.executable, "-c", WANT_IT, str(ROOT), mlflow_database],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdin
    assert other.stdout
    assert other.stdout.readline() == "ready\n"
    for turn in range(8):
        print("go", file=other.stdin, flush=True)
        ours, theirs = "mine\n", ""
        try:
            with locked(client, "raced", "this one"):
                theirs = other.stdout.readline()
        except LockedError as error:
            ours, theirs = str(error), other.stdout.readline()
        assert sorted([ours == "mine\n", theirs == "mine\n"]) == [False, True]
        loser = theirs if ours == "mine\n" else ours
        assert "who is deciding about it" in loser or "at the same moment" in loser
        print("done", file=other.stdin, flush=True)
        assert other.stdout.readline() == "free\n"
        assert not locks(client, "raced"), turn
    other.stdin.close()
    assert other.wait(30) == 0


def test_an_expired_lock_is_replaced_and_its_late_holder_cannot_continue(client: MlflowClient) -> None:
    dead = acquire(client, "expired", "ann", held_s=-1)
    with pytest.raises(LockedError, match="took longer than its lock is valid"):
        dead.check()
    mine = acquire(client, "expired", "bob")
    mine.check()
    assert [one.name for one in locks(client, "expired")] == [mine.name]
    release(client, dead)  # the late one comes back: what is another's stays
    assert [one.holder for one in locks(client, "expired")] == ["bob"]
    release(client, mine)
    assert not locks(client, "expired")


def test_of_many_who_find_it_expired_one_takes_it_over(client: MlflowClient) -> None:
    acquire(client, "takeover", "dead", held_s=-1)
    start = threading.Barrier(6)

    def want(number: int) -> str:
        start.wait()
        try:
            return acquire(client, "takeover", f"reviewer {number}").token
        except LockedError:
            return ""

    with ThreadPoolExecutor(6) as pool:
        won = [token for token in pool.map(want, range(6)) if token]
    assert won == [one.token for one in locks(client, "takeover")]
    assert len(won) == 1


def test_who_looked_long_ago_gives_way_to_who_holds_it(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """bob saw ann's expired lock 1 and stalled; meanwhile it was taken over and given up, and eve holds a new one."""
    seen = [lock.Lock("stalled.lock-1", "ann", 0.0, "gone")]
    eve = acquire(client, "stalled", "eve")
    assert eve.name == "stalled.lock-1"
    looks = iter([seen])
    look = lock.locks
    monkeypatch.setattr(lock, "locks", lambda *words: next(looks, None) or look(*words))
    with pytest.raises(LockedError, match="locked by eve"):
        acquire(client, "stalled", "bob")
    assert [one.token for one in look(client, "stalled")] == [eve.token]


def test_a_lock_near_its_end_stops_its_holder(client: MlflowClient) -> None:
    mine = acquire(client, "slow", "ann", held_s=100.0)
    mine.check()
    with pytest.raises(LockedError, match="nothing further was changed"):
        mine.check(now=time.time() + 50)
    release(client, mine)


def test_a_lock_whose_creation_was_not_answered_is_held_all_the_same(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow's client asks again where an answer is lost, and is told that the name exists."""
    create = MlflowClient.create_registered_model

    def create_twice(self: MlflowClient, *words: Any, **options: Any) -> Any:
        create(self, *words, **options)
        return create(self, *words, **options)

    monkeypatch.setattr(MlflowClient, "create_registered_model", create_twice)
    with locked(client, "unanswered", "ann"):
        assert [one.holder for one in locks(client, "unanswered")] == ["ann"]
    assert not locks(client, "unanswered")


def ended_process() -> int:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def test_a_lock_ends_with_its_process_on_the_same_machine(client: MlflowClient) -> None:
    """As where the process was killed in the midst of a decision. The same numbers of another machine say nothing."""
    machine, own, started = lock.this_process().split(" ")
    dead = {
        f"{machine} {ended_process()} {started}": True,
        f"{machine} {own} 1": True,  # the number is another process's by now
        f"{machine} {own} {started}": False,
        f"other-boot,pid:[1] {ended_process()} {started}": False,
        f"{machine} x {started}": False,
        "": False,
    }
    for number, (process, is_dead) in enumerate(dead.items()):
        acquire(client, f"killed-{number}", "ann")
        [held] = locks(client, f"killed-{number}")
        client.set_registered_model_tag(held.name, lock.PROCESS, process)
        if is_dead:
            mine = acquire(client, f"killed-{number}", "bob")
            assert [one.token for one in locks(client, f"killed-{number}")] == [mine.token]
        else:
            with pytest.raises(LockedError, match="locked by ann"):
                acquire(client, f"killed-{number}", "bob")


def test_a_process_that_is_hidden_is_not_taken_for_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where /proc shows each user's own processes alone, and the holder is another user."""

    def refuse(number: int, signal: int) -> None:
        raise PermissionError

    machine, own, _ = lock.this_process().split(" ")
    monkeypatch.setattr(lock.os, "kill", refuse)
    assert lock.is_known_dead(f"{machine} {own} 1")
    monkeypatch.setattr(lock, "started", lambda number: "")
    assert not lock.is_known_dead(f"{machine} {own} 1")
