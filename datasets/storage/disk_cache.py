"""Row groups of a remote data set on the node's disk: bounded, checked on every read, shared by the node's processes.

A file's name is the SHA-256 of its bytes. There is no daemon: the file `lock` contains the sum of the files' bytes, the size
counter, which is read and written under its lock. After a crash the counter may be too large, never too small; the next
eviction corrects it. What cannot be cached is read from the store again: a failing cache stops no training.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from datasets.storage.file_lock import locked

log = logging.getLogger(__name__)

_DIGITS = 20  # of the size counter: overwritten in place, which needs no space on a full disk


@dataclass
class DiskCache:
    """A folder of at most max_bytes, shared by processes; the least recently used row groups are evicted first.

    hits: the number of row groups that this object found there. Safe to use from several threads.
    """

    folder: Path
    max_bytes: int
    hits: int = field(default=0, compare=False)
    _warned: set[str] = field(default_factory=set, init=False, repr=False, compare=False)

    def fetch(self, digest: str, read: Callable[[], bytes]) -> bytes:
        """The bytes of this SHA-256 (hex), from the disk or else from `read`.

        Of the threads and processes that request the same bytes at once, one calls `read`. Raises: what `read` raises.
        """
        found = self._find(digest)
        if found is None:
            with self._single_flight(digest):
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
            self._warn_once(error)
        return None

    def _keep(self, digest: str, data: bytes) -> None:
        if len(data) > self.max_bytes:
            return
        path = self._path(digest)
        temp = path.with_name(f".{digest}.tmp")
        try:
            with locked(self.folder / "lock") as counter:
                _write_sum(counter, self._room_for(len(data), counter) + len(data))
                path.parent.mkdir(exist_ok=True)
                temp.write_bytes(data)  # no sync: the digest reveals a file that a crash left incomplete
                os.replace(temp, path)
        except OSError as error:
            with contextlib.suppress(OSError):
                temp.unlink(missing_ok=True)
            self._warn_once(error)

    def _room_for(self, num_bytes: int, counter: int) -> int:
        """The bytes cached after the necessary evictions, and a sixteenth of max_bytes more, for listing takes time."""
        total = _read_sum(counter)
        if total is not None and total + num_bytes <= self.max_bytes:
            return total
        files = []
        for path in self.folder.glob("??/*"):
            if path.name.startswith("."):
                path.unlink(missing_ok=True)  # from a killed process: writers have the lock
            else:
                with contextlib.suppress(FileNotFoundError):
                    files.append((path.stat().st_mtime_ns, path.stat().st_size, path))
        total = sum(size for _, size, _ in files)
        wanted = self.max_bytes - num_bytes
        if total > wanted:
            wanted -= min(wanted, self.max_bytes // 16)
        for _, size, path in sorted(files):
            if total <= wanted:
                break
            path.unlink(missing_ok=True)
            total -= size
        return total

    @contextlib.contextmanager
    def _single_flight(self, digest: str) -> Iterator[None]:
        """Admits one thread or process of the node at a time; where the disk allows no lock, all at once."""
        with contextlib.ExitStack() as stack:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(self.folder / f"{digest}.lock", is_temporary=True))
            except OSError as error:
                self._warn_once(error)
            yield

    def _warn_once(self, error: OSError) -> None:
        reason = error.strerror or str(error)
        if reason not in self._warned:
            self._warned.add(reason)
            log.warning(
                "the disk cache in %s cannot be used (%s); row groups are read from the store. Check stream.disk_cache, the "
                "folder's permissions and the free space",
                self.folder,
                reason,
            )


def _read_sum(counter: int) -> int | None:
    text = os.pread(counter, _DIGITS, 0)
    return int(text) if len(text) == _DIGITS and text.isdigit() else None


def _write_sum(counter: int, total: int) -> None:
    os.pwrite(counter, f"{total:0{_DIGITS}}".encode(), 0)
