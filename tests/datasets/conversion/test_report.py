"""The texts of a conversion: its lines, the report of a damaged source, and what the manifest records."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from datasets.conversion.counts import Count
from datasets.conversion.masks import open_masks
from datasets.conversion.report import Conversion, grouped, notes_of, record, refuse_empty, report, warnings_of
from datasets.errors import DamagedSource, DataError
from datasets.images.label_maps import LABEL_MAPS
from datasets.layouts import Entry, Layout, Offender, Reading
from datasets.protocols.prospects import Prospect
from datasets.sources import Folder

LAYOUT = Layout(
    name="mine",
    root="mine",
    places={"train": ("train",), "query": ("query", "query.txt"), "gallery": ("gallery",), "extra": ("extra",)},
    names=None,
    read=lambda tree: iter(()),
    protocol="ltcc",
    licence="none",
    official={"images": (7, 8)},
)
ENTRIES = [Entry(split, f"{split}/1.jpg", "1", "a") for split in ("train", "query", "gallery")]
UNTURNED = np.ones(4, np.uint8)
BAD = Offender("train/2.jpg", "is empty", "copy it again")


def reading(root: Path, entries: list[Entry] = ENTRIES, **extra: str) -> Reading:
    return Reading(Folder(root), entries, [], [], {}, extra)


def conversion(**changes: object) -> Conversion:
    plain: dict = {
        "layout": "mine",
        "protocol": "ltcc",
        "prospects": [],
        "counts": [],
        "warnings": [],
        "notes": [],
        "passed_over": {},
        "quarantined": [],
        "num_resumed": 0,
        "manifest": None,
    }
    return Conversion(**(plain | changes))


def test_the_lines_are_counts_notes_warnings_files_passed_over_and_offenders_in_this_order() -> None:
    found = conversion(
        counts=[Count("images", 3)],
        prospects=[
            Prospect("general", "query", "gallery", 3, 2),
            Prospect("other", "query", "none", problem="no split"),
        ],
        notes=["a note"],
        warnings=["a warning"],
        passed_over={"not images": [f"{number}.txt" for number in range(7)]},
        quarantined=[BAD],
        num_resumed=1_234,
    )
    assert found.lines() == [
        str(Count("images", 3)),
        "protocol ltcc, valid queries: general 2 of 3, other none",
        "note: a note",
        "warning: a warning",
        "passed over, not images: 7 (0.txt, 1.txt, 2.txt, 3.txt, 4.txt and 2 more)",
        "quarantined: train/2.jpg: is empty; copy it again",
        "resumed an interrupted conversion: 1,234 images were written already, and verified",
    ]
    assert conversion().lines() == []


def test_many_offenders_are_shown_in_groups_of_one_kind() -> None:
    lost = [Offender(f"a/{n}.jpg", f"listed in t.csv, row {n} but not there", "add it") for n in range(100_000)]
    assert grouped(lost) == [*map(str, lost[:10]), "and 99,990 more like it"]
    named = [Offender(f"{n}.jpg", f"the name of {n}.jpg is wrong", "rename it") for n in range(3)]
    assert grouped([*lost, *named, BAD]) == [
        *map(str, lost[:3]), "and 99,997 more like it", *map(str, named), str(BAD),
    ]  # fmt: skip
    kinds = [Offender("a.jpg", f"problem {letter}", "mend it") for letter in "abcdefghijkl"]
    assert grouped(kinds) == [*map(str, kinds[:10]), "and 2 more (--json and --result have them all)"]


def test_of_many_warnings_fifty_are_shown() -> None:
    lines = conversion(warnings=[str(number) for number in range(1_051)]).lines()
    assert lines[:50] == [f"warning: {number}" for number in range(50)]
    assert lines[50:] == ["warning: and 1,001 more (--json has them all)"]
    assert len(conversion(warnings=["w"] * 50).lines()) == 50


def test_a_report_lists_every_offender_and_what_to_do(tmp_path: Path) -> None:
    text = report("mine", reading(tmp_path), [BAD, BAD], None)
    assert text.splitlines() == [
        f"mine at {tmp_path} has 2 offenders; nothing was written",
        f"  {BAD}",
        f"  {BAD}",
        "Correct the source, or leave the offenders out with --quarantine.",
    ]
    assert "has 1 offender;" in report("mine", reading(tmp_path), [BAD], None)
    error = DamagedSource(text, [BAD, BAD])
    assert (str(error), error.offenders) == (text, (BAD, BAD))


def test_a_report_suspects_the_folder_of_masks_where_no_image_has_one(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    masks = open_masks(tmp_path / "masks", LABEL_MAPS["six"])
    missing = [Offender(entry.path, "mask missing: there is none", "add it") for entry in ENTRIES]
    hint = f"No image has its mask in {tmp_path / 'masks'}: check that it is the folder of masks."
    assert hint in report("mine", reading(tmp_path), missing, masks)
    assert hint not in report("mine", reading(tmp_path), missing[:2], masks)
    assert hint not in report("mine", reading(tmp_path), missing, None)


def test_a_split_that_training_or_a_mode_needs_must_have_samples(tmp_path: Path) -> None:
    refuse_empty(LAYOUT, reading(tmp_path), "ltcc", ENTRIES, ())
    with pytest.raises(DataError, match=r"has no usable image for query in query, query.txt; nothing was written"):
        refuse_empty(LAYOUT, reading(tmp_path), "ltcc", [ENTRIES[0], ENTRIES[2]], ())
    refuse_empty(LAYOUT, reading(tmp_path), "ltcc", [ENTRIES[0], ENTRIES[2]], ("query",))
    with pytest.raises(DataError, match="no usable image for train or gallery in train, gallery;"):
        refuse_empty(LAYOUT, reading(tmp_path), "ltcc", [ENTRIES[1]], ())
    with pytest.raises(DataError, match="no usable image for any split;"):
        refuse_empty(LAYOUT, reading(tmp_path), "ltcc", [], ("train", "query", "gallery"))


def test_warnings_are_of_queries_same_images_and_masks(tmp_path: Path) -> None:
    lonely = [*ENTRIES, Entry("query", "query/2.jpg", "2")]
    found = warnings_of("ltcc", reading(tmp_path, lonely), lonely, None, [ENTRIES[1:]])
    assert [warning.partition(":")[0] for warning in found] == [
        "query person 2 has no image in gallery",
        "the same bytes in gallery and query",
    ]
    (tmp_path / "masks/train").mkdir(parents=True)
    for name in ("train/1.png", "9.png"):
        (tmp_path / "masks" / name).write_bytes(b"mask")
    masks = open_masks(tmp_path / "masks", LABEL_MAPS["six"])
    assert warnings_of("ltcc", reading(tmp_path), ENTRIES, masks, []) == ["masks without an image: 1 (9.png)"]


def test_notes_are_of_pseudo_labels_or_of_shared_ones(tmp_path: Path) -> None:
    shared = [*ENTRIES, Entry("train", "train/2.jpg", "2", "a")]
    assert notes_of(reading(tmp_path), ENTRIES, UNTURNED) == []
    assert notes_of(reading(tmp_path), shared, UNTURNED)[0].startswith(
        "1 of 1 clothes labels belong to several persons"
    )
    assert notes_of(reading(tmp_path, clothes="pseudo labels"), shared, UNTURNED) == ["clothes are pseudo labels"]


def test_the_record_has_no_path_of_this_machine(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    masks = open_masks(tmp_path / "masks", LABEL_MAPS["six"])
    missing = Offender("a.jpg", f"mask missing: there is no {masks.source.where('a.png')}", "add it")
    assert record(LAYOUT, [missing], masks) == {
        "layout": "mine",
        "official": {"images": (7, 8)},
        "quarantined": [{"path": "a.jpg", "problem": "mask missing: there is no a.png"}],
    }
    assert record(LAYOUT, [], None) == {"layout": "mine", "official": {"images": (7, 8)}}
