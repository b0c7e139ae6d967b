"""The operations of a store on a file system and on S3: one attempt each, plain OSErrors, absolute places."""

import contextlib
import errno
import glob
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

_WINDOW = 40 << 20  # bytes of an upload in flight: four of pyarrow's parts
_SMALL = 8 << 20  # bytes; less than a part


def _is_temporary(name: str) -> bool:
    return name.startswith(".") and name.endswith(".tmp")


class Local:
    """A file system. A write fills a hidden temporary file beside the destination, which is renamed once it is on disk."""

    _RETRYABLE = frozenset({errno.EIO, errno.EAGAIN, errno.EINTR, errno.ESTALE, errno.ETIMEDOUT, errno.EBUSY})

    def read(self, place: str, offset: int, length: int | None) -> bytes:
        with open(place, "rb") as file:
            file.seek(offset)
            return file.read() if length is None else file.read(length)

    def write(self, place: str, data: bytes | memoryview) -> None:
        temp = self.temp_path(place)
        try:
            with open(temp, "xb") as file:
                file.write(data)
            self.commit_temp(temp, place)
        finally:
            temp.unlink(missing_ok=True)

    def temp_path(self, place: str) -> Path:
        path = Path(place)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.parent / f".{path.name}.{uuid.uuid4().hex}.tmp"

    def commit_temp(self, temp: Path, place: str) -> None:
        _sync(temp)
        os.replace(temp, place)
        _sync(temp.parent)

    def size(self, place: str) -> int | None:
        try:
            return os.stat(place).st_size if not os.path.isdir(place) else None
        except (FileNotFoundError, NotADirectoryError):
            return None

    def sizes(self, place: str) -> dict[str, int]:
        sizes = {}
        for path in _files(place):
            if not _is_temporary(path.name):
                with contextlib.suppress(FileNotFoundError):  # another process has deleted it since
                    sizes[path.relative_to(place).as_posix()] = path.stat().st_size
        return sizes

    def children(self, place: str) -> list[str]:
        if not os.path.isdir(place):
            return []
        found = [entry.name + "/" * entry.is_dir() for entry in os.scandir(place)]
        return [name for name in found if not _is_temporary(name)]

    def clean_temp(self, place: str, spared: str | None = None) -> None:
        path = Path(place)
        beside = path.parent.glob(f".{glob.escape(path.name)}.*.tmp") if not path.is_dir() else _files(place)
        for path in beside:
            if _is_temporary(path.name) and not (spared and path.is_relative_to(spared)):
                path.unlink(missing_ok=True)
        for folder, _, _ in os.walk(place, topdown=False):  # a writer may have been killed before its first file
            if not (spared and Path(folder).is_relative_to(spared)):
                with contextlib.suppress(OSError):  # it holds other files, or is gone
                    os.rmdir(folder)

    def delete(self, place: str) -> None:
        Path(place).unlink(missing_ok=True)

    def remove_folder(self, place: str) -> None:
        if os.path.isdir(place):
            shutil.rmtree(place)

    def is_retryable(self, error: OSError) -> bool:
        return error.errno in self._RETRYABLE

    def missing(self, place: str) -> str:
        parent = Path(place).parent
        return "there is no such file" if parent.is_dir() else f"there is no such file, and no folder {parent}"

    def advice(self, error: OSError, place: str) -> str:
        if error.errno in FULL:
            return what_is_short(error, place)
        return "Check the path and its permissions"


FULL = {
    errno.ENOSPC: "The disk of {folder} is full ({free} MB are free): free space there",
    errno.EDQUOT: "The disk quota of this user in {folder} is used up: free space there",
    errno.EFBIG: "The system allows no file of this size in {folder}: raise the limit (ulimit -f)",
}


def what_is_short(error: OSError, place: str) -> str:
    """What to do about a write that found no space. error: one of FULL."""
    folder = Path(place).parent
    while not folder.exists():
        folder = folder.parent
    remedy = FULL[error.errno or errno.ENOSPC].format(folder=folder, free=shutil.disk_usage(folder).free >> 20)
    return f"{remedy}, or choose another address; then give the same command again"


