"""The process's connections to S3 and the objects opened over them; the environment gives endpoint and credentials."""

import atexit
import os
import socket
import threading
from collections import OrderedDict

import pyarrow as pa
import pyarrow.fs as pafs

from datasets.storage.address import AddressError, parse_endpoint, shown
from datasets.storage.hedging import ATTEMPT

_OPENED = 256  # objects at most; an open one is its name and its size

_Who = tuple[int, str | None, str | None, str | None, str | None, str | None, str | None]  # process, endpoint, …, keys
_connections: dict[_Who, tuple[pafs.S3FileSystem, pafs.S3FileSystem]] = {}
_opened: OrderedDict[tuple[_Who, str], pa.NativeFile] = OrderedDict()
_lock = threading.Lock()


def endpoint() -> str | None:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


def ca_bundle() -> str | None:
    """The PEM file of authorities that the server's certificate is checked against; None: the system's."""
    return os.environ.get("AWS_CA_BUNDLE") or None


def check_endpoint() -> None:
    """Raises: AddressError where the environment's endpoint or certificates' file is none."""
    _endpoint_parts(endpoint())
    if (bundle := ca_bundle()) and not os.path.isfile(bundle):
        raise AddressError(
            f"AWS_CA_BUNDLE = {shown(bundle)}: there is no such file; expected a PEM file of authorities"
        )


def _endpoint_parts(address: str | None) -> tuple[str, str] | None:
    """Scheme and host of an endpoint; None for Amazon S3. Raises: AddressError."""
    name = "AWS_ENDPOINT_URL_S3" if os.environ.get("AWS_ENDPOINT_URL_S3") else "AWS_ENDPOINT_URL"
    return parse_endpoint(address, name) if address else None


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
    return os.getpid(), endpoint(), ca_bundle(), _region(), user, secret, token


def _region() -> str | None:
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or None


def _port(address: str | None) -> int:
    scheme, host = _endpoint_parts(address) or ("https", "s3.amazonaws.com")
    port = host.partition("/")[0].rpartition(":")[2]
    return int(port) if port.isdigit() else (80 if scheme == "http" else 443)


def _connect(*, in_parts: bool) -> pafs.S3FileSystem:
    options: dict[str, object] = {}
    if parts := _endpoint_parts(endpoint()):
        options |= {"endpoint_override": parts[1], "scheme": parts[0]}
    if region := _region() or ("us-east-1" if parts else None):
        options["region"] = region
    if bundle := ca_bundle():
        options["tls_ca_file_path"] = bundle
    return pafs.S3FileSystem(
        connect_timeout=5,
        request_timeout=10,  # seconds without a byte, after which an attempt counts as failed
        # Small objects by a single put: with several parts, pyarrow puts an empty object where the first request fails.
        allow_delayed_open=not in_parts,
        # `Retry` is the only retry loop. But it repeats an upload as a whole, and of many parts one would always fail.
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=3 if in_parts else 1),
        **options,
    )
