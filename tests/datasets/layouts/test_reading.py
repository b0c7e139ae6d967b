"""A source read by a layout: one spelling of a person's number, splits left out, and what an archive says of itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from datasets.errors import DataError
from datasets.layouts.layout import Entry, Layout, name
from datasets.layouts.reading import read_layout
from datasets.layouts.tree import Tree
from tests.datasets.sources.packing import pack, tar_of

PLACES = {"train": ("train",), "query": ("query",)}


def entries(tree: Tree) -> Iterator[Entry]:
    for split in PLACES:
        for path in tree.flat(split):
            yield Entry(split, path, path.rpartition("/")[2].partition("_")[0])


LAYOUT = Layout("mine", "Mine", PLACES, name("<person>_<number>", r"\w+_\d+"), entries, "general", "none")


def made(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"x")
    return root


def persons(root: Path) -> list[str]:
    return [entry.person for entry in read_layout(LAYOUT, root).entries]


def test_a_persons_number_is_written_as_where_it_has_most_digits(tmp_path: Path) -> None:
    root = made(tmp_path, "train/1_1.jpg", "train/0002_1.jpg", "train/x_1.jpg", "query/0001_1.jpg", "query/02_1.jpg")
    assert persons(root) == ["0002", "0001", "x", "0001", "0002"]


def test_a_split_left_out_needs_no_folder_and_gives_no_entry(tmp_path: Path) -> None:
    root = made(tmp_path / "a" / "b" / "c" / "d", "train/1_1.jpg")
    with pytest.raises(DataError, match="it has no query"):
        read_layout(LAYOUT, root)
    assert [entry.split for entry in read_layout(LAYOUT, root, without=["query"]).entries] == ["train"]
    made(root, "query/1_1.jpg")
    assert [entry.split for entry in read_layout(LAYOUT, root, without=["query"]).entries] == ["train"]


def test_what_was_passed_over_reported_or_warned_of_comes_with_the_entries(tmp_path: Path) -> None:
    root = made(tmp_path / "root", "train/1_1.jpg", "train/notes.txt", "query/1_1.jpg")
    (root / "query/2_1.jpg").symlink_to(tmp_path / "elsewhere.jpg")
    reading = read_layout(LAYOUT, root)
    assert reading.passed_over == {"not images": ["train/notes.txt"]}
    assert [offender.path for offender in reading.offenders] == ["query/2_1.jpg"]
    assert reading.source.where() == str(root)


def test_an_archive_is_read_below_the_folder_that_is_the_root_with_its_own_offenders(tmp_path: Path) -> None:
    made(tmp_path / "all", "some/Mine/train/1_1.jpg", "some/Mine/query/1_1.jpg")
    packed = pack(tmp_path / "all", tmp_path / "all.zip")
    reading = read_layout(LAYOUT, packed)
    assert [entry.path for entry in reading.entries] == ["train/1_1.jpg", "query/1_1.jpg"]
    assert reading.source.where() == f"{packed}: some/Mine"
    tar = tar_of(
        tmp_path / "x.tar",
        *((path, b"0", b"x") for path in ("train/1_1.jpg", "train/1_1.jpg", "query/1_1.jpg", "../out.jpg")),
    )
    reading = read_layout(LAYOUT, tar)
    assert [offender.path for offender in reading.offenders] == ["../out.jpg"]
    assert reading.warnings == [f"{tar} has 1 members twice or more; the last of each is used"]
