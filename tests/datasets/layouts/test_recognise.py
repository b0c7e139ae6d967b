"""Which folder is a layout's root: the right one passes, a wrong one is told the folder or the layout that fits."""

from __future__ import annotations

from pathlib import Path

import pytest

from datasets.errors import DataError
from datasets.layouts.layout import Layout, name
from datasets.layouts.recognise import check_root, find_root
from datasets.layouts.table import TABLE
from datasets.sources import Folder, open_source
from datasets.sources.archive import Archive
from tests.datasets.sources.packing import pack


def layout(title: str, root: str, regex: str, **places: tuple[str, ...]) -> Layout:
    return Layout(title, root, places, name(f"<{title}>", regex), lambda tree: iter(()), "general", "none")


MINE = layout("mine", "Mine-v1", r"\d+_c\d+", train=("train",), query=("query", "query.txt"))
OTHER = layout("other", "Other-v1", r"p\d+", train=("train",), gallery=("gallery",))
KNOWN = (MINE, OTHER, TABLE)


def tree(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"x")
    return root


WHOLE = ("train/1_c1.jpg", "query/1_c2.jpg", "query.txt")


def refusal(root: Path, without: tuple[str, ...] = ()) -> str:
    with pytest.raises(DataError) as caught:
        check_root(MINE, Folder(root), KNOWN, without)
    assert str(caught.value).startswith(f"{root} is not the root of mine: it has no ")
    return str(caught.value)


def test_the_right_root_passes_also_where_single_names_are_wrong(tmp_path: Path) -> None:
    check_root(MINE, Folder(tree(tmp_path / "a", *WHOLE)), KNOWN)
    check_root(MINE, Folder(tree(tmp_path / "b", *WHOLE, "train/0.jpg")), KNOWN)
    check_root(MINE, Folder(tree(tmp_path / "c", "train/notes", "query/notes", "query.txt")), KNOWN)
    check_root(MINE, Folder(tree(tmp_path / "d", "train/portrait.jpg", *WHOLE[2:], "query/x.jpg")), KNOWN)


def test_a_missing_place_is_named_with_the_expected_folder(tmp_path: Path) -> None:
    text = refusal(tree(tmp_path / "a" / "b" / "c" / "d", "train/1_c1.jpg"))
    assert "it has no query; expected the folder Mine-v1, which has train, query, query.txt" in text
    assert "Without" not in text, "two places are missing"


def test_where_a_single_split_is_missing_the_rest_can_be_converted(tmp_path: Path) -> None:
    root = tree(tmp_path / "a" / "b" / "c" / "d", "query/1_c2.jpg", "query.txt")
    assert refusal(root).endswith(". Without train, the rest can be converted")
    check_root(MINE, Folder(root), KNOWN, ("train",))


def test_a_root_one_level_off_is_told_the_right_folder(tmp_path: Path) -> None:
    right = tree(tmp_path / "Mine-v1", *WHOLE)
    for wrong in (tmp_path, right / "train"):
        assert f"{right} has them: give that as the source" in refusal(wrong)


def test_a_tree_of_another_layout_is_told_its_name(tmp_path: Path) -> None:
    text = refusal(tree(tmp_path / "a", "train/p1.jpg", "gallery/p2.jpg"))
    assert text.endswith("it has no query. The tree looks like other; give that as the layout")
    both = tree(tmp_path / "b", "train/p1.jpg", "gallery/p2.jpg", "query/p3.jpg", "query.txt")
    assert "it has no name as <mine>. The tree looks like other" in refusal(both)


def test_a_tree_of_metadata_that_a_mac_packs_is_no_root(tmp_path: Path) -> None:
    for top in ("Mine-v1", "renamed"):
        folder = tree(tmp_path / top, *(f"{top}/{path}" for path in WHOLE))
        tree(folder, *(f"__MACOSX/{top}/{path}" for path in ("train/._1_c1.jpg", "query/._1_c2.jpg", "query.txt")))
        assert find_root(MINE, archive(folder)).prefix == top
        with pytest.raises(DataError, match=rf"{top}/{top} has them: give that as the source"):
            check_root(MINE, Folder(folder), KNOWN)


def test_several_roots_are_told_apart_by_their_paths(tmp_path: Path) -> None:
    folder = tree(tmp_path / "all", *(f"{top}/Mine-v1/{path}" for top in ("new", "old") for path in WHOLE))
    with pytest.raises(DataError, match="several folders that could be mine: new/Mine-v1, old/Mine-v1"):
        find_root(MINE, archive(folder))


def archive(folder: Path) -> Archive:
    opened = open_source(pack(folder, folder.with_suffix(".zip")), "a test's folder")
    assert isinstance(opened, Archive)
    return opened


def test_the_root_of_an_archive_is_its_top_or_a_folder_up_to_two_levels_down(tmp_path: Path) -> None:
    for number, prefix in enumerate(("", "any/", "any/Mine-v1/")):
        root = tree(tmp_path / str(number), *(prefix + path for path in WHOLE), "readme/notes.txt")
        assert find_root(MINE, archive(root)).prefix == prefix.rstrip("/")
    nothing = archive(tree(tmp_path / "9", "a/b/c/train/1_c1.jpg"))
    assert find_root(MINE, nothing).prefix == ""


def test_of_several_folders_that_fit_the_official_name_decides(tmp_path: Path) -> None:
    copies = [f"{folder}/{path}" for folder in ("copy", "Mine-v1") for path in WHOLE]
    assert find_root(MINE, archive(tree(tmp_path / "a", *copies))).prefix == "Mine-v1"
    copies = [f"{folder}/{path}" for folder in ("copy", "again") for path in WHOLE]
    with pytest.raises(
        DataError, match=r"several folders that could be mine: again, copy. Rename the right one to Mine-v1"
    ):
        find_root(MINE, archive(tree(tmp_path / "b", *copies)))


def test_a_table_is_recognised_by_its_file(tmp_path: Path) -> None:
    assert find_root(TABLE, archive(tree(tmp_path / "a", "deep/table.csv", "other/1.jpg"))).prefix == "deep"
