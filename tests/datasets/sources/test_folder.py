"""A folder as a source: links within it are followed, links out of it and everything that is no regular file are not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from datasets.sources import Child, Folder, TooLarge
from datasets.sources.source import walk


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for path in ("root/a/1.jpg", "root/a/b/2.jpg", "out/3.jpg"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(path.encode())
    return tmp_path / "root"


def test_children_are_sorted_with_their_kind(root: Path) -> None:
    folder = Folder(root)
    assert folder.children("a") == [Child("1.jpg", False), Child("b", True)]
    assert folder.children("a/1.jpg") == []
    assert folder.children("nowhere") == []
    assert (folder.is_file("a/1.jpg"), folder.is_folder("a/1.jpg")) == (True, False)
    assert (folder.is_file("a"), folder.is_folder("a")) == (False, True)
    assert folder.where("a/1.jpg") == f"{root}/a/1.jpg"
    assert folder.where() == str(root)


def test_a_link_within_may_be_opened_and_one_that_leads_out_may_not(root: Path) -> None:
    (root / "within.jpg").symlink_to(root / "a/1.jpg")
    (root / "out.jpg").symlink_to(root.parent / "out/3.jpg")
    (root / "out").symlink_to(root.parent / "out")
    (root / "nowhere.jpg").symlink_to(root / "gone.jpg")
    os.mkfifo(root / "pipe.jpg")
    found = {child.name: child.offender for child in Folder(root).children("")}
    assert {name: offender and offender.problem for name, offender in found.items()} == {
        "a": None,
        "within.jpg": None,
        "out.jpg": "is a symbolic link that leads out of the tree",
        "out": "is a symbolic link that leads out of the tree",
        "nowhere.jpg": "is a symbolic link that leads nowhere",
        "pipe.jpg": "is no regular file",
    }
    assert found["out.jpg"].remedy == "put the file itself there"  # type: ignore[union-attr]
    assert found["out"].remedy == "put the folder itself there"  # type: ignore[union-attr]


def test_walking_yields_every_file_and_follows_no_link_to_a_folder(root: Path) -> None:
    (root / "c").symlink_to(root / "a")
    assert [path for path, _ in walk(Folder(root))] == ["a/1.jpg", "a/b/2.jpg"]


def test_a_file_is_read_whole_up_to_the_limit(root: Path) -> None:
    folder, data = Folder(root), b"root/a/1.jpg"
    assert folder.read("a/1.jpg", len(data)) == data
    with pytest.raises(TooLarge):
        folder.read("a/1.jpg", len(data) - 1)
    with pytest.raises(FileNotFoundError):
        folder.read("a/9.jpg", 99)
    os.mkfifo(root / "pipe.jpg")
    with pytest.raises(OSError, match="is no regular file"):
        folder.read("pipe.jpg", 99)


@pytest.mark.parametrize("most", [12, 30])
def test_a_file_that_grows_while_it_is_read_is_read_whole_or_is_too_large(
    root: Path, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = os.read

    def growing(descriptor: int, num: int) -> bytes:
        monkeypatch.setattr(os, "read", read)
        with open(root / "a/1.jpg", "ab") as file:
            file.write(b" and more")
        return read(descriptor, num)

    monkeypatch.setattr(os, "read", growing)
    if most == 12:
        with pytest.raises(TooLarge, match="grows beyond 12 bytes"):
            Folder(root).read("a/1.jpg", most)
    else:
        assert Folder(root).read("a/1.jpg", most) == b"root/a/1.jpg and more"


def test_a_stamp_is_size_and_time_of_the_last_change(root: Path) -> None:
    os.utime(root / "a/1.jpg", ns=(5, 1_234_567_890))
    assert Folder(root).stamp("a/1.jpg") == (12, 1_234_567_890)


def test_folders_near_are_those_below_then_those_above(root: Path) -> None:
    near = [source.where() for source in Folder(root / "a").near()]
    assert near == [f"{root}/a/b", str(root), str(root.parent), str(root.parent.parent)]


def test_two_sources_are_the_same_where_their_folders_are(root: Path) -> None:
    (root.parent / "link").symlink_to(root)
    assert Folder(root).is_same(Folder(root.parent / "link"))
    assert not Folder(root).is_same(Folder(root / "a"))
    assert Folder(root).below("a").is_same(Folder(root / "a"))
