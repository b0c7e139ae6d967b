"""File names and lists that do not read are reported whole; set aside, the rest converts as if undamaged."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from datasets.conversion.convert import ConversionSettings, convert
from datasets.format.schema import Sample
from datasets.shards.dataset import Dataset
from tests import layouts
from tests.datasets.conversion.damage import (
    Damage,
    add_line,
    copy,
    cut,
    first,
    first_line,
    mask_of,
    offenders,
    refusal,
    relabel,
    rows,
    run,
    walk,
)
from tests.layouts import Fixture

Undamaged = Callable[[str], dict[tuple[str, str], Sample]]


@pytest.fixture(scope="module")
def undamaged(pristine: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Undamaged:
    """The rows of a data set's tree as it was."""
    converted: dict[str, dict[tuple[str, str], Sample]] = {}

    def of(name: str) -> dict[tuple[str, str], Sample]:
        if name not in converted:
            root = pristine(name) / layouts.expected(name)["root"]
            out = tmp_path_factory.mktemp("whole")
            convert(name, root, str(out), ConversionSettings(parsing=pristine(name) / "parsing"))
            converted[name] = rows(out)
        return converted[name]

    return of


def test_all_offenders_of_all_splits_are_in_one_report_and_set_aside_together(
    tree: Callable[[str], Fixture], undamaged: Undamaged, tmp_path: Path
) -> None:
    fixture = tree("prcc")
    bad = [first(fixture), first(fixture, "gallery"), first(fixture, "query_diff")]
    cut(fixture.root / bad[0])
    mask_of(fixture, bad[1]).unlink()
    relabel(mask_of(fixture, bad[2]))
    shutil.copy(fixture.root / bad[0], (fixture.root / bad[0]).with_name("D_cropped_rgb001.jpg"))
    stray = str(Path(bad[0]).with_name("D_cropped_rgb001.jpg"))
    assert {offender.path for offender in offenders(fixture).offenders} == {*bad, stray}

    conversion = run(fixture, tmp_path / "rest", quarantine=True)
    assert {offender.path for offender in conversion.quarantined} == {*bad, stray}
    recorded = Dataset.open(str(tmp_path / "rest")).manifest.extra["quarantined"]
    assert {entry["path"] for entry in recorded} == {*bad, stray}
    assert str(tmp_path) not in str(recorded)
    assert rows(tmp_path / "rest") == {place: row for place, row in undamaged("prcc").items() if place[1] not in bad}


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def rename(fixture: Fixture, old: str, new: str) -> None:
    """An image and its mask."""
    (fixture.root / new).parent.mkdir(exist_ok=True)
    mask_of(fixture, new).parent.mkdir(exist_ok=True)
    (fixture.root / old).rename(fixture.root / new)
    mask_of(fixture, old).rename(mask_of(fixture, new))


def edit_line(fixture: Fixture, path: str, change: Callable[[str], str]) -> None:
    """Changes the list's first line."""
    edit(fixture.root / path, first_line(fixture, path), change(first_line(fixture, path)))


def number_outside(line: str) -> str:
    person, _, number = line.rpartition(" ")
    return f"{person} {int(number) + 1}"


