"""TAR archives: a damaged or greedy header is refused, and a compressed one is decompressed in bounded memory and space."""

from __future__ import annotations

import errno
import io
import lzma
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import pytest

from datasets.sources import tars
from datasets.sources.source import walk
from tests.datasets.sources.packing import files, opened, pack, refused, tar_of


def test_a_tar_with_a_damaged_header_is_refused(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "x.tar", *((f"{number}.jpg", b"0", b"x") for number in range(6)))
    altered = bytearray(path.read_bytes())
    altered[3 * 1024 + 148 : 3 * 1024 + 156] = b"00000000"  # of the fourth, its checksum
    path.write_bytes(altered)
    assert "3 files are followed by neither a file nor the archive's end" in refused(path)


def test_a_header_that_would_fill_memory_is_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 3 << 30
    with open(tmp_path / "x.tar", "wb") as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        file.truncate(3 << 30)
    assert "has headers of more than" in refused(tmp_path / "x.tar")


def test_no_room_for_a_compressed_tar_says_where_room_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.BytesIO):
        def write(self, data: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: Full())
    (tmp_path / "content").mkdir()
    (tmp_path / "content/a.jpg").write_bytes(b"x")
    told = refused(pack(tmp_path / "content", tmp_path / "x.tar.gz"))
    assert "no space in" in told
    assert "set TMPDIR to a disk with more space, or unpack it" in told


def test_a_sparse_file_is_an_offender(tmp_path: Path) -> None:
    tar_of(tmp_path / "x.tar", ("a.jpg", b"S", b""), ("b.jpg", b"0", b"x"))
    source = opened(tmp_path / "x.tar")
    assert files(source) == {"b.jpg": b"x"}
    offenders = {path: child.offender for path, child in walk(source) if child.offender}
    assert str(offenders["a.jpg"]) == "a.jpg: is a sparse file; pack the archive again without --sparse"


@pytest.mark.parametrize("kind", ["tar.gz", "tar.bz2", "tar.xz"])
def test_progress_goes_up_to_the_size_of_the_compressed_file(tmp_path: Path, kind: str) -> None:
    (tmp_path / "content").mkdir()
    (tmp_path / "content/a.jpg").write_bytes(bytes(range(256)) * 64)
    path = pack(tmp_path / "content", tmp_path / f"x.{kind}")
    calls: list[tuple[int, int]] = []
    tars.plain_tar(path, open(path, "rb"), lambda done, total: calls.append((done, total))).close()  # noqa: SIM115
    assert calls
    assert calls == sorted(calls)
    assert {total for _, total in calls} == {path.stat().st_size}


def test_xz_streams_may_follow_one_another_and_be_padded(tmp_path: Path) -> None:
    data = tar_of(tmp_path / "x.tar", ("a.jpg", b"0", b"one"), ("b.jpg", b"0", b"two")).read_bytes()
    path = tmp_path / "x.tar.xz"
    path.write_bytes(lzma.compress(data[:700]) + bytes(8) + lzma.compress(data[700:]) + bytes(4))
    assert files(opened(path)) == {"a.jpg": b"one", "b.jpg": b"two"}


def test_an_xz_stream_that_needs_too_much_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tar_of(tmp_path / "x.tar", ("a.jpg", b"0", b"one")).read_bytes()
    (tmp_path / "x.tar.xz").write_bytes(lzma.compress(data))
    monkeypatch.setattr(tars, "_XZ_MEMORY", 1 << 16)
    assert "is damaged (Memory usage limit exceeded)" in refused(tmp_path / "x.tar.xz")
