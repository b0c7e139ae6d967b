"""ZIP archives: what a member declares is checked against its bytes, and what cannot be read is an offender."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import pytest

from datasets.sources.source import walk
from tests.datasets.sources.packing import files, opened, refused


def test_a_zip_member_that_lies_about_its_size_is_found(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("a.jpg", bytes(50_000))
    data = bytearray((tmp_path / "x.zip").read_bytes())
    at = data.index(b"PK\1\2")
    for claimed in (49_999, 50_001):
        data[at + 24 : at + 28] = struct.pack("<I", claimed)
        (tmp_path / "x.zip").write_bytes(data)
        with pytest.raises(OSError, match=f"it unpacks to (more than|50000 bytes, not) the {claimed} promised"):
            opened(tmp_path / "x.zip").read("a.jpg", 1 << 20)


def test_altered_bytes_in_a_zip_are_found(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as made:
        made.writestr("a.jpg", b"0123456789")
    data = (tmp_path / "x.zip").read_bytes()
    (tmp_path / "x.zip").write_bytes(data.replace(b"0123", b"0124", 1))
    with pytest.raises(OSError, match="differ from the archive's checksum"):
        opened(tmp_path / "x.zip").read("a.jpg", 99)


def test_what_a_zip_cannot_be_read_of_is_an_offender(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as made:
        made.writestr("bz.jpg", b"x", zipfile.ZIP_BZIP2)
        made.writestr("locked.jpg", b"x")
        link = zipfile.ZipInfo("link.jpg")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        made.writestr(link, b"plain.jpg")
        made.writestr("plain.jpg", b"x")
    data = bytearray((tmp_path / "x.zip").read_bytes())
    at = data.index(b"locked.jpg", data.index(b"PK\1\2")) - 46
    data[at + 8] |= 1
    (tmp_path / "x.zip").write_bytes(data)
    source = opened(tmp_path / "x.zip")
    assert files(source) == {"link.jpg": b"x", "plain.jpg": b"x"}
    told = {path: child.offender.problem for path, child in walk(source) if child.offender}
    assert told == {
        "bz.jpg": "is packed by method 12 of ZIP; read are 0 (stored) and 8 (deflate)",
        "locked.jpg": "is encrypted",
    }


def patched(path: Path, signature: bytes, offset: int, value: bytes) -> Path:
    """The archive with some bytes of its first header of this kind exchanged."""
    data = bytearray(path.read_bytes())
    at = data.index(signature) + offset
    data[at : at + len(value)] = value
    path.write_bytes(data)
    return path


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("a.jpg", b"0123456789" * 100)
    return tmp_path / "x.zip"


def test_a_member_is_read_by_its_own_header_and_inflated_whole(plain: Path) -> None:
    assert files(opened(plain)) == {"a.jpg": b"0123456789" * 100}


def test_a_damaged_local_header_is_found(plain: Path) -> None:
    patched(plain, b"PK\3\4", 0, b"PK\0\0")
    plain.write_bytes(b"PK\5\6" + plain.read_bytes()[4:])  # still known as a ZIP by its first bytes
    with pytest.raises(OSError, match="its header in the archive is damaged"):
        opened(plain).read("a.jpg", 1 << 20)


def test_damaged_packed_bytes_are_found(plain: Path) -> None:
    patched(plain, b"PK\3\4", 30 + len("a.jpg"), b"\xff" * 6)
    with pytest.raises(OSError, match="its packed bytes are damaged"):
        opened(plain).read("a.jpg", 1 << 20)


def test_a_member_that_is_packed_into_more_than_it_may_have_is_not_read(plain: Path) -> None:
    patched(plain, b"PK\1\2", 20, struct.pack("<I", 1 << 22))
    with pytest.raises(OSError, match=r"it claims 1000 bytes, packed 4194304"):
        opened(plain).read("a.jpg", 1 << 20)


@pytest.mark.parametrize(("kind", "mode"), [("device", 0o060600), ("pipe", 0o010600), ("socket", 0o140600)])
def test_special_files_are_offenders_where_the_archive_was_made_on_unix(tmp_path: Path, kind: str, mode: int) -> None:
    for system in (3, 0):
        with zipfile.ZipFile(tmp_path / "x.zip", "w") as made:
            info = zipfile.ZipInfo(f"{kind}.jpg")
            info.create_system, info.external_attr = system, mode << 16
            made.writestr(info, b"x")
        found = [child.offender for _, child in walk(opened(tmp_path / "x.zip"))]
        assert [offender and offender.problem for offender in found] == (
            ["is a device, a pipe or a socket"] if system == 3 else [None]
        )


def test_a_directory_that_cannot_be_read_is_refused(plain: Path) -> None:
    patched(plain, b"PK\1\2", 0, b"PK\x09\x09")
    assert "is damaged (" in refused(plain)