# data set, damage, path of the offender ("" where the damage says it), part of the problem
REPORTED: dict[str, tuple[str, Damage, str, str]] = {
    "prcc-camera-d": (
        "prcc",
        lambda f: copy(f, first(f), "rgb/train/001/D_cropped_rgb001.jpg"),
        "rgb/train/001/D_cropped_rgb001.jpg",
        "camera is A, B or C",
    ),
    "prcc-folder": (
        "prcc",
        lambda f: (f.root / "rgb/train/notes").mkdir(),
        "rgb/train/notes",
        "a person folder is a number",
    ),
    "ltcc-name": (
        "ltcc",
        lambda f: rename(f, first(f), "train/000_x_c1_000001.png"),
        "train/000_x_c1_000001.png",
        "the name does not match <person>_<outfit>_c<camera>_<number>",
    ),
    "ltcc-listed-without-image": (
        "ltcc",
        lambda f: add_line(f, "info/cloth-change_id_train.txt", "999"),
        "info/cloth-change_id_train.txt, line",
        "person 999 has no image",
    ),
    "ltcc-in-both-lists": (
        "ltcc",
        lambda f: add_line(f, "info/cloth-unchange_id_test.txt", first_line(f, "info/cloth-change_id_test.txt")),
        "info/cloth-unchange_id_test.txt, line",
        "stands in info/cloth-change_id_test.txt, line 1 already",
    ),
    "vcclothes-name": (
        "vcclothes",
        lambda f: rename(f, first(f), "train/0001_03_02_02.jpg"),
        "train/0001_03_02_02.jpg",
        "the name does not match <person>-<camera>-<outfit>-<number>",
    ),
    "deepchange-listed-not-there": (
        "deepchange",
        lambda f: (f.root / first(f)).unlink(),
        "",
        "but not there",
    ),
    "deepchange-no-tracklet": (
        "deepchange",
        lambda f: edit_line(f, "train-set-bbox.txt", lambda line: line.partition(",")[0]),
        "train-set-bbox.txt, line 1",
        "there is no tracklet number",
    ),
    "deepchange-tracklet-no-number": (
        "deepchange",
        lambda f: edit_line(f, "train-set-bbox.txt", lambda line: f"{line}x"),
        "train-set-bbox.txt, line 1",
        "is no tracklet number",
    ),
    "deepchange-twice": (
        "deepchange",
        lambda f: add_line(f, "train-set-bbox.txt", first_line(f, "train-set-bbox.txt")),
        "train-set-bbox.txt, line",
        "is listed already",
    ),
    "last-name": (
        "last",
        lambda f: rename(f, first(f), f"{Path(first(f)).parent}/face.jpg"),
        "train/000001/face.jpg",
        "the name does not match <person>_<…>_<outfit>",
    ),
    "last-folder-and-name": (
        "last",
        lambda f: rename(f, first(f), "train/000001/000002_0001_01.jpg"),
        "train/000001/000002_0001_01.jpg",
        "folder and name disagree",
    ),
    "last-loose": (
        "last",
        lambda f: copy(f, first(f, "val_gallery"), "val/gallery/005000_9999.jpg"),
        "val/gallery/005000_9999.jpg",
        "one folder per person",
    ),
    "ccvid-no-folder": (
        "ccvid",
        lambda f: shutil.rmtree(f.root / walk(f, "query")),
        "",
        "a tracklet without frames",
    ),
    "ccvid-empty-folder": (
        "ccvid",
        lambda f: [file.unlink() for file in (f.root / walk(f, "query")).iterdir()],
        "",
        "a tracklet without frames",
    ),
    "ccvid-two-columns": (
        "ccvid",
        lambda f: edit_line(f, "train.txt", lambda line: line.rpartition("\t")[0]),
        "train.txt, line 1",
        "2 columns",
    ),
    "ccvid-person": (
        "ccvid",
        lambda f: edit_line(f, "train.txt", lambda line: "\t".join([line.split()[0], "777", line.split()[2]])),
        "train.txt, line 1",
        "person 777 in the line",
    ),
    "ccvid-two-lists": (
        "ccvid",
        lambda f: add_line(f, "gallery.txt", first_line(f, "query.txt")),
        "gallery.txt, line",
        "stands in query.txt, line 1 already",
    ),
    "market-name": (
        "market1501",
        lambda f: copy(f, first(f), "bounding_box_train/portrait.jpg"),
        "bounding_box_train/portrait.jpg",
        "the name does not match",
    ),
    "market-camera": (
        "market1501",
        lambda f: copy(f, first(f), "bounding_box_train/0002_c7s1_000001_01.jpg"),
        "bounding_box_train/0002_c7s1_000001_01.jpg",
        "camera 7, allowed are 1 to 6",
    ),
    "market-person": (
        "market1501",
        lambda f: copy(f, first(f), "bounding_box_train/1502_c1s1_000001_01.jpg"),
        "bounding_box_train/1502_c1s1_000001_01.jpg",
        "person 1502, allowed are -1 (junk), 0 (distractor) and 1 to 1501",
    ),
    "msmt17-number": (
        "msmt17",
        lambda f: edit_line(f, "list_query.txt", number_outside),
        "list_query.txt, line 1",
        "but the folder is",
    ),
    "msmt17-listed-not-there": (
        "msmt17",
        lambda f: (f.root / first(f)).unlink(),
        "",
        "but not there",
    ),
}


