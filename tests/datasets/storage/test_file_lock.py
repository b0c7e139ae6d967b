"""A lock between processes of a node: one holder at a time, released at its end, with a limit to the wait."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from datasets.storage.file_lock import locked


def test_one_holds_it_at_a_time(tmp_path: Path) -> None:
    inside, most = [0], [0]

    def work() -> None:
        for _ in range(20):
            with locked(tmp_path / "lock", is_temporary=True):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                time.sleep(0.0005)
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    assert not list(tmp_path.iterdir()), "a temporary lock goes with its last holder"


def test_a_lock_that_stays_keeps_what_is_in_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.write_bytes(b"counter")
    with locked(path):
        pass
    assert path.read_bytes() == b"counter"


def test_the_wait_ends_with_its_limit(tmp_path: Path) -> None:
    began = time.monotonic()
    with (
        locked(tmp_path / "lock"),
        pytest.raises(TimeoutError, match=r"another process held .*lock for too long"),
        locked(tmp_path / "lock", wait_s=0.1),
    ):
        pass
    assert time.monotonic() - began >= 0.1
    with locked(tmp_path / "lock", wait_s=0):
        pass


def test_one_that_is_released_in_time_is_taken(tmp_path: Path) -> None:
    holds, done = threading.Event(), threading.Event()

    def hold() -> None:
        with locked(tmp_path / "lock", is_temporary=True):
            holds.set()
            done.wait(5)

    thread = threading.Thread(target=hold)
    thread.start()
    assert holds.wait(5)
    threading.Timer(0.05, done.set).start()
    with locked(tmp_path / "lock", is_temporary=True, wait_s=30):
        assert done.is_set()
    thread.join()


def test_a_folder_that_is_not_there_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), locked(tmp_path / "none" / "lock", wait_s=1):
        pass
