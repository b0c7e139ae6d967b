"""A write that finds no space names the address, what is short and what to do; afterwards the same call succeeds."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pytest

from datasets.storage.backends import FULL, S3, Local
from datasets.storage.store import Store, StoreError, open_store


@contextmanager
def file_limit(num_bytes: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def fill(store: Store) -> None:
    with store.create("shard") as file:
        for _ in range(4):
            file.write(b"x" * 100_000)


def test_what_the_system_does_not_take_is_explained_and_nothing_stays(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "data"))
    with file_limit(150_000):
        for write in (lambda: fill(store), lambda: store.write("shard", b"x" * 400_000)):
            with pytest.raises(StoreError) as caught:
                write()
            message = str(caught.value)
            assert message.startswith(f"cannot write {tmp_path}/data/shard: File too large. The system allows no file")
            assert "choose another address; then give the same command again" in message
            assert os.listdir(tmp_path / "data") == []
    fill(store)
    assert store.size("shard") == 400_000


@pytest.mark.parametrize(
    ("number", "told"), [(errno.ENOSPC, "disk of"), (errno.EDQUOT, "quota"), (errno.EFBIG, "ulimit")]
)
def test_each_shortage_has_its_remedy(number: int, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(temp: Path, place: str) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Local, "commit_temp", staticmethod(full))
    with pytest.raises(StoreError, match=told) as caught:
        open_store(str(tmp_path)).write("a/b", b"1")
    assert str(tmp_path) in str(caught.value)
    assert "[Errno" not in str(caught.value)
    assert told in S3().advice(OSError(number, os.strerror(number)), "bucket/key")
    assert not S3().is_retryable(OSError(number, os.strerror(number)))
    assert number in FULL


def test_other_errors_of_the_caller_pass_unchanged(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), open_store(str(tmp_path)).create("a"):
        raise PermissionError("of the caller")


def test_an_error_of_pyarrow_is_one_of_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def invalid(place: str) -> int:
        raise pa.ArrowInvalid("Empty path component")

    store = open_store(str(tmp_path))
    monkeypatch.setattr(store._backend, "size", invalid)
    with pytest.raises(StoreError, match=rf"cannot access {tmp_path}/a: Empty path component\. Check the path"):
        store.size("a")