@pytest.mark.parametrize("damage", REPORTED)
def test_names_and_lists_that_do_not_read_are_reported_and_can_be_set_aside(
    tree: Callable[[str], Fixture], undamaged: Undamaged, tmp_path: Path, damage: str
) -> None:
    name, harm, path, problem = REPORTED[damage]
    fixture = tree(name)
    harm(fixture)
    (offender,) = offenders(fixture).offenders
    assert offender.path.startswith(path)
    assert problem in offender.problem

    conversion = run(fixture, tmp_path / "rest", quarantine=True)
    assert conversion.quarantined == [offender]
    rest, whole = rows(tmp_path / "rest"), undamaged(name)
    assert rest.items() <= whole.items()
    lost = {key for _, key in whole.keys() - rest.keys()}
    assert len({str(Path(key).parent) if name == "ccvid" else key for key in lost}) <= 1
    assert not any(offender.path == key for _, key in rest)


# data set, damage, parts of the refusal
REFUSED: dict[str, tuple[str, Damage, tuple[str, ...]]] = {
    "prcc-no-val": ("prcc", lambda f: shutil.rmtree(f.root / "rgb/val"), ("has no rgb/val", "Without val")),
    "deepchange-no-list": (
        "deepchange",
        lambda f: (f.root / "train-set-bbox.txt").unlink(),
        ("no train-set-bbox.txt",),
    ),
    "ccvid-no-list": ("ccvid", lambda f: (f.root / "query.txt").unlink(), ("has no query.txt",)),
    "msmt17-no-list": ("msmt17", lambda f: (f.root / "list_query.txt").unlink(), ("has no list_query.txt",)),
    "ltcc-empty-query": (
        "ltcc",
        lambda f: [file.unlink() for file in (f.root / "query").iterdir()],
        ("no usable image for query in query",),
    ),
}


@pytest.mark.parametrize("damage", REFUSED)
def test_what_is_missing_is_named_before_any_image_is_read(tree: Callable[[str], Fixture], damage: str) -> None:
    name, harm, parts = REFUSED[damage]
    fixture = tree(name)
    harm(fixture)
    message = refusal(fixture)
    assert all(part in message for part in parts), message


# data set, a change that alters no row
HARMLESS: dict[str, tuple[str, Damage, str]] = {
    "prcc-sketch": ("prcc", lambda f: (f.root / "sketch/train/001").mkdir(parents=True), ""),
    "ltcc-no-info": ("ltcc", lambda f: shutil.rmtree(f.root / "info"), "info/cloth-change_id_train.txt is missing"),
    "deepchange-unlisted": (
        "deepchange",
        lambda f: copy(f, first(f), "train-set/P500_C1_20200101_09_1_1.jpg"),
        "train-set/P500_C1_20200101_09_1_1.jpg",
    ),
    "deepchange-crlf": (
        "deepchange",
        lambda f: [
            path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n") for path in f.root.glob("*-bbox.txt")
        ],
        "",
    ),
    "ccvid-thumbs": ("ccvid", lambda f: (f.root / walk(f, "train") / "Thumbs.db").write_bytes(b"x"), "Thumbs.db"),
    "ccvid-spaces": ("ccvid", lambda f: edit_line(f, "train.txt", lambda line: line.replace("\t", "   ")), ""),
    "market-extras": (
        "market1501",
        lambda f: [
            *(shutil.rmtree(f.root / folder) for folder in ("gt_bbox", "gt_query")),
            *(path.unlink() for path in f.root.rglob("Thumbs.db")),
        ],
        "",
    ),
}


@pytest.mark.parametrize("change", HARMLESS)
def test_what_does_not_matter_changes_no_row(
    tree: Callable[[str], Fixture], undamaged: Undamaged, tmp_path: Path, change: str
) -> None:
    name, harm, told = HARMLESS[change]
    fixture = tree(name)
    harm(fixture)
    lines = run(fixture, tmp_path / "out").lines()
    assert rows(tmp_path / "out") == undamaged(name)
    assert not told or any(told in line for line in lines)
