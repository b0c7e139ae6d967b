"""The operations of both backends, one attempt each: what is kept, what is temporary, and which errors may be retried."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from datasets.storage import backends, connections
from datasets.storage.backends import S3, Local
from tests.servers.moto_s3 import BUCKET, moto_s3


@pytest.fixture(scope="module")
def server() -> Iterator[dict[str, str]]:
    with moto_s3() as environment:
        yield environment


@pytest.fixture
def s3(server: dict[str, str], monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A place of the test's own in the bucket."""
    for name, value in server.items():
        monkeypatch.setenv(name, value)
    return f"{BUCKET}/{request.node.name}"


@pytest.fixture(params=["local", "s3"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Local | S3, str]:
    if request.param == "local":
        return Local(), str(tmp_path)
    return S3(), request.getfixturevalue("s3")


def test_written_objects_are_listed_with_their_sizes_until_they_are_deleted(backend: tuple[Local | S3, str]) -> None:
    store, place = backend
    store.write(f"{place}/a/1.bin", b"12345")
    store.write(f"{place}/a/b/2.bin", b"")
    assert store.read(f"{place}/a/1.bin", 1, 3) == b"234"
    assert store.read(f"{place}/a/1.bin", 3, 9) == b"45"
    assert store.sizes(place) == {"a/1.bin": 5, "a/b/2.bin": 0}
    assert sorted(store.children(f"{place}/a")) == ["1.bin", "b/"]
    assert store.size(f"{place}/a/1.bin") == 5
    assert store.size(f"{place}/a") is None
    assert store.size(f"{place}/nothing") is None
    for _ in range(2):
        store.delete(f"{place}/a/1.bin")
    assert store.sizes(place) == {"a/b/2.bin": 0}
    assert store.children(f"{place}/nothing") == []
    assert store.sizes(f"{place}/nothing") == {}


def test_a_temporary_file_is_no_object_until_it_is_committed(backend: tuple[Local | S3, str]) -> None:
    store, place = backend
    for name, data in (("empty", b""), ("full", b"data")):
        temp = store.temp_path(f"{place}/{name}")
        assert temp != store.temp_path(f"{place}/{name}"), "two writers would share one file"
        temp.write_bytes(data)
        try:
            assert name not in store.sizes(place)
            assert all(not child.startswith(".") for child in store.children(place))
            store.commit_temp(temp, f"{place}/{name}")
        finally:
            temp.unlink(missing_ok=True)
        assert store.read(f"{place}/{name}", 0, 99) == data


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local, place = Local(), str(tmp_path / "a")
    local.write(place, b"old")

    def fail(*paths: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="full"):
        local.write(place, b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


def test_cleaning_removes_temporary_files_alone(tmp_path: Path) -> None:
    for name in ("a", ".a.tmp", "deep/.b.tmp", "deep/b", ".hidden", "c.tmp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    Local().clean_temp(str(tmp_path))
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()} == {
        "a", "deep/b", ".hidden", "c.tmp"
    }  # fmt: skip
    Local().clean_temp(str(tmp_path / "nowhere"))


def test_cleaning_takes_what_writers_of_one_file_left_and_spares_a_folder(tmp_path: Path) -> None:
    for name in (".index.1a.tmp", ".index.parquet.2b.tmp", ".indexes.3c.tmp", "a/.x.4d.tmp", "b/.x.5e.tmp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    Local().clean_temp(str(tmp_path / "index.parquet"))
    assert {p.name for p in tmp_path.rglob(".*")} == {".index.1a.tmp", ".indexes.3c.tmp", ".x.4d.tmp", ".x.5e.tmp"}
    (tmp_path / "checkpoints/00000031").mkdir(parents=True)
    (tmp_path / "b/empty").mkdir()
    Local().clean_temp(str(tmp_path), str(tmp_path / "b"))
    assert {p.name for p in tmp_path.iterdir() if p.is_dir()} == {"b"}, "a writer was killed before its first file"
    assert (tmp_path / "b/empty").is_dir()
    assert {p.name for p in tmp_path.rglob(".*")} == {".x.5e.tmp"}


@pytest.mark.parametrize(
    ("number", "retryable"),
    [
        (errno.EIO, True),
        (errno.ESTALE, True),
        (errno.ETIMEDOUT, True),
        (errno.ENOENT, False),
        (errno.EACCES, False),
        (errno.ENOSPC, False),
    ],
)
def test_errors_of_a_file_system_that_may_pass(number: int, retryable: bool) -> None:
    assert Local().is_retryable(OSError(number, os.strerror(number))) is retryable


@pytest.mark.parametrize(
    ("error", "retryable"),
    [
        (OSError("AWS Error NETWORK_CONNECTION during GetObject: curlCode: 7"), True),
        (OSError("AWS Error NETWORK_CONNECTION during GetObject: curlCode: 60, SSL peer certificate"), False),
        (OSError("AWS Error UNKNOWN (HTTP status 500)"), True),
        (OSError("AWS Error SLOW_DOWN (HTTP status 503)"), True),
        (OSError("AWS Error UNKNOWN (HTTP status 408)"), True),
        (OSError("AWS Error UNKNOWN (HTTP status 429)"), True),
        (OSError("AWS Error UNKNOWN (HTTP status 400)"), False),
        (OSError("AWS Error UNKNOWN (HTTP status 412)"), False),
        (OSError("AWS Error ACCESS_DENIED during HeadObject"), False),
        (OSError("AWS Error NO_SUCH_BUCKET during PutObject"), False),
        (OSError("AWS Error SIGNATURE_DOES_NOT_MATCH"), False),
        (OSError("AWS Error EXPIRED_TOKEN"), False),
        (OSError("AWS Error NO_SUCH_UPLOAD (HTTP status 404)"), True),
        (FileNotFoundError("gone"), False),
        (PermissionError("no"), False),
        (TimeoutError("no complete answer within 20.0 s"), True),
    ],
)
def test_errors_of_an_object_store_that_may_pass(error: OSError, retryable: bool) -> None:
    assert S3().is_retryable(error) is retryable


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        ("AWS Error NETWORK_CONNECTION", "Check that the endpoint is reachable from this machine"),
        ("AWS Error NO_SUCH_BUCKET", "Check the bucket's name"),
        ("AWS Error SLOW_DOWN (HTTP status 503)", "The store may be overloaded: try again later"),
        ("AWS Error ACCESS_DENIED (HTTP status 403)", "Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY"),
        (
            "AWS Error NETWORK_CONNECTION: curlCode: 60, SSL peer",
            "The server's certificate is not trusted: set AWS_CA_BUNDLE",
        ),
    ],
)
def test_advice_names_what_to_check_and_the_endpoint(error: str, advice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9000")
    assert S3().advice(OSError(error), "b/x").startswith(advice)
    assert S3().advice(OSError(error), "b/x").endswith("AWS_ENDPOINT_URL is http://127.0.0.1:9000")
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    assert S3().advice(OSError(error), "b/x").endswith("AWS_ENDPOINT_URL is not set, so requests go to Amazon S3")


def test_what_is_missing_is_the_file_its_folder_or_the_bucket(s3: str, tmp_path: Path) -> None:
    assert Local().missing(str(tmp_path / "a")) == "there is no such file"
    assert Local().missing(str(tmp_path / "b/a")) == f"there is no such file, and no folder {tmp_path / 'b'}"
    assert S3().missing(f"{s3}/a") == "there is no such object"
    assert S3().missing("elsewhere/a") == f"there is no bucket 'elsewhere' at {connections.endpoint()}"


def test_markers_of_folders_are_no_objects(s3: str) -> None:
    connections.filesystem().create_dir(f"{s3}/empty")
    for name in ("a_$folder$", ".a.tmp"):
        with connections.filesystem().open_output_stream(f"{s3}/{name}") as file:
            file.write(b"")
    S3().write(f"{s3}/b", b"x")
    assert S3().sizes(s3) == {"b": 1}
    assert sorted(S3().children(s3)) == ["b", "empty/"]


def test_an_object_that_grew_is_opened_again_and_so_is_one_that_is_forgotten(s3: str) -> None:
    store, place = S3(), f"{s3}/a"
    store.write(place, b"0123")
    assert store.open(place) == 4
    store.write(place, b"0123456789")
    assert store.read(place, 2, 6) == b"234567"
    assert store.read(place, 40, 4) == b""
    store.delete(place)
    store.forget(place)
    with pytest.raises(FileNotFoundError):
        store.read(place, 0, 4)


class Broken:
    """An open object whose reads fail."""

    def __init__(self, error: str) -> None:
        self.error = error

    def size(self) -> int:
        return 10

    def read_at(self, length: int, offset: int) -> bytes:
        raise OSError(self.error)


@pytest.mark.parametrize(
    ("error", "kind", "forgotten"),
    [
        ("AWS Error NO_SUCH_KEY during GetObject", FileNotFoundError, ["bucket/a"]),
        ("AWS Error ACCESS_DENIED during GetObject", OSError, ["bucket/a"]),
        ("AWS Error SLOW_DOWN (HTTP status 503)", OSError, []),
    ],
)
def test_a_lasting_error_of_a_read_closes_the_object(
    error: str, kind: type[OSError], forgotten: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[str] = []
    monkeypatch.setattr(connections, "open_object", lambda place: Broken(error))
    monkeypatch.setattr(connections, "close", closed.append)
    with pytest.raises(OSError, match=error.split(" (")[0]) as caught:
        S3().read("bucket/a", 0, 4)
    assert type(caught.value) is kind
    assert closed == forgotten


def test_an_upload_in_parts_arrives_whole(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = os.urandom(1 << 20) * 12  # above what is put by one request
    S3().write(f"{s3}/large", data)
    assert S3().size(f"{s3}/large") == len(data)
    assert S3().read(f"{s3}/large", 0, len(data)) == data


def test_a_file_that_is_deleted_while_its_folder_is_listed_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a run drops old checkpoints while somebody looks at it."""
    for name in ("a", "b", "c"):
        (tmp_path / name).write_bytes(b"12")
    found = backends._files

    def deleting(place: str) -> list[Path]:
        files = sorted(found(place))
        (tmp_path / "b").unlink()
        return files

    monkeypatch.setattr(backends, "_files", deleting)
    assert Local().sizes(str(tmp_path)) == {"a": 2, "c": 2}
