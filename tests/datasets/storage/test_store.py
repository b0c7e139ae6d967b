"""Paths and objects: whole or not at all, retried while it may help, with errors that say what to do."""

import errno
import http.client
import pickle
import socket
import threading
import tracemalloc
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from datasets.shards.dataset import Dataset
from datasets.storage.address import parse_address
from datasets.storage.retry import GaveUp, Retry
from datasets.storage.store import MissingObject, StoreError, open_store
from tests.tiny import tiny_dataset

QUICK = Retry(attempts=4, base_s=0.01, cap_s=0.02, deadline_s=20)
BUCKET = "reid"


@pytest.fixture(scope="module")
def moto():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield host, port
    server.stop()


@pytest.fixture
def s3(moto, monkeypatch):
    """Environment of a fresh bucket; returns its address."""
    host, port = moto
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test-secret")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    urllib.request.urlopen(urllib.request.Request(f"http://{host}:{port}/moto-api/reset", method="POST")).read()
    urllib.request.urlopen(urllib.request.Request(f"http://{host}:{port}/{BUCKET}", method="PUT")).read()
    return f"s3://{BUCKET}"


@pytest.fixture(params=["local", "file", "s3"])
def store(request, tmp_path):
    """The same promises hold on a path, a file:// address and S3."""
    if request.param == "s3":
        return open_store(request.getfixturevalue("s3") + "/some/prefix/", retry=QUICK)
    return open_store(("file://" if request.param == "file" else "") + str(tmp_path / "some/prefix"), retry=QUICK)


def half_write(store, path):
    """A writing that fails in the middle."""
    with store.create(path) as file:
        file.write(b"half")
        raise ZeroDivisionError


