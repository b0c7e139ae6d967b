"""One writer at a time for an address, among the processes of a machine."""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from datasets.errors import DataError

_held: set[str] = set()  # addresses that this process writes to: a converter's writer is not another one


@contextmanager
def exclusive(address: str) -> Iterator[None]:
    """Holds the address while the block runs. The kernel lets it go when the process ends, even if killed.

    Raises: DataError when another process holds it.
    """
    if address in _held:
        yield
        return
    path = os.path.join(tempfile.gettempdir(), _name(address))
    with _locked(path, address):
        _held.add(address)
        try:
            yield
        finally:
            _held.discard(address)
            os.unlink(path)  # while it is locked: whoever opened it meanwhile sees that it is gone


def _name(address: str) -> str:
    return f"redress-{os.getuid()}-{hashlib.sha256(address.encode()).hexdigest()[:32]}.lock"


def _locked(path: str, address: str) -> TextIO:
    """The file at `path`, locked until it is closed. Raises: DataError."""
    while True:
        file = open(path, "a+")  # noqa: SIM115  (it stays open as long as the lock)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            with file:
                file.seek(0)
                who = file.read() or "another process"
            raise DataError(f"{who} is writing to {address}; wait for it, or choose another address") from error
        if _is_at(file, path):
            file.truncate(0)
            file.write(f"process {os.getpid()}")
            file.flush()
            return file
        file.close()


def _is_at(file: TextIO, path: str) -> bool:
    """Whether the file is still the one at `path`: the process that had it locked may have removed it."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False
