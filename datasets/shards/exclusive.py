"""One writer at a time for an address, among the processes of a machine."""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

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
    name = f"redress-{os.getuid()}-{hashlib.sha256(address.encode()).hexdigest()[:32]}.lock"
    with open(os.path.join(tempfile.gettempdir(), name), "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            who = file.read() or "another process"
            raise DataError(f"{who} is writing to {address}; wait for it, or choose another address") from error
        file.truncate(0)
        file.write(f"process {os.getpid()}")
        file.flush()
        _held.add(address)
        try:
            yield
        finally:
            _held.discard(address)
