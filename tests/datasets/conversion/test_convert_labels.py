"""Who is who, in which outfit and frame, where a data set's names and numbers are odd."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from datasets.inspection.inspect import inspect
from datasets.shards.dataset import Dataset
from tests.datasets.conversion.damage import (
    add_line,
    copy,
    first,
    rows,
    run,
    walk,
)
from tests.layouts import Fixture


def test_deepchange_says_that_days_stand_in_for_outfits(tree: Callable[[str], Fixture], tmp_path: Path) -> None:
    conversion = run(tree("deepchange"), tmp_path / "out")
    assert conversion.notes == [
        "clothes are pseudo labels: the collection date stands in for the outfit, as CAL's authors do it"
    ]
    assert inspect(str(tmp_path / "out"))["clothes"].startswith("pseudo labels: the collection date")


def test_ccvid_frames_count_on_where_a_number_is_left_out(tree: Callable[[str], Fixture], tmp_path: Path) -> None:
    fixture = tree("ccvid")
    folder = walk(fixture, "train")
    (fixture.root / folder / "00002.jpg").unlink()
    run(fixture, tmp_path / "out")
    frames = {Path(key).name: row.frame for (_, key), row in rows(tmp_path / "out").items() if row.sequence == folder}
    files = sorted(frames)
    assert "00002.jpg" not in files
    assert [frames[file] for file in files] == [str(number) for number in range(len(files))]


def test_msmt17_person_numbers_may_have_gaps(tree: Callable[[str], Fixture], tmp_path: Path) -> None:
    fixture = tree("msmt17")
    for source in (fixture.root, fixture.parsing):
        (source / "test/0002").rename(source / "test/0009")
    for path in (fixture.root / "list_query.txt", fixture.root / "list_gallery.txt"):
        lines = [line.split() for line in path.read_text().splitlines()]
        changed = [(f.replace("0002/", "0009/"), "9" if p == "2" else p) for f, p in lines]
        path.write_text("".join(f"{file} {person}\n" for file, person in changed))
    run(fixture, tmp_path / "out")
    persons = {row.person for row in rows(tmp_path / "out").values()}
    assert "test/0009" in persons
    assert "test/0002" not in persons


COLLIDING = {
    "vcclothes": ("train/1-01-11-01.jpg", "train/11-01-1-01.jpg"),
    "deepchange": ("train-set/P1_C1_11_09_1_1.jpg", "train-set/P11_C1_1_09_1_1.jpg"),
}


@pytest.mark.parametrize("name", COLLIDING)
def test_labels_that_join_to_one_text_are_two_people_in_two_outfits(
    tree: Callable[[str], Fixture], tmp_path: Path, name: str
) -> None:
    fixture = tree(name)
    for path in COLLIDING[name]:
        copy(fixture, first(fixture), path)
        if name == "deepchange":
            add_line(fixture, "train-set-bbox.txt", f"{Path(path).name},900")
    run(fixture, tmp_path / "out")
    index = Dataset.open(str(tmp_path / "out")).index("train")
    keys = index.keys()
    one, other = (keys.index(path) for path in COLLIDING[name])
    assert index.person[one] != index.person[other]
    assert index.clothes[one] != index.clothes[other]


def test_two_persons_with_one_outfit_label_wear_two_outfits(tree: Callable[[str], Fixture], tmp_path: Path) -> None:
    conversion = run(tree("ltcc"), tmp_path / "out")
    assert "outfits are counted per person: 15" in conversion.notes[0]
    index = Dataset.open(str(tmp_path / "out")).index("train")
    labels = [clothes for _, clothes in index.clothes_names]
    assert len(set(labels)) < len(labels)
    assert len(index.clothes_owner()) == len(labels)
