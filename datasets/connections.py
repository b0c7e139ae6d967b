"""The process's connections to S3 and the objects opened over them; the environment says where and as whom."""

import atexit
import os
import socket
import threading
from collections import OrderedDict
from urllib.parse import SplitResult, urlsplit

import pyarrow as pa
import pyarrow.fs as pafs

_OPENED = 256  # objects at most; an opened one is its name and its size

_Who = tuple[object, ...]
_connections: dict[_Who, pafs.S3FileSystem] = {}
_opened: OrderedDict[tuple[_Who, str], pa.NativeFile] = OrderedDict()
_left_ports: set[int] = set()
_lock = threading.Lock()


def endpoint() -> str | None:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


def filesystem(*, in_parts: bool = False) -> pafs.S3FileSystem:
    """The connection for what the environment says now: one pool of sockets, never carried over a fork.

    in_parts: for objects to be written in several parts. Of others nothing is sent before they are closed.
    """
    key = (*_who(), in_parts)
    with _lock:
        if key not in _connections:
            _connections[key] = _connect(in_parts)
        return _connections[key]


def opened(place: str, *, anew: bool = False) -> pa.NativeFile:
    """The object, opened once (a request of its own); threads may read ranges of it, each by one request.

    anew: ask for its size again.
    """
    key = (_who(), place)
    with _lock:
        if not anew and key in _opened:
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
    """Forgets the opened object."""
    with _lock:
        _opened.pop((_who(), place), None)


def leave() -> None:
    """Gives up the connection, in which a request hangs that cannot be broken off; others begin a new one."""
    who = _who()
    with _lock:
        _connections.pop((*who, False), None)
        for key in [key for key in _opened if key[0] == who]:
            del _opened[key]
        if not _left_ports:
            atexit.register(_cut_off)  # runs before pyarrow's own end, which waits for every request
        parts = _parts()
        _left_ports.add(parts.port or (80 if parts.scheme == "http" else 443))


def _cut_off() -> None:
    """Breaks the sockets to the stores in which a request was left behind, so that the process can end."""
    if not os.path.isdir("/proc/self/fd"):
        return
    for name in os.listdir("/proc/self/fd"):
        try:
            with socket.socket(fileno=os.dup(int(name))) as there:
                if there.getpeername()[1] in _left_ports:
                    there.shutdown(socket.SHUT_RDWR)
        except (OSError, IndexError):
            continue  # no socket, or none that is connected


def _who() -> _Who:
    keys = (os.environ.get(f"AWS_{name}") for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN"))
    return (os.getpid(), endpoint(), _region(), *keys)


def _region() -> str | None:
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or None


def _parts() -> SplitResult:
    address = endpoint() or "https://s3.amazonaws.com"
    return urlsplit(address if "://" in address else f"https://{address}")


def _connect(in_parts: bool) -> pafs.S3FileSystem:
    options: dict[str, object] = {}
    if endpoint():
        parts = _parts()
        options |= {"endpoint_override": parts.netloc + parts.path.rstrip("/"), "scheme": parts.scheme}
    if region := _region() or ("us-east-1" if endpoint() else None):
        options["region"] = region
    return pafs.S3FileSystem(
        connect_timeout=5,
        request_timeout=10,  # seconds without a byte, after which an attempt counts as failed
        # Small objects by a single put. With several parts it would put an empty object where the first request fails.
        allow_delayed_open=not in_parts,
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=1),  # ours is the one retry loop
        **options,
    )
