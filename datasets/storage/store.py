"""One way to open a path or an object-store address: plain paths, file:// and s3://, with bounded retries.

The environment configures S3: AWS_ENDPOINT_URL (http or https; Amazon's when unset), AWS_REGION or
AWS_DEFAULT_REGION, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or the cloud's own identity).
"""

import hashlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import BinaryIO, TypeVar

import pyarrow as pa

from datasets.errors import CorruptData, DataError
from datasets.storage import connections
from datasets.storage.address import Address, parse_address
from datasets.storage.backends import FULL, S3, Local
from datasets.storage.hedging import Hedging, within
from datasets.storage.retry import GaveUp, Retry
from datasets.storage.stats import StoreStats

T = TypeVar("T")
DEFAULT = Retry()
PATIENT = Retry(attempts=12, cap_s=15.0, deadline_s=180.0)  # for work in progress: it survives an outage of a minute


class StoreError(OSError):
    """A path or object could not be read or written. The message names it, the failure, the attempts, and what to do."""


class MissingObject(StoreError, FileNotFoundError):  # noqa: N818
    """There is nothing at the address."""


class _WrongBytes(OSError):  # noqa: N818
    """The bytes that arrived are not the expected ones. cause: the error that reading them raised."""

    def __init__(self, data: bytes, cause: DataError | CorruptData) -> None:
        super().__init__("different bytes arrived each time, all wrong: the network or a proxy alters them")
        self.digest, self.cause = hashlib.sha256(data).digest(), cause


def open_store(address: str | Address, *, retry: Retry = DEFAULT) -> "Store":
    """The store at a plain path, file:// or s3://bucket/prefix. Opens no connection.

    Raises: AddressError where the text is no address, or AWS_ENDPOINT_URL none for s3://.
    """
    found = parse_address(address) if isinstance(address, str) else address
    if found.bucket:
        connections.check_endpoint()
    return Store(str(found), retry)