class TestEveryStore:
    def test_what_is_written_is_read(self, store):
        store.write("a/b.bin", b"0123456789")
        assert store.read("a/b.bin") == b"0123456789"
        assert store.read("a/b.bin", 3) == b"3456789"
        assert store.read("a/b.bin", 3, 4) == b"3456"
        assert store.read("a/b.bin", 8, 40) == b"89"
        assert store.read("a/b.bin", 40, 4) == b""
        assert store.size("a/b.bin") == 10
        store.write("a/b.bin", b"")
        assert store.read("a/b.bin") == b""

    @pytest.mark.parametrize("size", [0, 1000, 25 << 20])
    def test_a_view_of_memory_is_written(self, store, size):
        data = memoryview(bytearray(bytes(range(250)) * (size // 250 + 1)))[:size]
        store.write("state", data)
        assert store.read("state") == data

    def test_a_file_filled_piece_by_piece_appears_whole(self, store):
        with store.create("shard") as file:
            for piece in range(5):
                file.write(bytes([piece]) * 7_000_000)
            assert not store.exists("shard")
        assert store.size("shard") == 35_000_000
        assert store.read("shard", 7_000_000 - 1, 2) == b"\0\1"
        assert store.list() == ["shard"]

    def test_a_file_whose_writing_fails_never_appears(self, store):
        with pytest.raises(ZeroDivisionError):
            half_write(store, "shard")
        assert not store.exists("shard")
        assert store.list() == []

    def test_a_failed_rewriting_leaves_the_old_object(self, store):
        store.write("state", b"old")
        with pytest.raises(ZeroDivisionError):
            half_write(store, "state")
        assert store.read("state") == b"old"

    def test_lists_recursively_sorted_and_relative(self, store):
        for path in ("b", "a/y/z", "a/x", "ab/c"):
            store.write(path, b"1")
        assert store.list() == ["a/x", "a/y/z", "ab/c", "b"]
        assert store.list("a") == ["a/x", "a/y/z"]
        assert store.list("nothing") == []
        assert store.children() == ["a/", "ab/", "b"]
        assert store.children("a") == ["x", "y/"]
        assert store.children("nothing") == []
        assert store.sizes("a") == {"a/x": 1, "a/y/z": 1}
        assert store.sub("a").list() == ["x", "y/z"]

    def test_deletes_one_and_all(self, store):
        for path in ("b", "a/y/z", "a/x"):
            store.write(path, b"1")
        store.delete("b")
        store.delete("b")
        store.delete_tree("a")
        store.delete_tree("nothing")
        assert store.list() == []

    def test_folders_and_absent_things_do_not_exist(self, store):
        store.write("a/b", b"1")
        assert store.exists("a/b")
        assert not store.exists("a")
        assert not store.exists("a/b/c")
        assert store.size("nothing") is None

    def test_reading_what_is_not_there_names_it_at_once(self, store):
        with pytest.raises(MissingObject, match=r"cannot read .*some/prefix/nothing: there is no such") as caught:
            store.read("nothing")
        assert isinstance(caught.value, FileNotFoundError)
        assert isinstance(caught.value, StoreError)
        assert "attempts" not in str(caught.value)

    def test_travels_by_pickle(self, store):
        store.write("a", b"1")
        there = pickle.loads(pickle.dumps(store))
        assert there == store
        assert there.read("a") == b"1"
        assert len(pickle.dumps(store)) < 500

    def test_an_address_may_be_the_object_itself(self, store):
        store.write("weights.bin", b"123")
        itself = open_store(store.join("weights.bin"))
        assert itself.read("") == b"123"
        assert itself.size("") == 3

    def test_serves_threads(self, store):
        def work(number: int) -> bytes:
            store.write(f"t/{number}", bytes([number]) * 1000)
            return store.read(f"t/{number}", 10, 3)

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(work, range(24))) == [bytes([number]) * 3 for number in range(24)]
        assert len(store.list("t")) == 24

    @pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc/passwd", "a\\b", "a\0b"])
    def test_no_path_leads_out(self, store, path):
        with pytest.raises(StoreError, match="leads out of"):
            store.read(path)


def test_a_view_of_memory_is_not_copied(tmp_path):
    data = memoryview(bytearray(25 << 20))
    tracemalloc.start()
    try:
        open_store(str(tmp_path)).write("state", data)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_addresses_join():
    assert open_store("s3://reid/ltcc/").join("train", "0.parquet") == "s3://reid/ltcc/train/0.parquet"
    assert open_store("/data/").join("x") == "/data/x"
    assert open_store("/").join("x") == "/x"
    assert open_store("file:///data%20sets/a").address == "/data sets/a"


def test_a_relative_path_is_the_same_one_in_another_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert open_store("here").address == str(tmp_path / "here")


def test_the_scheme_decides_what_is_local(tmp_path):
    assert open_store(str(tmp_path)).is_local
    assert open_store(tmp_path.as_uri()).is_local
    assert not open_store("s3://reid").is_local


def test_temporary_files_are_not_listed(tmp_path):
    (tmp_path / ".shard.0123.tmp").write_bytes(b"half")
    (tmp_path / "a").write_bytes(b"1")
    assert open_store(str(tmp_path)).list() == ["a"]


def test_sweeping_removes_only_what_killed_writings_left(tmp_path):
    (tmp_path / "split").mkdir()
    (tmp_path / "split/.00000.parquet.0123.tmp").write_bytes(b"half")
    (tmp_path / "split/.keep").write_bytes(b"1")
    (tmp_path / "a.tmp").write_bytes(b"1")
    open_store(str(tmp_path)).clean_temp()
    assert open_store(str(tmp_path)).list() == ["a.tmp", "split/.keep"]
    assert len(list((tmp_path / "split").iterdir())) == 1


def test_a_full_or_forbidden_disk_is_not_asked_twice(tmp_path):
    (tmp_path / "file").write_bytes(b"1")
    with pytest.raises(StoreError, match=r"cannot write .*file/below: .*Check the path and its permissions"):
        open_store(str(tmp_path)).write("file/below", b"1")


class TestRetry:
    def fail(self, times: int, error: OSError):
        calls = []

        def operation() -> int:
            calls.append(1)
            if len(calls) <= times:
                raise error
            return len(calls)

        return operation, calls

    def test_repeats_what_may_pass(self):
        operation, _ = self.fail(3, OSError("slow down"))
        assert QUICK.call(operation, lambda error: True) == 4

    def test_ends_after_its_attempts(self):
        operation, calls = self.fail(99, OSError("slow down"))
        with pytest.raises(GaveUp) as caught:
            QUICK.call(operation, lambda error: True)
        assert caught.value.attempts == len(calls) == 4

    def test_ends_at_its_deadline(self):
        operation, calls = self.fail(10**9, OSError("slow down"))
        with pytest.raises(GaveUp) as caught:
            Retry(attempts=10**9, base_s=0.02, cap_s=0.02, deadline_s=0.2).call(operation, lambda error: True)
        assert len(calls) > 2
        assert caught.value.elapsed_s < 0.3

    def test_never_repeats_what_cannot_pass(self):
        operation, calls = self.fail(99, OSError(errno.EACCES, "no"))
        with pytest.raises(GaveUp):
            QUICK.call(operation, lambda error: error.errno != errno.EACCES)
        assert len(calls) == 1


class Flaky(ThreadingHTTPServer):
    """A proxy before the object store that spoils the first requests, each in the given way, then passes them on."""

    daemon_threads = True

    def __init__(self, target: tuple[str, int], faults: list[str]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target, self.faults, self.requests = target, list(faults), 0
        self.lock = threading.Lock()

    def next_fault(self) -> str | None:
        with self.lock:
            self.requests += 1
            return self.faults.pop(0) if self.faults else None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Flaky

    def answer(self) -> None:
        is_chunked = self.headers.get("Transfer-Encoding") == "chunked"
        body = self.chunks() if is_chunked else self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.server.next_fault()
        if fault == "drop":
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
        elif fault:
            self.respond(int(fault), {}, b"")
        else:
            upstream = http.client.HTTPConnection(*self.server.target)
            headers = {name: value for name, value in self.headers.items() if name != "Expect"}
            upstream.request(
                self.command, self.path, iter([body]) if is_chunked else body, headers, encode_chunked=is_chunked
            )
            answer = upstream.getresponse()
            self.respond(answer.status, dict(answer.getheaders()), answer.read())

    def chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def respond(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection") or self.command == "HEAD":
                self.send_header(name, value)
        if self.command != "HEAD" or "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = answer  # noqa: N815

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def flaky(moto, s3, monkeypatch):
    """flaky(faults) puts a spoiling proxy before the object store."""
    open_store(s3).write("object", b"0123456789")
    servers = []

    def start(*faults: str) -> Flaky:
        server = Flaky(moto, list(faults))
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_address[1]}")
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


class TestTrouble:
    @pytest.mark.parametrize("fault", ["503", "500", "429", "drop"])
    def test_passing_trouble_is_passed_over(self, flaky, s3, fault):
        flaky(fault, fault)
        assert open_store(s3, retry=QUICK).read("object", 2, 3) == b"234"

    def test_writing_through_trouble_puts_the_whole_object(self, flaky, s3):
        flaky("503", "drop", "500")
        store = open_store(s3, retry=QUICK)
        store.write("new", memoryview(b"x" * 100_000))
        assert store.read("new") == b"x" * 100_000

    def test_lasting_trouble_names_object_attempts_and_endpoint(self, flaky, s3):
        server = flaky(*["503"] * 50)
        with pytest.raises(
            StoreError, match=r"cannot read s3://reid/object after 4 attempts in .*503.*AWS_ENDPOINT_URL is http://127"
        ):
            open_store(s3, retry=QUICK).read("object")
        assert server.requests == 4

    def test_a_refusal_is_not_repeated(self, flaky, s3):
        server = flaky(*["403"] * 50)
        with pytest.raises(StoreError, match=r"ACCESS_DENIED.*Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY"):
            open_store(s3, retry=QUICK).read("object")
        assert server.requests == 1

    def test_errors_tell_no_secret(self, flaky, s3):
        flaky(*["403"] * 50)
        with pytest.raises(StoreError) as caught:
            open_store(s3, retry=QUICK).write("object", b"1")
        assert "test-secret" not in str(caught.value)

    def test_a_missing_bucket_is_named(self, s3):
        with pytest.raises(StoreError, match=r"cannot read s3://nowhere/x: there is no bucket 'nowhere' at http://127"):
            open_store("s3://nowhere", retry=QUICK).read("x")
        with pytest.raises(StoreError, match=r"cannot write s3://nowhere/x: .*NO_SUCH_BUCKET.*Check the bucket's name"):
            open_store("s3://nowhere", retry=QUICK).write("x", b"1")

    def test_an_unreachable_endpoint_is_named(self, s3, monkeypatch):
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            port = unused.getsockname()[1]
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        with pytest.raises(
            StoreError,
            match=rf"cannot access .*Check that the endpoint is reachable from this machine; AWS_ENDPOINT_URL is .*{port}",
        ):
            open_store(s3, retry=QUICK).exists("manifest.json")

    def test_markers_of_folders_are_not_listed(self, moto, s3):
        host, port = moto
        for marker in ("a/", "a_$folder$"):
            url = f"http://{host}:{port}/{BUCKET}/{marker}"
            urllib.request.urlopen(urllib.request.Request(url, method="PUT", data=b"")).read()
        open_store(s3).write("a/b", b"1")
        assert open_store(s3).list() == ["a/b"]


def test_a_data_set_is_written_and_read_on_s3_through_passing_trouble(flaky, s3, tmp_path):
    flaky(*["503", "drop"] * 2)
    there = tiny_dataset(f"{s3}/tiny", row_group_bytes=8000, shard_bytes=20_000)
    flaky("500", "drop")
    dataset = Dataset.open(there)
    here = Dataset.open(tiny_dataset(tmp_path, row_group_bytes=8000, shard_bytes=20_000))
    assert dataset.fingerprint == here.fingerprint
    flaky("drop", "503")
    assert list(dataset.samples("train")) == list(here.samples("train"))
    assert dataset.verify() == []


def test_a_folder_whose_name_ends_with_a_blank_is_written_to(tmp_path: Path) -> None:
    place = parse_address(str(tmp_path / "a folder " / "a file"))
    open_store(place.parent).write(place.name, b"x")
    assert (tmp_path / "a folder " / "a file").read_bytes() == b"x"
