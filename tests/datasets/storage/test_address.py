"""Addresses: one parser for all, which refuses what would name another file, and shows no secret."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datasets.storage import connections
from datasets.storage.address import Address, AddressError, parse_address, parse_endpoint, shown, without_secret
from datasets.storage.store import open_store

HERE = Path.cwd()


@pytest.mark.parametrize(
    ("text", "bucket", "path"),
    [
        ("s3://reid", "reid", ""),
        ("s3://reid/", "reid", ""),
        ("s3://reid/ltcc/v 2/", "reid", "ltcc/v 2"),
        ("s3://reid/a@b:c", "reid", "a@b:c"),
        ("/data/ltcc/", "", "/data/ltcc"),
        ("//data//./x/../y", "", "/data/y"),
        ("/data/a#b?c%20", "", "/data/a#b?c%20"),
        ("/odd/s3://x", "", "/odd/s3:/x"),
        ("runs", "", str(HERE / "runs")),
        ("~/runs", "", str(Path.home() / "runs")),
        ("file:///data/a%20b%23c", "", "/data/a b#c"),
        ("file://localhost/data", "", "/data"),
    ],
)
def test_addresses(text: str, bucket: str, path: str) -> None:
    found = parse_address(text)
    assert found == Address(bucket, path)
    assert parse_address(str(found)) == found
    assert open_store(text).address == str(found)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "'' is blank"),
        ("  ", "is blank"),
        (" s3://b/r", "blanks around"),
        ("/data/x\n", "blanks around"),
        ("/data/x\0y", "control character at position 7"),
        ("/data/\udcff", "not UTF-8 at position 6"),
        ("s3://b//r", "s3://b//r has an empty part"),
        ("s3://b/a/../r", "has an empty part, '.' or '..'"),
        ("s3://b/a /r", "blanks around a part"),
        ("s3:///r", "names no bucket"),
        ("s3://", "names no bucket"),
        ("S3://b/r", "write s3:// in lower-case"),
        ("FILE:///r", "write file:// in lower-case"),
        ("s3:/b/r", "has no '//'"),
        ("file:/b/r", "has no '//'"),
        ("ftp://b/r", "begins with ftp://; supported are plain paths, file:// and s3://"),
        ("://b", "supported are plain paths"),
        ("s3://b/r?versionId=7", "contains '?'"),
        ("s3://b/r#x", "contains '#'"),
        ("s3://b*/r", "a bucket's name has"),
        ("s3://key:secret@b/r", "s3://b/r contains credentials"),
        ("s3://key:sec/ret@b/r", "contains credentials"),
        ("s3://b:9000/r", "credentials or a port"),
        ("file:///x/ha#sh", "write %23"),
        ("file:///x/wh?y", "write %3F"),
        ("file:///x/%ff", "not UTF-8"),
        ("file:///x/%00", "control character"),
        ("file://elsewhere/x", "names a host"),
        ("~nobody-of-this-name/x", "no such home folder"),
    ],
)
def test_other_text_is_refused_in_one_message(text: str, told: str) -> None:
    with pytest.raises(AddressError) as caught:
        open_store(text)
    message = str(caught.value)
    assert told in message
    assert "secret" not in message
    assert "sec/ret" not in message
    assert message.isprintable()


def test_a_folder_that_was_deleted_is_no_place_for_relative_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(AddressError, match="current folder was deleted"):
        parse_address("runs")
    assert parse_address("/runs").path == "/runs"


def test_the_file_of_an_address_and_its_folder() -> None:
    assert (parse_address("/a/b.json").name, str(parse_address("/a/b.json").parent)) == ("b.json", "/a")
    assert (parse_address("/b.json").name, str(parse_address("/b.json").parent)) == ("b.json", "/")
    assert (parse_address("s3://b/r.json").name, str(parse_address("s3://b/r.json").parent)) == ("r.json", "s3://b")
    assert parse_address("s3://b").name == ""


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("http://127.0.0.1:9000", ("http", "127.0.0.1:9000")),
        ("https://store.example/below/", ("https", "store.example/below")),
        ("store.example", ("https", "store.example")),
        ("http://[::1]:9000", ("http", "[::1]:9000")),
    ],
)
def test_endpoints(text: str, parts: tuple[str, str]) -> None:
    assert parse_endpoint(text, "AWS_ENDPOINT_URL") == parts


@pytest.mark.parametrize(
    "text",
    [" http://h", "http://h ", "S3://h", "http://", "http://h:port", "http://me:secret@h", "http://h/x?secret=1"],
)
def test_an_endpoint_that_is_none_is_refused_before_work(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", text)
    with pytest.raises(AddressError, match="AWS_ENDPOINT_URL = ") as caught:
        open_store("s3://reid/ltcc")
    assert "secret" not in str(caught.value)
    with pytest.raises(AddressError):
        connections.filesystem()
    assert open_store("/data").is_local


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("http://joe:pw@host:5000/x", "http://host:5000/x"),
        ("http://joe:p/w@host/x", "http://host/x"),
        ("http://joe:p?w@host/x", "http://…"),
        ("http://joe:p#w@host/x", "http://host/x"),
        ("http://joe:p@w@host", "http://host"),
        ("at postgresql://joe:p/w@db/name?sslmode=require&password=pw.", "at postgresql://db/name"),
        ("'http://host?secret_key=pw' and s3://b/r?pw", "'http://host and s3://b/r"),
        ("s3://key:p/w@b/c", "s3://b/c"),
        ("s3://b/user@host:1/x", "s3://b/user@host:1/x"),
        ("is it http://host? yes", "is it http://host? yes"),
        ("sqlite:////data/a@b.db", "sqlite:////data/a@b.db"),
        ('{"uri": "http://joe:pw@host/x", "mail": "a@b"}', '{"uri": "http://host/x", "mail": "a@b"}'),
        ("no address, a@b?c", "no address, a@b?c"),
    ],
)
def test_text_is_shown_without_secrets(text: str, told: str) -> None:
    assert without_secret(text) == told


@given(
    st.text(st.characters(blacklist_categories=("Cs", "Zs", "Cc", "Zl", "Zp"), blacklist_characters='"<>'), min_size=1)
)
def test_no_part_of_a_password_is_shown(password: str) -> None:
    mark = "\u2603"
    secret = mark + password.replace(mark, "") + mark
    for address in (f"http://joe:{secret}@host/x", f"postgresql://joe:{secret}@host/x", f"http://host/x?key={secret}"):
        assert mark not in without_secret(f"cannot open {address} now")
        assert mark not in shown(address)