@dataclass(frozen=True)
class Store:
    """A folder or bucket prefix. Paths are relative with "/"; "" means that the address itself is the object.

    Picklable (only address and retry are pickled) and safe to use from several threads.
    """

    address: str
    retry: Retry = DEFAULT

    @property
    def is_local(self) -> bool:
        return not self.address.startswith("s3://")

    def join(self, *parts: str) -> str:
        """The address of a path in the store."""
        return "/".join([self.address.rstrip("/"), *(part.strip("/") for part in parts if part)]) or "/"

    def sub(self, prefix: str) -> "Store":
        """The store that begins at `prefix`."""
        return Store(self.join(prefix), self.retry) if prefix else self

    def read(self, path: str, offset: int = 0, length: int | None = None) -> bytes:
        """The bytes from `offset` on, at most `length`; fewer where the object is shorter. Raises: StoreError."""
        return self.read_as(path, bytes, offset, length)

    def read_as(self, path: str, from_bytes: Callable[[bytes], T], offset: int = 0, length: int | None = None) -> T:
        """The result of `from_bytes`, which raises CorruptData or DataError where the bytes are not the expected ones.

        A remote object is then read again, for bytes may be altered in transit; if the same wrong bytes arrive twice, they
        are the object's own. Raises: the error of `from_bytes` for the object's own bytes; StoreError.
        """
        place, backend = self._place(path), self._backend
        if isinstance(backend, Local):
            data = self._try("read", path, lambda: backend.read(place, offset, length))
            self.stats.count(reads=1, bytes=len(data))
            return from_bytes(data)
        if length is None:
            length = max(0, self._try_within_limit("read", path, lambda: backend.open(place)) - offset)
        return self._read_remote(backend, path, from_bytes, offset, length)

    def write(self, path: str, data: bytes | memoryview) -> None:
        """Writes the whole object; a reader sees the old one or the new one, never a part. Raises: StoreError.

        data: of bytes, contiguous. It is not copied, and must not change before the return.
        """
        place = self._place(path)
        self._try("write", path, lambda: self._backend.write(place, data))

    @contextmanager
    def create(self, path: str) -> Iterator[BinaryIO]:
        """A file to fill in pieces; it appears at `path`, complete, when the block ends without an exception.

        Raises: StoreError.
        """
        place = self._place(path)
        temp = self._try("write", path, lambda: self._backend.temp_path(place))
        try:
            try:
                with open(temp, "xb") as file:
                    yield file
            except OSError as error:
                if error.errno not in FULL:
                    raise
                raise self._error("write", path, error) from error
            self._try("write", path, lambda: self._backend.commit_temp(temp, place))
        finally:
            temp.unlink(missing_ok=True)

    def size(self, path: str) -> int | None:
        """Bytes of the object, None when there is no such object (or it is a folder). Raises: StoreError."""
        place = self._place(path)
        return self._try_within_limit("access", path, lambda: self._backend.size(place))

    def exists(self, path: str) -> bool:
        """True for an object; folders do not exist by themselves."""
        return self.size(path) is not None

    def children(self, prefix: str = "") -> list[str]:
        """Names directly in the folder `prefix`, sorted, folders ending in "/". Raises: StoreError."""
        place = self._place(prefix)
        return sorted(self._try_within_limit("list", prefix, lambda: self._backend.children(place)))

    def list(self, prefix: str = "") -> list[str]:
        """Paths of all objects below the folder `prefix`, sorted, without temporary files. Raises: StoreError."""
        return sorted(self.sizes(prefix))

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """The paths of `list` with their sizes in bytes, from one listing. Raises: StoreError."""
        place = self._place(prefix)
        found = self._try_within_limit("list", prefix, lambda: self._backend.sizes(place))
        base = f"{prefix.strip('/')}/" if prefix else ""
        return {base + name: size for name, size in found.items()}

    def delete(self, path: str) -> None:
        """Removes the object, if it exists. Raises: StoreError."""
        place = self._place(path)
        self._try("delete", path, lambda: self._backend.delete(place))

    def delete_tree(self, prefix: str = "") -> None:
        """Removes everything below the folder `prefix`. Raises: StoreError."""
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(self.delete, self.list(prefix)))
        place = self._place(prefix)
        self._try("delete", prefix, lambda: self._backend.remove_folder(place))

    def clean_temp(self, prefix: str = "", spare: str | None = None) -> None:
        """Removes the temporary files of killed writers of `prefix`: of a file, or of all below a folder, and folders that hold
        nothing else.

        spare: a folder in that folder that stays as it is. Nobody else may be writing there.
        Raises: StoreError.
        """
        place, spared = self._place(prefix), spare and self._place(f"{prefix}/{spare}" if prefix else spare)
        self._try("clean", prefix, lambda: self._backend.clean_temp(place, spared))

    @cached_property
    def stats(self) -> StoreStats:
        """Counters of what was read through this object."""
        return StoreStats()

    @cached_property
    def _hedging(self) -> Hedging:
        return Hedging(self.stats)

    @cached_property
    def _backend(self) -> Local | S3:
        return Local() if self.is_local else S3()

    def __getstate__(self) -> dict[str, object]:
        return {"address": self.address, "retry": self.retry}

    def _place(self, path: str) -> str:
        """The absolute place of a path. Paths come from manifests too, so none may lead out of the store."""
        if path.startswith("/") or ".." in path.split("/") or "\\" in path or "\0" in path:
            raise StoreError(f"{path!r} leads out of {self.address}; expected a relative path without '..'")
        return self.join(path).removeprefix("s3://") if path else self.address.removeprefix("s3://")

    def _read_remote(self, backend: S3, path: str, from_bytes: Callable[[bytes], T], offset: int, length: int) -> T:
        """One range: every attempt has its deadline, is hedged, and succeeds only if `from_bytes` accepts its bytes."""
        place, until = self._place(path), time.monotonic() + self.retry.deadline_s
        wrong: list[bytes] = []  # digests of the wrong bytes

        def read() -> tuple[int, T]:
            data = backend.read(place, offset, length)
            try:
                return len(data), from_bytes(data)
            except (CorruptData, DataError) as error:
                raise _WrongBytes(data, error) from error

        def attempt() -> tuple[int, T]:
            limit_s = min(self.retry.limit_s(length), until - time.monotonic())
            try:
                return self._hedging.read(read, length, limit_s)
            except _WrongBytes as error:
                backend.forget(place)
                wrong.append(error.digest)
                if wrong.count(error.digest) > 1:
                    raise error.cause from None
                raise

        num_bytes, value = self._try("read", path, attempt)
        self.stats.count(reads=1, bytes=num_bytes, healed=bool(wrong))
        return value

    def _try_within_limit(self, verb: str, path: str, operation: Callable[[], T]) -> T:
        """For operations that may be abandoned and repeated without harm, which writes may not."""
        if self.is_local:
            return self._try(verb, path, operation)
        until = time.monotonic() + self.retry.deadline_s
        return self._try(verb, path, lambda: within(operation, min(self.retry.limit_s(0), until - time.monotonic())))

    def _try(self, verb: str, path: str, operation: Callable[[], T]) -> T:
        backend, place = self._backend, self._place(path)

        def again(error: OSError) -> bool:
            self.stats.count(retries=1)
            return backend.is_retryable(error)

        try:
            return self.retry.call(operation, again)
        except GaveUp as failure:
            self.stats.count(retries=-1)
            if isinstance(failure.error, FileNotFoundError):
                raise MissingObject(f"cannot {verb} {self.join(path)}: {backend.missing(place)}") from failure.error
            tries = f" after {failure.attempts} attempts in {failure.elapsed_s:.1f} s" if failure.attempts > 1 else ""
            raise self._error(verb, path, failure.error, tries) from failure.error
        except pa.ArrowException as error:  # pyarrow's own check, such as ArrowInvalid, is no OSError
            raise self._error(verb, path, OSError(str(error))) from error

    def _error(self, verb: str, path: str, error: OSError, tries: str = "") -> StoreError:
        """The one message of a failed operation: the address, the cause, what to do."""
        reason = error.strerror if error.errno in FULL else str(error).rstrip(".")
        return StoreError(
            f"cannot {verb} {self.join(path)}{tries}: {reason}. {self._backend.advice(error, self._place(path))}"
        )
