"""The process's connections to S3 and the objects opened over them; the environment gives endpoint and credentials."""

import atexit
import os
import socket
import threading
from collections import OrderedDict
from urllib.parse import SplitResult, urlsplit

import pyarrow as pa
import pyarrow.fs as pafs

from datasets.storage.hedging import ATTEMPT

_OPENED = 256  # objects at most; an open one is its name and its size

_Who = tuple[int, str | None, str | None, str | None, str | None, str | None]  # process, endpoint, region, keys
_connections: dict[_Who, tuple[pafs.S3FileSystem, pafs.S3FileSystem]] = {}
_opened: OrderedDict[tuple[_Who, str], pa.NativeFile] = OrderedDict()
_lock = threading.Lock()


def endpoint() -> str | None:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


def filesystem(*, in_parts: bool = False) -> pafs.S3FileSystem:
    """The connection for the current environment: one pool of sockets, never shared over a fork.

    in_parts: for objects written in several parts. Without it, nothing is sent before the object is closed.
    """
    who = _who()
    with _lock:
        if who not in _connections:  # both at once: pyarrow creates no connection while a request is in flight
            _connections[who] = (_connect(in_parts=False), _connect(in_parts=True))
        return _connections[who][in_parts]


def open_object(place: str, *, refresh: bool = False) -> pa.NativeFile:
    """The object, opened once (one request); threads may read ranges of it, each by one request.

    refresh: request its size again.
    """
    key = (_who(), place)
    with _lock:
        if not refresh and key in _opened:
            _opened.move_to_end(key)
            return _opened[key]
    file = filesystem().open_input_file(place)
    with _lock:
        _opened[key] = file
        _opened.move_to_end(key)
        while len(_opened) > _OPENED:
            _opened.popitem(last=False)
    return file


def close(place: str) -> None:
    """Drops the open object; the next `open_object` requests it again."""
    with _lock:
        _opened.pop((_who(), place), None)


@atexit.register  # runs before pyarrow's own handler, which waits for every request
def _cut_off() -> None:
    """Shuts down the sockets to the stores where reads were abandoned, so that the process can end."""
    is_left = any(thread.name == ATTEMPT for thread in threading.enumerate())
    if not is_left or not os.path.isdir("/proc/self/fd"):
        return
    ports = {_port(address) for _, address, *_ in _connections}
    for name in os.listdir("/proc/self/fd"):
        try:
            with socket.socket(fileno=os.dup(int(name))) as there:
                if there.getpeername()[1] in ports:
                    there.shutdown(socket.SHUT_RDWR)
        except (OSError, IndexError):
            continue  # no socket, or not connected


def _who() -> _Who:
    user, secret, token = (
        os.environ.get(f"AWS_{name}") for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN")
    )
    return os.getpid(), endpoint(), _region(), user, secret, token


def _region() -> str | None:
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or None


def _parts(address: str) -> SplitResult:
    return urlsplit(address if "://" in address else f"https://{address}")


def _port(address: str | None) -> int:
    parts = _parts(address or "s3.amazonaws.com")
    return parts.port or (80 if parts.scheme == "http" else 443)


def _connect(*, in_parts: bool) -> pafs.S3FileSystem:
    options: dict[str, object] = {}
    if address := endpoint():
        parts = _parts(address)
        options |= {"endpoint_override": parts.netloc + parts.path.rstrip("/"), "scheme": parts.scheme}
    if region := _region() or ("us-east-1" if address else None):
        options["region"] = region
    return pafs.S3FileSystem(
        connect_timeout=5,
        request_timeout=10,  # seconds without a byte, after which an attempt counts as failed
        # Small objects by a single put: with several parts, pyarrow puts an empty object where the first request fails.
        allow_delayed_open=not in_parts,
        # `Retry` is the only retry loop. But it repeats an upload as a whole, and of many parts one would always fail.
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=3 if in_parts else 1),
        **options,
    )
