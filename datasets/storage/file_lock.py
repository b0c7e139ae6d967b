"""A lock that processes of one node take in turn: the kernel releases it when its holder ends, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

POLL_S = 0.02  # flock takes no limit of time


@contextlib.contextmanager
def locked(path: Path, *, is_temporary: bool = False, wait_s: float | None = None) -> Iterator[int]:
    """Holds the file's lock, at most until the process ends. is_temporary: the file is removed with the lock.

    wait_s: seconds to wait for another holder; None: as long as it takes.
    Raises: OSError; of it TimeoutError where another process held the lock throughout.
    """
    deadline = None if wait_s is None else time.monotonic() + wait_s
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _acquire(file, path, deadline)
            if os.path.samestat(os.fstat(file), os.stat(path)):
                break
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(file)
            raise
        os.close(file)  # another process removed the file while this one waited
    try:
        yield file
    finally:
        if is_temporary:
            with contextlib.suppress(OSError):
                os.unlink(path)
        os.close(file)


def _acquire(file: int, path: Path, deadline: float | None) -> None:
    if deadline is None:
        fcntl.flock(file, fcntl.LOCK_EX)
        return
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise TimeoutError(f"another process held {path} for too long") from None
            time.sleep(POLL_S)
