"""Row groups of a remote data set on the node's disk: bounded, checked on every read, shared by the node's processes.

A file is named by the SHA-256 of its bytes. No daemon keeps the books: the sum of the files' bytes stands in the file `lock`
and is read and written under its lock; it may be too large after a crash, never too small, and is put right when files
are evicted. What cannot be kept is read from the store again: the cache ends no training.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

log = logging.getLogger(__name__)

_DIGITS = 20  # of the sum: written over in place, which needs no room on a full disk


@dataclass
class DiskCache:
    """A folder that holds at most max_bytes, several processes' together; what was used longest ago goes first.

    hits: row groups that this object found there. Safe to use from several threads.
    """

    folder: Path
    max_bytes: int
    hits: int = field(default=0, compare=False)
    _warned: set[str] = field(default_factory=set, init=False, repr=False, compare=False)

    def fetch(self, digest: str, read: Callable[[], bytes]) -> bytes:
        """The bytes of this SHA-256 (hex), from the disk or by `read`, which only one of those who want it now calls.

        Raises: what `read` raises.
        """
        found = self._find(digest)
        if found is None:
            with self._alone(digest):
                found = self._find(digest)
                if found is None:
                    data = read()
                    self._keep(digest, data)
                    return data
        self.hits += 1
        return found

    def _path(self, digest: str) -> Path:
        return self.folder / digest[:2] / digest

    def _find(self, digest: str) -> bytes | None:
        path = self._path(digest)
        try:
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest() == digest:
                os.utime(path, ns=(time.time_ns(), time.time_ns()))
                return data
            log.warning("%s in the disk cache is damaged; it was removed and is read from the store again", path)
            path.unlink(missing_ok=True)
        except FileNotFoundError:
            pass
        except OSError as error:
            self._complain(error)
        return None

    def _keep(self, digest: str, data: bytes) -> None:
        if len(data) > self.max_bytes:
            return
        path = self._path(digest)
        spool = path.with_name(f".{digest}.tmp")
        try:
            with _locked(self.folder / "lock") as books:
                _write_sum(books, self._room_for(len(data), books) + len(data))
                path.parent.mkdir(exist_ok=True)
                spool.write_bytes(data)  # no sync: a file that a crash leaves half is found by its digest
                os.replace(spool, path)
        except OSError as error:
            with contextlib.suppress(OSError):
                spool.unlink(missing_ok=True)
            self._complain(error)

    def _room_for(self, num_bytes: int, books: int) -> int:
        """Bytes held after as much was evicted as must be, and a sixteenth more, for listing takes time."""
        held = _read_sum(books)
        if held is not None and held + num_bytes <= self.max_bytes:
            return held
        files = []
        for path in self.folder.glob("??/*"):
            if path.name.startswith("."):
                path.unlink(missing_ok=True)  # of a killed process: who writes has the lock
            else:
                with contextlib.suppress(FileNotFoundError):
                    files.append((path.stat().st_mtime_ns, path.stat().st_size, path))
        held = sum(size for _, size, _ in files)
        wanted = self.max_bytes - num_bytes
        if held > wanted:
            wanted -= min(wanted, self.max_bytes // 16)
        for _, size, path in sorted(files):
            if held <= wanted:
                break
            path.unlink(missing_ok=True)
            held -= size
        return held

    @contextlib.contextmanager
    def _alone(self, digest: str) -> Iterator[None]:
        """One thread or process of the node at a time; where the disk allows no lock, all at once."""
        with contextlib.ExitStack() as stack:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(_locked(self.folder / f"{digest}.lock", is_passing=True))
            except OSError as error:
                self._complain(error)
            yield

    def _complain(self, error: OSError) -> None:
        reason = error.strerror or str(error)
        if reason not in self._warned:
            self._warned.add(reason)
            log.warning(
                "the disk cache in %s cannot be used (%s); reading goes on from the store. Check stream.disk_cache, the "
                "folder's permissions and the space left",
                self.folder,
                reason,
            )


@contextlib.contextmanager
def _locked(path: Path, *, is_passing: bool = False) -> Iterator[int]:
    """Holds the file's lock, which ends with the process at the latest. is_passing: the file goes when it is let go.

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
        os.close(file)  # another one removed the file while this one waited for it
    try:
        yield file
    finally:
        if is_passing:
            with contextlib.suppress(OSError):
                os.unlink(path)
        os.close(file)


def _read_sum(books: int) -> int | None:
    text = os.pread(books, _DIGITS, 0)
    return int(text) if len(text) == _DIGITS and text.isdigit() else None


def _write_sum(books: int, held: int) -> None:
    os.pwrite(books, f"{held:0{_DIGITS}}".encode(), 0)
