"""What a store does on a file system and on S3: one attempt each, plain OSErrors, absolute places."""

import contextlib
import errno
import os
import re
import shutil
import tempfile
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs

from datasets.storage import connections

_WINDOW = 40 << 20  # of an upload: four parts of pyarrow's on their way
_SMALL = 8 << 20  # less than a part


def _is_temporary(name: str) -> bool:
    return name.startswith(".") and name.endswith(".tmp")


class Local:
    """A file system. Writes go to a hidden temporary file beside the destination and are renamed when on disk."""

    _PASSING = frozenset({errno.EIO, errno.EAGAIN, errno.EINTR, errno.ESTALE, errno.ETIMEDOUT, errno.EBUSY})

    def read(self, place: str, offset: int, length: int | None) -> bytes:
        with open(place, "rb") as file:
            file.seek(offset)
            return file.read() if length is None else file.read(length)

    def write(self, place: str, data: bytes) -> None:
        spool = self.spool(place)
        try:
            with open(spool, "xb") as file:
                file.write(data)
            self.publish(spool, place)
        finally:
            spool.unlink(missing_ok=True)

    def spool(self, place: str) -> Path:
        path = Path(place)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.parent / f".{path.name}.{uuid.uuid4().hex}.tmp"

    def publish(self, spool: Path, place: str) -> None:
        _sync(spool)
        os.replace(spool, place)
        _sync(spool.parent)

    def size(self, place: str) -> int | None:
        try:
            return os.stat(place).st_size if not os.path.isdir(place) else None
        except (FileNotFoundError, NotADirectoryError):
            return None

    def sizes(self, place: str) -> dict[str, int]:
        return {
            path.relative_to(place).as_posix(): path.stat().st_size
            for path in _files(place)
            if not _is_temporary(path.name)
        }

    def children(self, place: str) -> list[str]:
        if not os.path.isdir(place):
            return []
        found = [entry.name + "/" * entry.is_dir() for entry in os.scandir(place)]
        return [name for name in found if not _is_temporary(name)]

    def sweep(self, place: str) -> None:
        for path in _files(place):
            if _is_temporary(path.name):
                path.unlink(missing_ok=True)

    def delete(self, place: str) -> None:
        Path(place).unlink(missing_ok=True)

    def remove_folder(self, place: str) -> None:
        if os.path.isdir(place):
            shutil.rmtree(place)

    def may_pass(self, error: OSError) -> bool:
        return error.errno in self._PASSING

    def missing(self, place: str) -> str:
        parent = Path(place).parent
        return "there is no such file" if parent.is_dir() else f"there is no such file, and no folder {parent}"

    def advice(self, error: OSError) -> str:
        return "Check the path, its permissions and the space left on the disk"


