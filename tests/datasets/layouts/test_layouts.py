"""Every layout reads what the published parsers read, row for row, up to the renamings that the fixtures' README allows."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datasets.conversion.convert import ConversionSettings, convert
from datasets.errors import DataError
from datasets.layouts import LAYOUTS, Entry
from datasets.layouts.reading import read_layout
from datasets.protocols.protocols import PROTOCOLS
from datasets.shards.dataset import Dataset
from tests import layouts
from tests.layouts import Fixture

PARSERS = [
    pytest.param(
        name, at, id="-".join([name, parser["source"], parser["parser"], *map(str, parser["options"].values())])
    )
    for name in layouts.names()
    for at, parser in enumerate(layouts.expected(name)["parsers"])
]


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Fixture]:
    return {name: layouts.unpack(name, tmp_path_factory.mktemp(name)) for name in layouts.names()}


def read(fixture: Fixture) -> list[Entry]:
    reading = read_layout(LAYOUTS[fixture.name], fixture.root, known=LAYOUTS.values())
    assert not reading.offenders
    return reading.entries


def truth(fixture: Fixture) -> set[tuple[Any, ...]]:
    """Distractors are of the gallery; everything else is as the fixture says."""
    return {
        (
            "gallery" if image["split"] == "distractor" else image["split"],
            image["path"],
            image["person"],
            image["clothes"],
            image["camera"],
            image.get("sequence"),
            None if image.get("frame") is None else str(image["frame"]),
        )
        for image in fixture.expected["images"]
    }


def fields(entry: Entry) -> tuple[Any, ...]:
    return entry.split, entry.path, entry.person, entry.clothes, entry.camera, entry.sequence, entry.frame


@pytest.mark.parametrize("name", layouts.names())
def test_every_image_has_the_split_and_the_labels_of_the_truth(trees: dict[str, Fixture], name: str) -> None:
    entries = [fields(entry) for entry in read(trees[name])]
    assert len(entries) == len(set(entries))
    assert set(entries) == truth(trees[name])


@pytest.mark.parametrize(("name", "parser"), PARSERS)
def test_every_row_is_the_published_parsers(trees: dict[str, Fixture], name: str, parser: int) -> None:
    told = trees[name].expected["parsers"][parser]
    entries = read(trees[name])
    for split, rows in told["splits"].items():
        ours = chosen(entries, name, told, split)
        theirs = by_image(rows)
        assert ours.keys() == theirs.keys(), split
        persons = [(ours[path].person, row["pid"]) for path, row in theirs.items()]
        assert is_renaming(persons), f"{split}: persons"
        assert all(row["pid_raw"] == ours[path].person for path, row in theirs.items()), f"{split}: persons as written"
        cameras = [(camera(ours[path], name), row["camid"]) for path, row in theirs.items()]
        if PROTOCOLS[name].camera is None:  # the parser numbers the images so that none is ever left out
            assert all(camera is None for camera, _ in cameras)
            assert len({camid for _, camid in cameras}) == len(cameras)
        else:
            assert is_renaming(cameras), f"{split}: cameras"
        clothes = [(outfit(ours[path]), row.get("clothes")) for path, row in theirs.items()]
        if all(worn is None for worn, _ in clothes):  # then the parser repeats the person, or says nothing
            assert all(row.get("clothes") in (None, row["pid"]) for row in theirs.values())
        elif any("clothes" in row for row in theirs.values()):
            assert is_renaming(clothes), f"{split}: clothes"


def chosen(entries: list[Entry], name: str, parser: dict[str, Any], split: str) -> dict[str, Entry]:
    """Our rows of what a parser calls `split`, by path."""
    splits: set[str] = {split}
    cameras: tuple[str, ...] | None = None
    if (parser["source"], parser["parser"]) == ("CLIP-ReID", "MSMT17") and split == "train":
        splits = {"train", "val"}
    if parser["parser"] == "PRCC_GCN":
        splits = {"train" if split in ("train_ca", "train_cb") else split}
        cameras = {"train_ca": ("A", "C"), "train_cb": ("A", "B")}.get(split)
    if name == "vcclothes" and split != "train":
        mode = {"all": "general", "sc": "same-clothes", "cc": "clothes-changing"}[parser["options"]["mode"]]
        cameras = next(m.cameras for m in PROTOCOLS[name].modes if m.name == mode)
    rows = [entry for entry in entries if entry.split in splits and (cameras is None or entry.camera in cameras)]
    return {entry.path: entry for entry in rows}


def by_image(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """A parser's rows by image; a tracklet's row counts for each of its frames."""
    return {
        f"{row['path']}/{frame}" if frame else row["path"]: row for row in rows for frame in row.get("frames", [""])
    }


def camera(entry: Entry, name: str) -> str | None:
    """What the protocol compares as the camera."""
    protocol = PROTOCOLS[name]
    if protocol.camera is None:
        return entry.camera
    written = entry.sequence if protocol.camera == "sequence" else entry.camera
    for prefix, counts_as in protocol.merged_cameras:
        if written is not None and written.startswith(prefix):
            return counts_as + written[len(prefix) :]
    return written


def outfit(entry: Entry) -> tuple[str, str] | None:
    return None if entry.clothes is None else (entry.person, entry.clothes)


def is_renaming(pairs: Iterable[tuple[Any, Any]]) -> bool:
    """One to one."""
    distinct = set(pairs)
    return all(max(Counter(pair[side] for pair in distinct).values()) == 1 for side in (0, 1))


@pytest.mark.parametrize("name", layouts.names())
def test_layouts_pass_over_what_is_no_sample(trees: dict[str, Fixture], name: str) -> None:
    reading = read_layout(LAYOUTS[name], trees[name].root)
    passed_over = {path for paths in reading.passed_over.values() for path in paths}
    assert passed_over <= set(trees[name].expected["not_samples"])
    assert not reading.warnings


@pytest.mark.parametrize("name", layouts.names())
def test_layouts_read_names_and_never_the_whole_path(name: str, tmp_path: Path) -> None:
    fixture = layouts.unpack(name, tmp_path / "2024_11_c1" / "7_c1" / "query" / "2024-01-02-03")
    assert {fields(entry) for entry in read(fixture)} == truth(fixture)


@pytest.mark.parametrize("name", layouts.names())
def test_layouts_convert_to_the_same_rows_with_bytes_unchanged_and_every_mask(
    trees: dict[str, Fixture], name: str, tmp_path: Path
) -> None:
    fixture = trees[name]
    convert(name, fixture.root, str(tmp_path / "out"), ConversionSettings(parsing=fixture.parsing))
    dataset = Dataset.open(str(tmp_path / "out"))
    assert dataset.verify() == []
    rows, pixels = set(), Counter[str]()
    for split in dataset.splits:
        for sample in dataset.samples(split):
            assert sample.image == (fixture.root / sample.key).read_bytes()
            pixels.update(map(str, np.asarray(Image.open(io.BytesIO(sample.parsing or b""))).ravel().tolist()))
            labels = sample.person, sample.clothes, sample.camera, sample.sequence, sample.frame
            rows.add((split, sample.key, *labels))
    assert rows == truth(fixture)
    told = fixture.expected["parsing"]["pixels_per_label"]
    told = dict(enumerate(told)) if isinstance(told, list) else told
    assert pixels == {str(label): count for label, count in told.items() if count}


@pytest.mark.parametrize("name", [name for name in layouts.names() if "info" in layouts.expected(name)])
def test_layouts_carry_the_lists_of_who_changes_clothes(trees: dict[str, Fixture], name: str) -> None:
    assert read_layout(LAYOUTS[name], trees[name].root).extra["info"] == trees[name].expected["info"]


def test_layouts_draw_the_single_shot_galleries_of_the_published_code(trees: dict[str, Fixture]) -> None:
    told = [
        (name, parser["extra"]["single_shot_galleries"])
        for name, fixture in trees.items()
        for parser in fixture.expected["parsers"]
        if "single_shot_galleries" in (parser.get("extra") or {})
    ]
    for name, galleries in told:
        assert read_layout(LAYOUTS[name], trees[name].root).extra["single_shot_galleries"] == galleries


@pytest.mark.parametrize("name", [name for name in layouts.names() if name == "msmt17"])
def test_layouts_keep_train_and_test_persons_of_one_number_apart(trees: dict[str, Fixture], name: str) -> None:
    persons = {entry.person for entry in read(trees[name])}
    assert {"train/0000", "test/0000"} <= persons


def test_layouts_celebreid_reads_persons_alone(tmp_path: Path) -> None:
    names = {"train": ["12_1_0.jpg", "12_2_3.jpg"], "query": ["700_1_0.jpg"], "gallery": ["700_1_1.JPG", "7_4_0.jpg"]}
    for split, files in names.items():
        (tmp_path / split).mkdir()
        for file in files:
            (tmp_path / split / file).touch()
    entries = read_layout(LAYOUTS["celebreid"], tmp_path).entries
    assert [fields(entry) for entry in entries] == [
        ("train", "train/12_1_0.jpg", "12", None, None, None, None),
        ("train", "train/12_2_3.jpg", "12", None, None, None, None),
        ("query", "query/700_1_0.jpg", "700", None, None, None, None),
        ("gallery", "gallery/700_1_1.JPG", "700", None, None, None, None),
        ("gallery", "gallery/7_4_0.jpg", "7", None, None, None, None),
    ]


@pytest.mark.parametrize("given", ["table.csv", "table.parquet", "folder"])
def test_layouts_table_says_it_all(given: str, tmp_path: Path) -> None:
    import pyarrow.csv
    import pyarrow.parquet

    (tmp_path / "some where").mkdir()
    for file in ("a.jpg", "b.png", "c.jpg"):
        (tmp_path / "some where" / file).touch()
    text = (
        "split,path,person,clothes,camera,frame,remark\n"
        'train,some where/a.jpg,0001,"red, with dots",c1,7,x\n'
        "query,some where/b.png,0002,,,,\n"
        "gallery,some where/c.jpg,2,,,,\n"
    )
    (tmp_path / "table.csv").write_text(text)
    if given == "table.parquet":
        columns = pyarrow.csv.ConvertOptions(
            column_types={"person": "string", "frame": "int64"}, strings_can_be_null=True
        )
        table = pyarrow.csv.read_csv(tmp_path / "table.csv", convert_options=columns)
        pyarrow.parquet.write_table(table, tmp_path / given)
    source = tmp_path if given == "folder" else tmp_path / given
    reading = read_layout(LAYOUTS["table"], source)
    assert [fields(entry) for entry in reading.entries] == [
        ("train", "some where/a.jpg", "0001", "red, with dots", "c1", None, "7"),
        ("query", "some where/b.png", "0002", None, None, None, None),
        ("gallery", "some where/c.jpg", "2", None, None, None, None),
    ]
    assert "remark" in reading.warnings[0]


def test_layouts_table_reports_every_bad_row(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    rows = ["a.jpg,1,train", "a.jpg,1,train", "../a.jpg,1,train", "/a.jpg,1,train", "b.jpg,1,train", "a.jpg,,train"]
    (tmp_path / "t.csv").write_text("\n".join(["path,person,split", *rows, "a.jpg,1,Train set"]))
    reading = read_layout(LAYOUTS["table"], tmp_path / "t.csv")
    assert len(reading.entries) == 1
    assert [offender.path for offender in reading.offenders] == [
        "t.csv, row 3", "t.csv, row 4", "t.csv, row 5", "b.jpg", "t.csv, row 7", "t.csv, row 8",
    ]  # fmt: skip
    (tmp_path / "t.csv").write_text("path,who,split\na.jpg,1,train")
    with pytest.raises(DataError, match="no column person; it has path, who, split"):
        read_layout(LAYOUTS["table"], tmp_path / "t.csv")


def test_layouts_msmt17_has_a_second_release_with_other_folders(tmp_path: Path) -> None:
    line = "0000/0000_000_01_0303morning_0015_0.jpg 0"
    for root, folders in (("v1", ("train", "test")), ("v2", ("mask_train_v2", "mask_test_v2"))):
        for folder in folders:
            (tmp_path / root / folder / "0000").mkdir(parents=True)
            (tmp_path / root / folder / line.split()[0]).write_bytes(b"x")
        for name in ("train", "val", "query", "gallery"):
            (tmp_path / root / f"list_{name}.txt").write_text(line if name in ("train", "query") else "\n")
    old, new = (
        read_layout(LAYOUTS[name], tmp_path / root, known=LAYOUTS.values())
        for name, root in (("msmt17", "v1"), ("msmt17v2", "v2"))
    )
    assert [entry.path for entry in new.entries] == [
        f"mask_{folder}_v2/{line.split()[0]}" for folder in ("train", "test")
    ]
    assert [fields(entry) for entry in new.entries] == [
        (split, f"mask_{path.replace('/', '_v2/', 1)}", *labels) for split, path, *labels in map(fields, old.entries)
    ]
    assert (old.offenders, new.offenders) == ([], [])
    with pytest.raises(DataError, match="The tree looks like msmt17v2; give that as the layout"):
        read_layout(LAYOUTS["msmt17"], tmp_path / "v2", known=LAYOUTS.values())


def test_layouts_all_name_a_protocol_and_their_terms() -> None:
    for name, layout in LAYOUTS.items():
        assert layout.name == name
        assert layout.protocol in PROTOCOLS
        assert "consent" in layout.licence.lower() or "no real person" in layout.licence
        assert name == "table" or layout.official


def test_layouts_folder_that_is_missing_says_how_to_set_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REDRESS_LAYOUTS", str(tmp_path / "nowhere"))
    with pytest.raises(layouts.FixtureError, match="set REDRESS_LAYOUTS to the folder that holds"):
        layouts.folder()
