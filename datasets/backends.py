"""What a store does on a file system and on S3: one attempt each, plain OSErrors, absolute places."""

import errno
import os
import re
import shutil
import tempfile
import threading
import uuid
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import pyarrow.fs as pafs

_CHUNK = 16 << 20


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

    def read(self, place: str, offset: int, length: int | None) -> bytes:
        with _filesystem().open_input_file(place) as file:
            end = file.size() if length is None else min(file.size(), offset + length)
            return file.read_at(max(0, end - offset), offset) if offset < end else b""

    def write(self, place: str, data: bytes) -> None:
        stream = _filesystem().open_output_stream(place)  # a failed upload is never completed by closing it
        stream.write(data)
        stream.close()

    def spool(self, place: str) -> Path:
        return Path(tempfile.gettempdir(), f".{place.rsplit('/', 1)[-1]}.{uuid.uuid4().hex}.tmp")

    def publish(self, spool: Path, place: str) -> None:
        stream = _filesystem().open_output_stream(place)
        with open(spool, "rb") as file:
            _pour(file, stream)
        stream.close()

    def size(self, place: str) -> int | None:
        info = _filesystem().get_file_info(place)
        return info.size if info.type == pafs.FileType.File else None

    def sizes(self, place: str) -> dict[str, int]:
        found = _filesystem().get_file_info(pafs.FileSelector(place, recursive=True, allow_not_found=True))
        sizes = {info.path[len(place) + 1 :]: info.size for info in found if info.type == pafs.FileType.File}
        return {name: size for name, size in sizes.items() if not _is_marker(name)}

    def children(self, place: str) -> list[str]:
        found = _filesystem().get_file_info(pafs.FileSelector(place, allow_not_found=True))
        names = [info.base_name + "/" * (info.type == pafs.FileType.Directory) for info in found]
        return [name for name in names if name.endswith("/") or not _is_marker(name)]

    def sweep(self, place: str) -> None:
        """Nothing to do: an unfinished upload is no object."""

    def delete(self, place: str) -> None:
        try:
            _filesystem().delete_file(place)
        except FileNotFoundError:
            return

    def remove_folder(self, place: str) -> None:
        """Folders are not things here; a marker left behind is never listed."""

    def may_pass(self, error: OSError) -> bool:
        text = str(error)
        if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError | NotADirectoryError):
            return False
        return not (self._STATUS.search(text) or self._LASTING.search(text))

    def missing(self, place: str) -> str:
        bucket = place.split("/", 1)[0]
        try:
            known = _filesystem().get_file_info(bucket).type != pafs.FileType.NotFound
        except OSError:
            known = True
        return "there is no such object" if known else f"there is no bucket {bucket!r} at {_endpoint() or 'Amazon S3'}"

    def advice(self, error: OSError) -> str:
        text = str(error)
        where = _endpoint() or "not set, so Amazon S3 is asked"
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


def _pour(source: BinaryIO, stream: BinaryIO) -> None:
    while piece := source.read(_CHUNK):
        stream.write(piece)


def _endpoint() -> str | None:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


def _region() -> str | None:
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or None


_connections: dict[tuple[object, ...], pafs.S3FileSystem] = {}
_lock = threading.Lock()


def _filesystem() -> pafs.S3FileSystem:
    """The process's connection for what the environment says now: one pool of sockets, never carried over a fork."""
    who = tuple(os.environ.get(f"AWS_{name}") for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN"))
    key = (os.getpid(), _endpoint(), _region(), *who)
    with _lock:
        if key not in _connections:
            _connections[key] = _connect()
        return _connections[key]


def _connect() -> pafs.S3FileSystem:
    options: dict[str, object] = {}
    if endpoint := _endpoint():
        parts = urlsplit(endpoint if "://" in endpoint else f"https://{endpoint}")
        options |= {"endpoint_override": parts.netloc + parts.path.rstrip("/"), "scheme": parts.scheme}
    if region := _region() or ("us-east-1" if endpoint else None):
        options["region"] = region
    return pafs.S3FileSystem(
        connect_timeout=5,
        request_timeout=10,  # seconds without a byte, after which an attempt counts as failed
        allow_delayed_open=True,  # small objects in a single put
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=1),  # ours is the one retry loop
        **options,
    )