def _files(place: str) -> list[Path]:
    return [Path(folder, name) for folder, _, names in os.walk(place) for name in names]


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class S3:
    """Amazon S3 or a compatible server. Places are "bucket/key"."""

    # 4xx answers are permanent, except these two: request time-out and too many requests.
    _STATUS = re.compile(r"HTTP status 4(?!08|29)\d\d")
    _PERMANENT = re.compile(
        r"AWS Error (ACCESS_DENIED|NO_SUCH_|RESOURCE_NOT_FOUND|INVALID_|SIGNATURE_DOES_NOT_MATCH|MISSING_|"
        r"UNRECOGNIZED_|EXPIRED_|OPT_IN_|VALIDATION|PERMANENT_REDIRECT)"
    )

    _UNTRUSTED = re.compile(r"curlCode: (60|77)\b")  # unknown authority; its file cannot be read

    def open(self, place: str) -> int:
        """The object's size now. Later reads rely on this size: one request per range."""
        return connections.open_object(place, refresh=True).size()

    def read(self, place: str, offset: int, length: int) -> bytes:
        """The range, as far as the object extends.

        pyarrow fills an answer that ends early with arbitrary bytes; only a digest reveals it.
        """
        try:
            file = connections.open_object(place)
            if offset + length > file.size():  # it may have grown since it was opened
                file = connections.open_object(place, refresh=True)
            length = min(length, file.size() - offset)
            return file.read_at(length, offset) if length > 0 else b""
        except OSError as error:
            if not self.is_retryable(error):
                self.forget(place)
            if "NO_SUCH_KEY" in str(error):  # gone since it was opened
                raise FileNotFoundError(str(error)) from error
            raise

    def forget(self, place: str) -> None:
        """Makes the next read open the object again."""
        connections.close(place)

    def write(self, place: str, data: bytes | memoryview) -> None:
        _upload(pa.py_buffer(data), place)

    def temp_path(self, place: str) -> Path:
        return Path(tempfile.gettempdir(), f".{place.rsplit('/', 1)[-1]}.{uuid.uuid4().hex}.tmp")

    def commit_temp(self, temp: Path, place: str) -> None:
        if temp.stat().st_size == 0:
            _upload(pa.py_buffer(b""), place)
        else:
            with pa.memory_map(str(temp)) as file:
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

    def clean_temp(self, place: str, spared: str | None = None) -> None:
        """Nothing to do: an incomplete upload is no object."""

    def delete(self, place: str) -> None:
        try:
            connections.filesystem().delete_file(place)
        except FileNotFoundError:
            return

    def remove_folder(self, place: str) -> None:
        """Nothing to do: S3 has no folders, and a marker left behind is never listed."""

    def is_retryable(self, error: OSError) -> bool:
        text = str(error)
        if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError | NotADirectoryError):
            return False
        if "NO_SUCH_UPLOAD" in text:  # the upload was completed, its answer lost, and the request repeated
            return True
        if error.errno in FULL:
            return False
        return not any(found.search(text) for found in (self._STATUS, self._PERMANENT, self._UNTRUSTED))

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

    def advice(self, error: OSError, place: str) -> str:
        if error.errno in FULL:  # while a file waits for its upload
            return what_is_short(error, str(self.temp_path(place)))
        text = str(error)
        where = connections.endpoint() or "not set, so requests go to Amazon S3"
        if self._UNTRUSTED.search(text):
            return (
                "The server's certificate is not trusted: set AWS_CA_BUNDLE to a PEM file with the authority that signed it; "
                f"AWS_CA_BUNDLE is {connections.ca_bundle() or 'not set'}, AWS_ENDPOINT_URL is {where}"
            )
        if "NETWORK_CONNECTION" in text:
            return f"Check that the endpoint is reachable from this machine; AWS_ENDPOINT_URL is {where}"
        if "NO_SUCH_BUCKET" in text:
            return f"Check the bucket's name; AWS_ENDPOINT_URL is {where}"
        if self.is_retryable(error):
            return f"The store may be overloaded: try again later. AWS_ENDPOINT_URL is {where}"
        return (
            "Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN and AWS_REGION and the bucket's "
            f"permissions; AWS_ENDPOINT_URL is {where}"
        )


def _is_marker(name: str) -> bool:
    return name.endswith(("/", "_$folder$")) or _is_temporary(name.rsplit("/", 1)[-1])


def _upload(data: pa.Buffer, place: str) -> None:
    """Puts a whole object: a small one by one request, others in parts of 10 MiB, several of them in flight.

    pyarrow completes a stream that is dropped, with the parts it has. So nothing may interrupt the upload: it runs in a
    thread, which receives no Ctrl-C, and from memory, which cannot fail to be read. Only a failed part ends it, and such a
    stream stays incomplete. There is no deadline but the socket's: an abandoned upload could complete later and replace
    a newer object.
    """

    def put() -> None:
        stream = connections.filesystem(in_parts=len(data) > _SMALL).open_output_stream(place)
        try:
            for start in range(0, len(data), _WINDOW):
                stream.write(data.slice(start, min(_WINDOW, len(data) - start)))
                stream.flush()  # else pyarrow holds all parts in memory; this waits for the parts in flight
            stream.close()
        except OSError:
            with contextlib.suppress(OSError):
                stream.close()  # else garbage collection closes it, holding the GIL
            raise

    with ThreadPoolExecutor(1, "redress-upload") as pool:
        pool.submit(put).result()
