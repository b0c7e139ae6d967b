"""Connections to S3: one for each environment and process, objects opened once, sockets cut where reads were abandoned."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from datasets.storage import connections
from datasets.storage.address import AddressError
from datasets.storage.hedging import ATTEMPT


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the machine's, and no connection of another test's."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(connections, "_connections", {})
    monkeypatch.setattr(connections, "_opened", type(connections._opened)())


def test_the_endpoint_for_s3_alone_goes_before_the_general_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert connections.endpoint() is None
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://general:9000")
    assert connections.endpoint() == "http://general:9000"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://s3:9000")
    assert connections.endpoint() == "http://s3:9000"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "")
    assert connections.endpoint() == "http://general:9000"


@pytest.mark.parametrize(
    ("address", "port"),
    [
        (None, 443),
        ("https://store.example", 443),
        ("http://store.example", 80),
        ("http://127.0.0.1:9000/below", 9000),
        ("store.example:8443", 8443),
    ],
)
def test_the_port_is_the_addresss_or_its_schemes(address: str | None, port: int) -> None:
    assert connections._port(address) == port


def test_a_connection_is_kept_until_address_region_keys_or_process_change(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = [connections.filesystem()]
    assert connections.filesystem() is seen[0]
    assert connections.filesystem(in_parts=True) is not seen[0]
    for name, value in (
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:9000"),
        ("AWS_REGION", "eu-central-1"),
        ("AWS_ACCESS_KEY_ID", "me"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AWS_SESSION_TOKEN", "token"),
    ):
        monkeypatch.setenv(name, value)
        now = connections.filesystem()
        assert all(now is not other for other in seen), name
        assert connections.filesystem() is now
        seen.append(now)
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert all(connections.filesystem() is not other for other in seen), "a connection was shared over a fork"


def test_a_server_of_ones_own_needs_no_region(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9000")
    assert connections.filesystem().region == "us-east-1"
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    assert connections.filesystem().region == "eu-west-1"
    monkeypatch.setenv("AWS_REGION", "eu-north-1")
    assert connections.filesystem().region == "eu-north-1"


class Filesystem:
    """Counts the objects that are opened."""

    def __init__(self) -> None:
        self.opened: list[str] = []

    def open_input_file(self, place: str) -> object:
        self.opened.append(place)
        return object()


def test_an_object_is_opened_once_until_it_is_refreshed_closed_or_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Filesystem()
    monkeypatch.setattr(connections, "filesystem", lambda: server)
    monkeypatch.setattr(connections, "_OPENED", 2)
    first = connections.open_object("a")
    assert connections.open_object("a") is first
    second = connections.open_object("a", refresh=True)
    assert second is not first
    assert connections.open_object("a") is second
    connections.close("a")
    connections.close("never opened")
    assert connections.open_object("a") is not second
    assert server.opened == ["a", "a", "a"]
    connections.open_object("b")
    connections.open_object("a")  # so b is the one used longest ago
    connections.open_object("c")
    connections.open_object("a")
    assert server.opened == ["a", "a", "a", "b", "c"]
    connections.open_object("b")
    assert server.opened == ["a", "a", "a", "b", "c", "b"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody else")
    connections.open_object("b")
    assert server.opened[-2:] == ["b", "b"], "an object opened with other keys is another one"


@pytest.fixture
def servers() -> Iterator[list[tuple[socket.socket, socket.socket, int]]]:
    """Two connections to servers of this process: client, server's end, port."""
    found = []
    for _ in range(2):
        with socket.create_server(("127.0.0.1", 0)) as server:
            client = socket.create_connection(server.getsockname())
            found.append((client, server.accept()[0], server.getsockname()[1]))
    yield found
    for client, end, _ in found:
        client.close()
        end.close()


def test_at_the_end_only_sockets_to_the_stores_are_cut_and_only_where_a_read_was_abandoned(
    servers: list[tuple[socket.socket, socket.socket, int]],
) -> None:
    (client, end, port), (other, other_end, _) = servers
    key = (os.getpid(), f"http://127.0.0.1:{port}", None, None, None, None, None)
    connections._connections[key] = (None, None)
    connections._cut_off()
    client.sendall(b"still there")
    assert end.recv(64) == b"still there"

    leave = threading.Event()
    abandoned = threading.Thread(target=leave.wait, name=ATTEMPT, daemon=True)
    abandoned.start()
    try:
        connections._cut_off()
    finally:
        leave.set()
        abandoned.join()
    assert end.recv(64) == b""
    other.sendall(b"still there")
    assert other_end.recv(64) == b"still there"


def test_the_certificates_of_the_environment_are_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made: list[dict[str, object]] = []
    monkeypatch.setattr(connections.pafs, "S3FileSystem", lambda **options: made.append(options))
    bundle = tmp_path / "ca.pem"
    monkeypatch.setenv("AWS_CA_BUNDLE", str(bundle))
    with pytest.raises(AddressError, match=r"AWS_CA_BUNDLE = .*ca\.pem: there is no such file"):
        connections.check_endpoint()
    bundle.touch()
    connections.check_endpoint()
    connections.filesystem()
    assert [options["tls_ca_file_path"] for options in made] == [str(bundle)] * 2
    monkeypatch.delenv("AWS_CA_BUNDLE")
    connections.filesystem()
    assert len(made) == 4, "other certificates, other connections"
    assert "tls_ca_file_path" not in made[-1]
