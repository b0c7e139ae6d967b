"""A conversion stops before anything is written, is taken up, and says what it did."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from datasets.conversion.convert import ConversionSettings, convert
from datasets.errors import DataError
from datasets.inspection.inspect import inspect
from datasets.shards.dataset import Dataset
from tests import layouts
from tests.datasets.conversion.damage import (
    copy,
    cut,
    first,
    refusal,
    rows,
    run,
)
from tests.layouts import Fixture


def test_suffixes_in_capitals_are_accepted(tree: Callable[[str], Fixture], tmp_path: Path) -> None:
    fixture = tree("vcclothes")
    path = fixture.root / first(fixture)
    path.rename(path.with_suffix(".JPG"))
    run(fixture, tmp_path / "out")
    assert ("train", str(Path(first(fixture)).with_suffix(".JPG"))) in rows(tmp_path / "out")


def test_files_of_another_kind_are_passed_over_and_named(tree: Callable[[str], Fixture], tmp_path: Path) -> None:
    fixture = tree("ltcc")
    for file in ("notes.txt", ".DS_Store", "._000_1_c1_000001.png"):
        (fixture.root / "train" / file).write_bytes(b"x")
    (fixture.root / "train" / "more").mkdir()
    conversion = run(fixture, tmp_path / "out")
    assert sorted(conversion.passed_over["not images"]) == [
        "train/.DS_Store", "train/._000_1_c1_000001.png", "train/notes.txt",
    ]  # fmt: skip
    assert any("train/notes.txt" in line for line in conversion.lines())
    assert any("train/more/" in line for line in conversion.lines())
    assert len(rows(tmp_path / "out")) == len(fixture.paths)


@pytest.mark.parametrize("name", ["prcc", "ltcc", "last", "ccvid", "msmt17"])
def test_a_root_one_level_off_is_told_the_right_one(tree: Callable[[str], Fixture], name: str) -> None:
    fixture = tree(name)
    low = next(path for path in sorted(fixture.root.iterdir()) if path.is_dir())
    for wrong in (fixture.root.parent, low):
        message = refusal(Fixture(name, wrong, fixture.parsing, fixture.expected))
        assert f"expected the folder {fixture.expected['root']}" in message
        assert f"{fixture.root} has them: give that as the source" in message


@pytest.mark.parametrize(
    ("name", "given", "missing"),
    [
        ("ltcc", "vcclothes", "gallery"),
        ("market1501", "msmt17", "list_train.txt"),
        ("prcc", "ltcc", "train"),
        ("vcclothes", "celebreid", "name as <person>_<number>_<…>"),
    ],
)
def test_a_wrong_name_is_told_the_layout_that_fits(
    tree: Callable[[str], Fixture], name: str, given: str, missing: str
) -> None:
    fixture = tree(name)
    message = refusal(Fixture(given, fixture.root, fixture.parsing, fixture.expected))
    assert f"it has no {missing}" in message
    assert f"The tree looks like {name};" in message


def test_names_of_data_sets_label_maps_and_protocols_are_checked(tree: Callable[[str], Fixture]) -> None:
    fixture = tree("ltcc")
    assert "Did you mean ltcc?" in refusal(Fixture("ltc", fixture.root, fixture.parsing, fixture.expected))
    assert "Did you mean lip20?" in refusal(fixture, labels="lip-20")
    assert "there is no protocol 'lttc'" in refusal(fixture, protocol="lttc")
    nowhere = Fixture("ltcc", fixture.root / "nowhere", fixture.parsing, fixture.expected)
    assert "there is nothing at" in refusal(nowhere)


def test_an_interrupted_conversion_leaves_no_manifest_and_the_next_equals_an_undisturbed_one(
    tree: Callable[[str], Fixture], tmp_path: Path
) -> None:
    fixture = tree("vcclothes")
    undisturbed = run(fixture, tmp_path / "whole").manifest
    assert undisturbed is not None

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "write" and done == total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(fixture, tmp_path / "out", progress=stop, row_group_bytes=1 << 12)
    with pytest.raises(DataError, match=r"no manifest\.json"):
        Dataset.open(str(tmp_path / "out"))
    manifest = run(fixture, tmp_path / "out").manifest
    assert manifest is not None
    assert manifest.fingerprint == undisturbed.fingerprint
    assert Dataset.open(str(tmp_path / "out")).verify() == []


def test_a_finished_data_set_is_not_overwritten_unasked(tree: Callable[[str], Fixture], tmp_path: Path) -> None:
    fixture = tree("ltcc")
    run(fixture, tmp_path / "out")
    with pytest.raises(DataError, match="holds a finished data set"):
        run(fixture, tmp_path / "out")
    run(fixture, tmp_path / "out", overwrite=True)


def test_a_dry_run_counts_beside_the_official_counts_and_writes_nothing(
    tree: Callable[[str], Fixture], tmp_path: Path
) -> None:
    fixture = tree("market1501")
    conversion = run(fixture, tmp_path / "out", dry_run=True)
    assert not (tmp_path / "out").exists()
    assert conversion.manifest is None
    found = {count.what: count for count in conversion.counts}
    splits = Counter(image["split"] for image in fixture.expected["images"])
    assert found["train/images"].found == splits["train"]
    assert found["gallery/images"].found == splits["gallery"] + splits["distractor"]
    assert found["junk/images"].found == splits["junk"]
    assert found["train/images"].official == (12936,)
    assert found["train/images"].differs
    assert not found["cameras"].differs
    assert any("12,936   differs" in line for line in conversion.lines())


def test_the_manifest_says_licence_consent_and_official_counts(tree: Callable[[str], Fixture], tmp_path: Path) -> None:
    manifest = run(tree("ltcc"), tmp_path / "out").manifest
    assert manifest is not None
    assert "Research only" in manifest.licence
    assert "consented" in manifest.licence
    assert manifest.label_map == "lip20"
    assert manifest.protocol == "ltcc"
    assert manifest.extra["official"]["images"] == (17119, 17138)
    assert manifest.extra["info"] == layouts.expected("ltcc")["info"]
    assert Dataset.open(str(tmp_path / "out")).manifest.fingerprint == manifest.fingerprint


def test_inspect_shows_terms_and_what_was_set_aside(tree: Callable[[str], Fixture], tmp_path: Path) -> None:
    fixture = tree("ltcc")
    cut(fixture.root / first(fixture))
    run(fixture, tmp_path / "out", quarantine=True)
    facts = inspect(str(tmp_path / "out"))
    assert "Research only" in facts["licence"]
    assert "consented" in facts["licence"]
    assert [entry["path"] for entry in facts["quarantined"]] == [first(fixture)]


def test_a_table_is_converted_by_the_protocol_asked_for(tree: Callable[[str], Fixture], tmp_path: Path) -> None:
    fixture = tree("ltcc")
    entries = [
        f"{image['path']},{image['split']},{image['person']},{image['clothes']},{image['camera']}"
        for image in fixture.expected["images"]
    ]
    (fixture.root / "mine.csv").write_text("\n".join(["path,split,person,clothes,camera", *entries]))
    settings = ConversionSettings(parsing=fixture.parsing, protocol="ltcc")
    convert("table", fixture.root / "mine.csv", str(tmp_path / "table"), settings)
    run(fixture, tmp_path / "out")
    assert rows(tmp_path / "table") == rows(tmp_path / "out")
    assert Dataset.open(str(tmp_path / "table")).manifest.protocol == "ltcc"


def own(folder: Path, *rows: str) -> Path:
    """A folder with a table of these rows, and its images."""
    folder.mkdir()
    for number, row in enumerate(rows):
        Image.new("RGB", (4, 8), (20 * number, 0, 0)).save(folder / row.partition(",")[0])
    (folder / "table.csv").write_text("\n".join(["path,person,split,clothes,camera", *rows]))
    return folder


OWN = ("1.png,a,train,red,c1", "2.png,b,query,red,c1", "3.png,b,gallery,red,c2", "4.png,b,gallery,blue,c2")


def test_a_table_needs_the_splits_of_its_protocol(tmp_path: Path) -> None:
    source = own(tmp_path / "own", *(row.replace("query", "test") for row in OWN))
    expected = r"no usable image for query; .* It has gallery, test, train; protocol ltcc needs train, query, gallery"
    with pytest.raises(DataError, match=expected):
        convert("table", source, str(tmp_path / "out"))
    settings = ConversionSettings(without=("query",))
    found = convert("table", source, str(tmp_path / "out"), settings)
    assert "split test is neither trained on nor in a mode of protocol ltcc" in found.warnings
    assert any("cannot be scored: there is no split query" in warning for warning in found.warnings)


def test_labels_of_a_part_of_the_images_are_a_warning(tmp_path: Path) -> None:
    rows = (
        "1.png,a,train,red,c1",
        "0.png,a,train,,c1",
        "2.png,b,query,red,c1",
        "3.png,b,gallery,,c2",
        "4.png,b,gallery,x,",
    )
    found = convert("table", own(tmp_path / "own", *rows), str(tmp_path / "out"))
    assert found.protocol == "general"
    assert found.warnings == [
        "gallery has 1 of 2 images (such as 3.png) without clothes: what needs clothes will refuse it",
        "gallery has 1 of 2 images (such as 4.png) without a camera: what needs a camera will refuse it",
        "train has 1 of 2 images (such as 0.png) without clothes: what needs clothes will refuse it",
    ]


def test_people_of_train_among_the_queries_are_a_warning(tmp_path: Path) -> None:
    source = own(tmp_path / "own", *(row.replace("png,a,", "png,b,") for row in OWN))
    [warning] = convert("table", source, str(tmp_path / "out")).warnings
    assert warning.startswith("1 of the 1 people in query and gallery are also in train, such as 'b'")
    assert inspect(str(tmp_path / "out"))["warnings"] == [warning]


@pytest.mark.parametrize("text", ["two\nlines", "", "  ", "a\u2028b", "bell\a"])
@pytest.mark.parametrize("option", ["name", "version", "licence"])
def test_texts_of_the_manifest_are_one_line(option: str, text: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {option: text}
    settings = ConversionSettings(**given)
    with pytest.raises(DataError, match=f"--{option} .* is not one printable line"):
        convert("table", own(tmp_path / "own", *OWN), str(tmp_path / "out"), settings)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", ["own", "own/shards", "masks"])
def test_shards_are_not_written_into_what_is_read(place: str, tmp_path: Path) -> None:
    source, masks = own(tmp_path / "own", *OWN), tmp_path / "masks"
    masks.mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError, match=r"is in the (source|folder of masks) .*; choose a destination outside of it"):
        convert("table", source, str(tmp_path / place), ConversionSettings(parsing=masks))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_person_can_stand_for_the_clothes_where_none_are_labelled(tmp_path: Path) -> None:
    source = own(tmp_path / "own", *(row.replace(",red,", ",,").replace(",blue,", ",,") for row in OWN))
    settings = ConversionSettings(person_as_clothes=True)
    found = convert("table", source, str(tmp_path / "out"), settings)
    assert found.protocol == "general"
    assert found.notes == ["clothes are not labelled: each person's images count as one outfit (--clothes person)"]
    dataset = Dataset.open(str(tmp_path / "out"))
    [gallery] = dataset.indexes("gallery")
    assert (gallery.has_clothes, gallery.num_clothes) == (True, 1)
    with pytest.raises(DataError, match=r"table labels clothes \(1\.png: red\); leave out --clothes person"):
        convert("table", own(tmp_path / "other", *OWN), str(tmp_path / "out2"), settings)


def test_prcc_converts_without_val_when_asked(tree: Callable[[str], Fixture], tmp_path: Path) -> None:
    fixture = tree("prcc")
    shutil.rmtree(fixture.root / "rgb/val")
    run(fixture, tmp_path / "out", without=("val",))
    assert Dataset.open(str(tmp_path / "out")).splits == ("train", "gallery", "query_same", "query_diff")


def test_prcc_query_person_without_gallery_is_a_warning(tree: Callable[[str], Fixture], tmp_path: Path) -> None:
    fixture = tree("prcc")
    person = Path(first(fixture, "query_same")).parent.name
    copy(fixture, f"rgb/test/B/{person}", "rgb/test/B/099")
    warnings = run(fixture, tmp_path / "out").warnings
    assert "query_same person 099 has no image in gallery: its queries are not scored" in warnings
