"""What a path is: a folder, an archive by its first bytes whatever its suffix, or a reason why it is no source."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest

from datasets.sources import Folder
from datasets.sources.archive import Archive
from tests.datasets.sources.packing import PACKED, files, opened, pack, refused


@pytest.fixture
def content(tmp_path: Path) -> Path:
    (tmp_path / "content").mkdir()
    (tmp_path / "content" / "a.jpg").write_bytes(b"x" * 900)
    return tmp_path / "content"


def test_a_folder_is_a_folder(content: Path) -> None:
    assert isinstance(opened(content), Folder)


@pytest.mark.parametrize("kind", [*PACKED, "zip"])
def test_an_archive_is_known_by_its_first_bytes(content: Path, kind: str) -> None:
    path = pack(content, content.parent / f"x.{kind}").rename(content.parent / "download")
    source = opened(path)
    assert isinstance(source, Archive)
    assert files(source) == {"a.jpg": b"x" * 900}


def test_an_empty_zip_is_an_archive_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(b"PK\5\6" + bytes(18))
    assert files(opened(tmp_path / "x.zip")) == {}


def test_nothing_a_pipe_and_a_forbidden_file_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused(tmp_path / "nowhere") == f"there is nothing at {tmp_path / 'nowhere'}; expected a test's folder"
    os.mkfifo(tmp_path / "pipe")
    assert "is no regular file; expected a test's folder" in refused(tmp_path / "pipe")
    (tmp_path / "x.zip").write_bytes(b"x")

    def forbidden(*arguments: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", forbidden)
    assert "cannot be read: Permission denied; check its permissions" in refused(tmp_path / "x.zip")


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"7z\xbc\xaf\x27\x1c", "a 7z file, which cannot be read in place; unpack it first"),
        (b"Rar!\x1a\x07\0", "a RAR file, which cannot be read in place; unpack it first"),
        (b"\x28\xb5\x2f\xfd", "a Zstandard file, which cannot be read in place; unpack it first"),
        (b"\x1f\x9d\x90", "a compress file, which cannot be read in place; unpack it first"),
        (b"", "a file"),
        (b"text" * 300, "a file"),
    ],
)
def test_other_files_are_refused_with_their_kind(tmp_path: Path, data: bytes, kind: str) -> None:
    (tmp_path / "x").write_bytes(data)
    message = refused(tmp_path / "x")
    assert f"x is {kind}; expected a test's folder, or an archive of it (.zip, .tar, .tar.gz" in message


def test_what_is_compressed_and_no_tar_is_refused(tmp_path: Path) -> None:
    for data in (b"", b"text" * 300):
        (tmp_path / "x.gz").write_bytes(gzip.compress(data))
        assert "x.gz is compressed, but its content is no tar archive" in refused(tmp_path / "x.gz")