def _files(place: str) -> list[Path]:
    return [Path(folder, name) for folder, _, names in os.walk(place) for name in names]


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class S3:
    """Amazon S3 or a server that speaks it. Places are "bucket/key"."""

    # 4xx answers stay as they are however often one asks, save these two: request time-out and too many requests.
    _STATUS = re.compile(r"HTTP status 4(?!08|29)\d\d")
    _LASTING = re.compile(
        r"AWS Error (ACCESS_DENIED|NO_SUCH_|RESOURCE_NOT_FOUND|INVALID_|SIGNATURE_DOES_NOT_MATCH|MISSING_|"
        r"UNRECOGNIZED_|EXPIRED_|OPT_IN_|VALIDATION|PERMANENT_REDIRECT)"
    )

    def open(self, place: str) -> int:
        """The object's size now. What is read of it next is read as of this size, by one request a range."""
        return connections.opened(place, anew=True).size()

    def read(self, place: str, offset: int, length: int) -> bytes:
        """The range, as far as the object reaches. An answer that ends early and says so is filled up with anything:
        pyarrow does not look, so only a digest tells."""
        try:
            file = connections.opened(place)
            if offset + length > file.size():  # it may have grown since it was opened
                file = connections.opened(place, anew=True)
            length = min(length, file.size() - offset)
            return file.read_at(length, offset) if length > 0 else b""
        except OSError as error:
            if not self.may_pass(error):
                self.forget(place)
            if "NO_SUCH_KEY" in str(error):  # gone since it was opened
                raise FileNotFoundError(str(error)) from error
            raise

    def forget(self, place: str) -> None:
        """The next reading opens the object anew."""
        connections.close(place)

    def write(self, place: str, data: bytes) -> None:
        _upload(pa.py_buffer(data), place)

    def spool(self, place: str) -> Path:
        return Path(tempfile.gettempdir(), f".{place.rsplit('/', 1)[-1]}.{uuid.uuid4().hex}.tmp")

    def publish(self, spool: Path, place: str) -> None:
        if spool.stat().st_size == 0:
            _upload(pa.py_buffer(b""), place)
        else:
            with pa.memory_map(str(spool)) as file:
                _upload(file.read_buffer(), place)

    def size(self, place: str) -> int | None:
        info = connections.filesystem().get_file_info(place)
        return info.size if info.type == pafs.FileType.File else None

    def sizes(self, place: str) -> dict[str, int]:
        found = connections.filesystem().get_file_info(pafs.FileSelector(place, recursive=True, allow_not_found=True))
        sizes = {info.path[len(place) + 1 :]: info.size for info in found if info.type == pafs.FileType.File}
        return {name: size for name, size in sizes.items() if not _is_marker(name)}

    def children(self, place: str) -> list[str]:
        found = connections.filesystem().get_file_info(pafs.FileSelector(place, allow_not_found=True))
        names = [info.base_name + "/" * (info.type == pafs.FileType.Directory) for info in found]
        return [name for name in names if name.endswith("/") or not _is_marker(name)]

    def sweep(self, place: str) -> None:
        """Nothing to do: an unfinished upload is no object."""

    def delete(self, place: str) -> None:
        try:
            connections.filesystem().delete_file(place)
        except FileNotFoundError:
            return

    def remove_folder(self, place: str) -> None:
        """Folders are not things here; a marker left behind is never listed."""

    def may_pass(self, error: OSError) -> bool:
        text = str(error)
        if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError | NotADirectoryError):
            return False
        if (
            "NO_SUCH_UPLOAD" in text
        ):  # completed by a request whose answer was lost, and asked again: a new one mends it
            return True
        return not (self._STATUS.search(text) or self._LASTING.search(text))

    def missing(self, place: str) -> str:
        bucket = place.split("/", 1)[0]
        try:
            known = connections.filesystem().get_file_info(bucket).type != pafs.FileType.NotFound
        except OSError:
            known = True
        return (
            "there is no such object"
            if known
            else f"there is no bucket {bucket!r} at {connections.endpoint() or 'Amazon S3'}"
        )

    def advice(self, error: OSError) -> str:
        text = str(error)
        where = connections.endpoint() or "not set, so Amazon S3 is asked"
        if "NETWORK_CONNECTION" in text:
            return f"Is the endpoint reachable from here? AWS_ENDPOINT_URL is {where}"
        if "NO_SUCH_BUCKET" in text:
            return f"Check the bucket's name; AWS_ENDPOINT_URL is {where}"
        if self.may_pass(error):
            return f"The store may be overloaded: try again later. AWS_ENDPOINT_URL is {where}"
        return (
            "Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN and AWS_REGION and the bucket's "
            f"permissions; AWS_ENDPOINT_URL is {where}"
        )


def _is_marker(name: str) -> bool:
    return name.endswith(("/", "_$folder$")) or _is_temporary(name.rsplit("/", 1)[-1])


def _upload(data: pa.Buffer, place: str) -> None:
    """Puts a whole object: a small one by one request, others in parts of 10 MiB, a window of which goes at once.

    pyarrow completes a stream that it lets go of, with what it has. So nothing may come between its parts: the upload
    runs in a thread, which hears no Ctrl-C, from memory, which cannot fail to be read; only a failed part ends it, and
    such a stream stays incomplete. There is no deadline but the socket's: an upload given up could still end some time
    and replace what was written after it.
    """

    def put() -> None:
        stream = connections.filesystem(in_parts=len(data) > _SMALL).open_output_stream(place)
        try:
            for start in range(0, len(data), _WINDOW):
                stream.write(data.slice(start, min(_WINDOW, len(data) - start)))
                stream.flush()  # pyarrow would hold all parts in memory; this waits for those on their way
            stream.close()
        except OSError:
            with contextlib.suppress(OSError):
                stream.close()  # else it is closed when it is collected, holding the GIL
            raise

    with ThreadPoolExecutor(1, "redress-upload") as pool:
        pool.submit(put).result()
