"""What a layout sees of a source: images and folders, lines of lists, and a reason for everything else."""

from __future__ import annotations

from pathlib import Path

import pytest

from datasets.errors import DataError
from datasets.layouts import tree as module
from datasets.layouts.tree import Listing, Tree, is_image
from datasets.sources import Folder


def made(root: Path, *paths: str) -> Tree:
    """A tree with these files; a path that ends in "/" is a folder."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        if path.endswith("/"):
            (root / path).mkdir(exist_ok=True)
        else:
            (root / path).write_bytes(b"x")
    return Tree(Folder(root))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("1.jpg", True), ("1.JPEG", True), ("1.png", True), ("1.bmp", True), ("1.webp", True),
        ("1.txt", False), ("jpg", False), (".1.jpg", False), ("._1.jpg", False), ("1.jpg.txt", False),
    ],
)  # fmt: skip
def test_images_are_told_by_their_suffix_unless_hidden(name: str, expected: bool) -> None:
    assert is_image(name) is expected


def test_a_listing_has_images_and_folders_sorted_and_passes_over_the_rest(tmp_path: Path) -> None:
    tree = made(tmp_path, "a/2.jpg", "a/1.PNG", "a/notes.txt", "a/.DS_Store", "a/c/", "a/b/9.jpg")
    assert tree.listing("a") == Listing(("1.PNG", "2.jpg"), ("b", "c"))
    assert tree.passed_over == {"not images": ["a/.DS_Store", "a/notes.txt"]}
    assert tree.listing("nowhere") == Listing()
    assert tree.offenders == []


def test_links_that_lead_out_are_offenders_whether_file_or_folder(tmp_path: Path) -> None:
    tree = made(tmp_path / "root", "a/1.jpg")
    (tmp_path / "out").mkdir()
    (tmp_path / "root/a/2.jpg").symlink_to(tmp_path / "out.jpg")
    (tmp_path / "root/b").symlink_to(tmp_path / "out")
    assert tree.listing("a") == Listing(("1.jpg",))
    assert tree.listing("b") == Listing()
    assert [offender.path for offender in tree.offenders] == ["a/2.jpg", "b"]


def test_a_flat_folder_has_no_folders(tmp_path: Path) -> None:
    tree = made(tmp_path, "a/1.jpg", "a/b/2.jpg")
    assert list(tree.flat("a")) == ["a/1.jpg"]
    assert tree.passed_over == {"folders where none is expected": ["a/b/"]}


def test_a_nested_folder_has_one_folder_of_digits_per_person(tmp_path: Path) -> None:
    tree = made(tmp_path, "a/001/1.jpg", "a/2/1.jpg", "a/2/2.jpg", "a/x2/1.jpg", "a/٣/1.jpg", "a/loose.jpg")
    assert list(tree.nested("a")) == [("001", "a/001/1.jpg"), ("2", "a/2/1.jpg"), ("2", "a/2/2.jpg")]
    assert [(offender.path, offender.problem) for offender in tree.offenders] == [
        ("a/loose.jpg", "a has one folder per person"),
        ("a/x2", "a person folder is a number"),
        ("a/٣", "a person folder is a number"),
    ]


def test_lines_are_numbered_stripped_and_never_blank(tmp_path: Path) -> None:
    tree = made(tmp_path)
    (tmp_path / "list.txt").write_bytes("\ufefffirst \r\n\r\n  third\x0bstill third\nfourth".encode())
    assert list(tree.lines("list.txt")) == [(1, "first"), (3, "third\x0bstill third"), (4, "fourth")]
    assert list(tree.lines("nowhere.txt")) == []
    (tmp_path / "list.txt").write_bytes(b"caf\xe9")
    with pytest.raises(DataError, match=r"list.txt is no text in UTF-8 .*one entry per line"):
        list(tree.lines("list.txt"))


def test_a_list_that_is_too_large_or_must_not_be_opened_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = made(tmp_path / "root", "list.txt")
    assert tree.read("list.txt") == b"x"
    monkeypatch.setattr(module, "LISTS_BYTES", 0)
    with pytest.raises(DataError, match=r"list.txt is larger than 0 MiB, the limit of a list"):
        tree.read("list.txt")
    with pytest.raises(DataError, match=r"nowhere.txt cannot be read: .*check the file and its permissions"):
        tree.read("nowhere.txt")
    (tmp_path / "out.txt").write_bytes(b"x")
    (tmp_path / "root/link.txt").symlink_to(tmp_path / "out.txt")
    with pytest.raises(DataError, match=r"link.txt is a symbolic link that leads out of the tree; put the file itself"):
        tree.read("link.txt")


def test_reports_warnings_and_reasons_are_kept_in_order(tmp_path: Path) -> None:
    tree = made(tmp_path)
    tree.report("b", "is wrong", "correct it")
    tree.report("a", "is wrong", "correct it")
    tree.warn("take care")
    tree.pass_over("2", "extra")
    tree.pass_over("1", "extra")
    assert list(map(str, tree.offenders)) == ["b: is wrong; correct it", "a: is wrong; correct it"]
    assert (tree.warnings, tree.passed_over) == (["take care"], {"extra": ["2", "1"]})
