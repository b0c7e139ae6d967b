"""A table of the user's own, as CSV or Parquet: rows become entries, and each wrong row is an offender with its number."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datasets.errors import DataError
from datasets.layouts.layout import Entry
from datasets.layouts.reading import Reading, read_layout
from datasets.layouts.table import TABLE

HEADER = "path,person,split,clothes,camera,sequence,frame"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for name in ("1.jpg", "2.jpg", "3.png", "notes.txt"):
        (tmp_path / "images" / name).write_bytes(b"x")
    return tmp_path


def read(root: Path, *lines: str, header: str = HEADER, given: bool = False) -> Reading:
    (root / "table.csv").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return read_layout(TABLE, root / "table.csv" if given else root)


def test_rows_are_entries_and_empty_labels_are_none(root: Path) -> None:
    lines = ("images/1.jpg,7,train,a,c1,s1,12", "images/2.jpg,7,query,,,,", "images/2.jpg, 8 ,gallery,,c2,,")
    for given in (False, True):
        reading = read(root, *lines, given=given)
        assert reading.entries == [
            Entry("train", "images/1.jpg", "7", "a", "c1", "s1", "12"),
            Entry("query", "images/2.jpg", "7"),
            Entry("gallery", "images/2.jpg", "8", None, "c2"),
        ]
        assert (reading.offenders, reading.warnings) == ([], [])


def test_parquet_says_the_same_as_csv(root: Path) -> None:
    columns = {
        "path": ["images/1.jpg", "images/2.jpg"],
        "person": [7, 8],
        "split": ["train", "query"],
        "camera": [None, "c2"],
    }
    pq.write_table(pa.table(columns), root / "table.parquet")
    expected = [Entry("train", "images/1.jpg", "7"), Entry("query", "images/2.jpg", "8", None, "c2")]
    assert read_layout(TABLE, root).entries == expected
    (root / "table.parquet").rename(root / "other.parquet")
    assert read_layout(TABLE, root / "other.parquet").entries == expected


OFFENDERS = {
    "no person": ("images/1.jpg,,train,,,,", "table.csv, row 3", "person is empty"),
    "no split": ("images/1.jpg,1,,,,,", "table.csv, row 3", "split is empty"),
    "split": ("images/1.jpg,1,Train,,,,", "table.csv, row 3", "split 'Train'"),
    "absolute": ("/images/1.jpg,1,train,,,,", "table.csv, row 3", "path '/images/1.jpg'"),
    "out": ("images/../../1.jpg,1,train,,,,", "table.csv, row 3", "path 'images/../../1.jpg'"),
    "zero byte": ("images/1\0.jpg,1,train,,,,", "table.csv, row 3", "path 'images/1\\x00.jpg'"),
    "long": (f"{'a' * 5000}.jpg,1,train,,,,", f"{'a' * 5000}.jpg", "listed in table.csv, row 3 but not there"),
    "windows": ("images\\1.jpg,1,train,,,,", "table.csv, row 3", "path 'images\\\\1.jpg'"),
    "more cells": ("images/1.jpg,1,train,red, blue,c1,s1,2", "table.csv, row 3", "8 cells, the header has 7"),
    "fewer cells": ("images/1.jpg,1,train,red", "table.csv, row 3", "4 cells, the header has 7"),
    "missing": ("images/9.jpg,1,train,,,,", "images/9.jpg", "listed in table.csv, row 3 but not there"),
    "no image": ("images/notes.txt,1,train,,,,", "images/notes.txt", "its suffix is none of .jpg .jpeg"),
    "twice": ("images/3.png,1,train,,,,", "table.csv, row 3", "images/3.png is in split train already"),
}


@pytest.mark.parametrize("name", OFFENDERS)
def test_a_wrong_row_is_an_offender_and_the_others_are_read(root: Path, name: str) -> None:
    line, path, problem = OFFENDERS[name]
    reading = read(root, "images/3.png,3,train,,,,", line)
    assert [entry.path for entry in reading.entries] == ["images/3.png"]
    assert [offender.path for offender in reading.offenders] == [path]
    assert problem in reading.offenders[0].problem


ENTRIES = [Entry("train", "images/1.jpg", "1", "red"), Entry("train", "images/2.jpg", "2", "red, blue")]
VARIANTS = {
    "blanks and case": ' Path , PERSON,Split,clothes\nimages/1.jpg , 1,train , red\nimages/2.jpg,2,train,"red, blue"\n',
    "semicolons": "path;person;split;clothes\nimages/1.jpg;1;train;red\nimages/2.jpg;2;train;red, blue\n",
    "tabs": "path\tperson\tsplit\tclothes\nimages/1.jpg\t1\ttrain\tred\nimages/2.jpg\t2\ttrain\tred, blue\n",
    "paths": 'path,person,split,clothes\n./images/1.jpg,1,train,red\n{root}/images//2.jpg,2,train,"red, blue"\n',
    "blank rows": 'path,person,split,clothes\n\nimages/1.jpg,1,train,red\n,,,\nimages/2.jpg,2,train,"red, blue"\n,,,,\n',
    "a mark": '\ufeffpath,person,split,clothes\nimages/1.jpg,1,train,red\nimages/2.jpg,2,train,"red, blue"\n',
    "an index": ',path,person,split,clothes\n0,images/1.jpg,1,train,red\n1,images/2.jpg,2,train,"red, blue"\n',
    "old lines": 'path,person,split,clothes\r\nimages/1.jpg,1,train,red\r\nimages/2.jpg,2,train,"red, blue"\r\n',
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_that_mean_the_same_are_read(root: Path, variant: str) -> None:
    name = "table.tsv" if variant == "tabs" else "table.csv"
    (root / name).write_text(VARIANTS[variant].replace("{root}", str(root)), encoding="utf-8", newline="")
    for source in (root, root / name):
        reading = read_layout(TABLE, source)
        assert reading.entries == ENTRIES
        assert (reading.offenders, reading.warnings) == ([], [])


def test_a_column_twice_is_refused_whatever_its_case(root: Path) -> None:
    with pytest.raises(DataError, match=r"table\.csv, row 1: column person is there twice or more"):
        read(root, "images/1.jpg,1,train,2", header="path,person,split,Person")
    arrays = [pa.array(["images/1.jpg"]), pa.array(["1"]), pa.array(["train"]), pa.array(["2"])]
    twice = pa.Table.from_arrays(arrays, names=["path", "person", "split", "person"])
    pq.write_table(twice, root / "other.parquet")
    with pytest.raises(DataError, match=r"other\.parquet, row 1: column person is there twice or more"):
        read_layout(TABLE, root / "other.parquet")


def test_names_that_a_mac_decomposed_are_found(root: Path) -> None:
    (root / "cafe\u0301").mkdir()
    (root / "cafe\u0301" / "Zoe\u0308.jpg").write_bytes(b"x")
    [entry] = read(root, "caf\u00e9/Zo\u00eb.jpg,1,train,,,,").entries
    assert entry.path == "cafe\u0301/Zoe\u0308.jpg"
    [offender] = read(root, "caf\u00e9/Zo\u00e9.jpg,1,train,,,,").offenders
    assert "but not there" in offender.problem


def test_links_that_no_row_names_do_not_matter(root: Path) -> None:
    (root / "images" / "0.jpg").symlink_to("/etc/hostname")
    assert read(root, "images/1.jpg,1,train,,,,").offenders == []
    [offender] = read(root, "images/0.jpg,1,train,,,,", "images/0.jpg,1,query,,,,").offenders
    assert (offender.path, offender.problem) == ("images/0.jpg", "is a symbolic link that leads out of the tree")


@pytest.mark.parametrize(
    ("lines", "protocol"),
    [
        (["1.jpg,7,train,,", "2.jpg,7,query,a,c1", "3.png,7,gallery,a,c2"], "ltcc"),
        (["1.jpg,7,train,a,c1", "2.jpg,7,query,a,c1", "3.png,7,gallery,,c2"], "general"),
        (["1.jpg,7,train,a,c1", "2.jpg,7,query,a,", "3.png,7,gallery,a,c2"], "general"),
        (["1.jpg,7,train,a,c1"], "general"),
    ],
)
def test_clothes_and_cameras_of_query_and_gallery_decide_the_protocol(
    root: Path, lines: list[str], protocol: str
) -> None:
    rows = (f"images/{line},," for line in lines)
    assert TABLE.protocol_of(read(root, *rows).entries) == protocol


def test_only_splits_that_may_be_there_are_left_out(root: Path) -> None:
    line = "images/1.jpg,1,train,,,,"
    (root / "table.csv").write_text(f"{HEADER}\n{line}\n")
    assert read_layout(TABLE, root, without=["query", "gallery"]).entries == [Entry("train", "images/1.jpg", "1")]
    with pytest.raises(DataError, match=r"no split 'galery' to leave out of table; .* Did you mean gallery\?"):
        read_layout(TABLE, root, without=["galery"])


def test_columns_are_checked_by_name(root: Path) -> None:
    with pytest.raises(
        DataError, match=r"table.csv has no column person and no split; it has path, who\. Required are"
    ):
        read(root, "images/1.jpg,1", header="path,who")
    reading = read(root, "train,1,images/1.jpg,blue", header="split,person,path,mood")
    assert reading.entries == [Entry("train", "images/1.jpg", "1")]
    assert reading.warnings == ["table.csv has columns that are ignored: mood"]


def test_a_parquet_table_with_bytes_that_are_no_text_is_refused_by_name(root: Path) -> None:
    raw = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.array([0, 1], pa.int32()).buffers()[1], pa.py_buffer(b"\xff")]
    )
    pq.write_table(pa.table({"path": ["images/1.jpg"], "person": raw, "split": ["train"]}), root / "table.parquet")
    with pytest.raises(
        DataError, match=r"table\.parquet cannot be read as Parquet: 'utf-8' codec can't decode byte 0xff"
    ):
        read_layout(TABLE, root)


def test_a_root_has_one_table_and_it_can_be_read(root: Path) -> None:
    with pytest.raises(
        DataError, match=r"has neither table\.csv nor table\.tsv nor table\.parquet; give the table's own path"
    ):
        read_layout(TABLE, root)
    (root / "table.parquet").write_bytes(b"text")
    with pytest.raises(DataError, match=r"table\.parquet cannot be read as Parquet"):
        read_layout(TABLE, root)
    (root / "table.csv").write_bytes(b"path,person,split\n\xff,1,train\n")
    with pytest.raises(DataError, match=r"has both table\.csv and table\.parquet"):
        read_layout(TABLE, root)
    with pytest.raises(DataError, match=r"table\.csv cannot be read as CSV in UTF-8"):
        read_layout(TABLE, root / "table.csv")
