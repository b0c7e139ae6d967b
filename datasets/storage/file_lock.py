"""A lock that processes of one node take in turn: the kernel releases it when its holder ends, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def locked(path: Path, *, is_temporary: bool = False) -> Iterator[int]:
    """Holds the file's lock, at most until the process ends. is_temporary: the file is removed with the lock.

    Raises: OSError.
    """
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
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
