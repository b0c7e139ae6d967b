"""Nothing in an archive leads out, hides, or exhausts memory; a damaged one is refused."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

from datasets.sources import TooLarge, archive, members
from datasets.sources.source import walk
from tests.datasets.sources.packing import files, opened, pack, refused, tar_of


def test_paths_that_lead_out_are_offenders_and_not_read(tmp_path: Path) -> None:
    evil = [
        "/etc/passwd.jpg",
        "../out.jpg",
        "a/../../out.jpg",
        "C:/x.jpg",
        "a\\b.jpg",
        "b" * 2000 + ".jpg",
        "a/\udcff.jpg",
    ]
    tar_of(tmp_path / "x.tar", *((name, b"0", b"x") for name in [*evil, "a/good.jpg", "./a//too.jpg"]))
    source = opened(tmp_path / "x.tar")
    assert files(source) == {"a/good.jpg": b"x", "a/too.jpg": b"x"}
    assert len(source.offenders) == len(evil)
    assert all("it is not read; pack the archive again without it" in str(offender) for offender in source.offenders)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as made:
        for name in evil[:5]:
            info = zipfile.ZipInfo("x")
            info.filename = name
            made.writestr(info, b"x")
    assert len(opened(tmp_path / "x.zip").offenders) == 5


def test_links_lead_to_files_within_or_are_offenders(tmp_path: Path) -> None:
    tar_of(
        tmp_path / "x.tar",
        ("a/1.jpg", b"0", b"one"),
        ("a/same.jpg", b"1", b"a/1.jpg"),
        ("a/link.jpg", b"2", b"../b/2.jpg"),
        ("a/out.jpg", b"2", b"../../etc/passwd"),
        ("a/absolute.jpg", b"2", b"/etc/passwd"),
        ("a/nowhere.jpg", b"2", b"gone.jpg"),
        ("a/hard.jpg", b"1", b"../x"),
        ("a/loop", b"2", b"."),
        ("a/round.jpg", b"2", b"round.jpg"),
        ("b/2.jpg", b"0", b"two"),
        ("c", b"2", b"b"),
    )
    source = opened(tmp_path / "x.tar")
    assert files(source) == {"a/1.jpg": b"one", "a/same.jpg": b"one", "a/link.jpg": b"two", "b/2.jpg": b"two"}
    assert source.read("c/2.jpg", 9) == b"two"
    assert source.read("a/loop/loop/1.jpg", 9) == b"one"
    bad = {path: child.offender.problem for path, child in walk(source) if child.offender}
    assert bad == {
        "a/out.jpg": "is a symbolic link that leads out of the archive",
        "a/absolute.jpg": "is a symbolic link that leads out of the archive",
        "a/nowhere.jpg": "is a symbolic link that leads nowhere",
        "a/round.jpg": "is a symbolic link that leads nowhere",
        "a/hard.jpg": "is a hard link to ../x, no file that came before it",
    }
    for path in bad:
        with pytest.raises(FileNotFoundError):
            source.read(path, 9)


def test_devices_and_files_that_are_folders_are_offenders(tmp_path: Path) -> None:
    tar_of(
        tmp_path / "x.tar",
        ("pipe.jpg", b"6", b""),
        ("disk.jpg", b"4", b""),
        ("link", b"2", b"b"),
        ("link/in.jpg", b"0", b"x"),
        ("b/1.jpg", b"0", b"x"),
        ("b", b"0", b"x"),
    )
    source = opened(tmp_path / "x.tar")
    assert files(source) == {"b/1.jpg": b"x"}
    told = [str(child.offender) for _, child in walk(source) if child.offender]
    assert told == [
        f"{name}.jpg: is a device, a pipe or a socket; pack the archive again without it" for name in ("disk", "pipe")
    ]
    assert [offender.path for offender in source.offenders] == ["'link/in.jpg'", "'b'"]


def test_of_members_with_one_name_the_last_counts_with_a_warning(tmp_path: Path) -> None:
    tar_of(tmp_path / "x.tar", ("a.jpg", b"0", b"old"), ("a.jpg", b"0", b"new"))
    source = opened(tmp_path / "x.tar")
    assert files(source) == {"a.jpg": b"new"}
    assert "has 1 members twice or more; the last of each is used" in source.warnings[0]


def test_sizes_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("a.jpg", bytes(1 << 20))
    source = opened(tmp_path / "x.zip")
    with pytest.raises(TooLarge):
        source.read("a.jpg", (1 << 20) - 1)
    assert len(source.read("a.jpg", 1 << 20)) == 1 << 20
    monkeypatch.setattr(members, "MAX_MEMBERS", 2)
    tar_of(tmp_path / "x.tar", *((f"{number}.jpg", b"0", b"x") for number in range(3)))
    assert "has more than 2 files; unpack it and give the folder" in refused(tmp_path / "x.tar")


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "tar.xz"])
def test_a_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(archive, "FREE_BYTES", 1 << 16)
    (tmp_path / "content").mkdir()
    for number in range(3):
        (tmp_path / f"content/{number}.jpg").write_bytes(bytes(5 << 20))
    told = refused(pack_all(tmp_path / "content", tmp_path / f"x.{kind}"))
    assert "unpacks to more than 100 times its" in told
    assert "unpack it and give the folder as the source" in told


def pack_all(folder: Path, to: Path) -> Path:
    """As `pack`, everything deflated."""
    if to.suffix != ".zip":
        return pack(folder, to)
    with zipfile.ZipFile(to, "w", zipfile.ZIP_DEFLATED) as made:
        for path in sorted(folder.iterdir()):
            made.write(path, path.name)
    return to


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "tar.xz", "tar.bz2", "zip"])
def test_an_archive_that_was_cut_or_altered_is_refused_never_read_in_part(tmp_path: Path, kind: str) -> None:
    (tmp_path / "content").mkdir()
    for number in range(30):
        (tmp_path / f"content/{number}.jpg").write_bytes(os.urandom(700))
    data = pack(tmp_path / "content", tmp_path / f"x.{kind}").read_bytes()
    path = tmp_path / f"y.{kind}"
    for end in (len(data) // 3, len(data) // 2, 512 * 21, 512 * 22 + 100):
        path.write_bytes(data[:end])
        assert "copy it again from an undamaged copy" in refused(path), end
