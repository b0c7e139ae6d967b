"""Arrays that one process of a node makes and all of them map into memory: what workers would else each hold a copy of.

A file's name is the digest of what its arrays depend on; its last bytes are the digest of what is in it, which is checked
whenever it is mapped. It appears under its name once it is complete. So a killed process leaves nothing half, and a damaged
file is made again. A mapped file may be removed: the processes that have mapped it keep it until they end.

What cannot be kept is not shared: on a full disk, or where another process does not finish in time, a process holds its own
copy, and says so once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import mmap
import os
import stat
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from datasets.storage.file_lock import locked

log = logging.getLogger(__name__)

Arrays = Mapping[str, np.ndarray]

SUFFIX = ".arrays"
ALIGNMENT = 64  # bytes: of a line of the processor's cache
DIGEST_BYTES, LENGTH_BYTES = 32, 8
BLOCK = 64 << 20  # bytes hashed and written at once
AGE_S = 7 * 24 * 3600.0  # a file that no process has mapped for so long is removed
TEMPORARY_AGE_S = 3600.0  # no process writes a file for so long: its writer was killed


@dataclass
class SharedArrays:
    """A folder of a node's own disk. Safe to use from several threads and processes.

    max_bytes: files beyond them are removed, the least recently mapped first, but never the one made last. wait_s: seconds
    to wait for another process that makes the same arrays.
    """

    folder: Path
    max_bytes: int = 4 << 30
    wait_s: float = 600.0
    _warned: set[str] = field(default_factory=set, init=False, repr=False, compare=False)

    def fetch(self, name: str, make: Callable[[], Arrays]) -> Arrays:
        """The arrays of this name, mapped read-only, or from `make` in memory of this process.

        name: what the arrays are, with all that their content depends on. Of the processes that request the same name at
        once, one calls `make`. Raises: what `make` raises.
        """
        key = hashlib.sha256(name.encode()).hexdigest()
        path = self.folder / f"{key}{SUFFIX}"
        with contextlib.ExitStack() as stack:
            try:
                own_folder(self.folder)
                if (found := self._mapped(path)) is not None:
                    return found
                stack.enter_context(locked(self.folder / f"{key}.lock", is_temporary=True, wait_s=self.wait_s))
                if (found := self._mapped(path)) is not None:
                    return found
            except OSError as error:
                self._warn_once(error)
                return make()
            made = make()
            try:
                write(path, made)
                self._tidy(path)
                return read(path)
            except (OSError, ValueError) as error:
                self._warn_once(error)
                return made

    def _mapped(self, path: Path) -> Arrays | None:
        try:
            found = read(path)
            os.utime(path)
        except FileNotFoundError:
            return None
        except ValueError as error:
            log.warning("%s is damaged (%s); it was removed and is made again", path, error)
            path.unlink(missing_ok=True)
            return None
        return found

    def _tidy(self, newest: Path) -> None:
        """Removes what is old, what killed processes left, and what is beyond `max_bytes`."""
        now, files = time.time(), []
        for path in self.folder.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another process removed it
                status = path.stat()
                age = now - status.st_mtime
                if age > (AGE_S if path.suffix == SUFFIX else TEMPORARY_AGE_S):
                    path.unlink()
                elif path.suffix == SUFFIX and path != newest:
                    files.append((status.st_mtime_ns, status.st_size, path))
        total = newest.stat().st_size + sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= self.max_bytes:
                break
            path.unlink(missing_ok=True)
            total -= size

    def _warn_once(self, error: Exception) -> None:
        reason = getattr(error, "strerror", None) or str(error)
        if reason not in self._warned:
            self._warned.add(reason)
            log.warning(
                "the index cannot be shared through %s (%s): this worker holds its own copy. Check stream.index_cache, the "
                "folder's permissions and the free space",
                self.folder,
                reason,
            )


def temporary_folder() -> Path:
    """This user's folder for shared arrays among the node's temporary files."""
    return Path(tempfile.gettempdir()) / f"redress-index-{os.geteuid()}"


def own_folder(folder: Path) -> None:
    """Creates the folder if it is missing. Raises: OSError where others than this user could write there."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(parents=True, mode=0o700)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise PermissionError(f"{folder} is no folder that this user alone can write to")


def write(path: Path, arrays: Arrays) -> None:
    """Writes arrays into one file, which appears under its name once it is complete. Raises: OSError."""
    temp = path.with_name(f".{path.name}.tmp")  # the lock admits one writer
    try:
        with temp.open("wb") as file:
            digest = hashlib.sha256()

            def put(data: memoryview | bytes) -> None:
                view = memoryview(data)
                for start in range(0, len(view), BLOCK):
                    digest.update(view[start : start + BLOCK])
                    file.write(view[start : start + BLOCK])

            layout = {}
            for name, array in arrays.items():
                put(bytes(-file.tell() % ALIGNMENT))
                layout[name] = (array.dtype.str, array.shape, file.tell())
                if array.size:
                    put(np.ascontiguousarray(array).data.cast("B"))
            table = json.dumps(layout).encode()
            put(table)
            put(len(table).to_bytes(LENGTH_BYTES, "little"))
            file.write(digest.digest())  # no sync: it reveals a file that a crash left incomplete
        os.replace(temp, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temp.unlink(missing_ok=True)
        raise


def read(path: Path) -> Arrays:
    """Maps a file's arrays read-only. Raises: OSError; ValueError where its bytes differ from their digest."""
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size < LENGTH_BYTES + DIGEST_BYTES:
            raise ValueError("it is too short")
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    whole = memoryview(content)
    if hashlib.sha256(whole[:-DIGEST_BYTES]).digest() != whole[-DIGEST_BYTES:]:
        raise ValueError("its bytes differ from their digest")
    end = len(whole) - DIGEST_BYTES - LENGTH_BYTES
    length = int.from_bytes(whole[end : end + LENGTH_BYTES], "little")
    layout = json.loads(bytes(whole[end - length : end]))
    return {name: _view(content, *place) for name, place in layout.items()}


def _view(content: mmap.mmap, dtype: str, shape: list[int], offset: int) -> np.ndarray:
    return np.frombuffer(content, np.dtype(dtype), int(np.prod(shape, dtype=np.int64)), offset).reshape(shape)
