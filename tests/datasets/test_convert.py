"""What is wrong with a source is listed, whole, before anything is written; set aside, the rest converts as if undamaged."""

from __future__ import annotations

import io
import os
import shutil
import struct
import tracemalloc
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.convert import Conversion, DamagedSource, convert
from datasets.errors import CorruptData, DataError
from datasets.inspect import inspect
from datasets.schema import Sample
from datasets.shards import Dataset
from tests import layouts
from tests.layouts import Fixture

Damage = Callable[[Fixture], object]
Undamaged = Callable[[str], dict[tuple[str, str], Sample]]


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    unpacked: dict[str, Path] = {}

    def place(name: str) -> Path:
        if name not in unpacked:
            unpacked[name] = tmp_path_factory.mktemp(name)
            layouts.unpack(name, unpacked[name])
        return unpacked[name]

    return place


@pytest.fixture(scope="module")
def undamaged(pristine: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Undamaged:
    """The rows of a data set's tree as it was."""
    converted: dict[str, dict[tuple[str, str], Sample]] = {}

    def of(name: str) -> dict[tuple[str, str], Sample]:
        if name not in converted:
            root = pristine(name) / layouts.expected(name)["root"]
            out = tmp_path_factory.mktemp("whole")
            convert(name, root, str(out), parsing=pristine(name) / "parsing")
            converted[name] = rows(out)
        return converted[name]

    return of


@pytest.fixture
def tree(pristine: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Fixture]:
    """A fresh copy of a data set's tree."""

    def copy(name: str) -> Fixture:
        shutil.copytree(pristine(name), tmp_path / name)
        truth = layouts.expected(name)
        return Fixture(name, tmp_path / name / truth["root"], tmp_path / name / "parsing", truth)

    return copy


def run(fixture: Fixture, out: Path | str, **settings: object) -> Conversion:
    return convert(fixture.name, fixture.root, str(out), **{"parsing": fixture.parsing, **settings})  # type: ignore[arg-type]


def offenders(fixture: Fixture, **settings: object) -> DamagedSource:
    """The report of a conversion that stops, nothing having been written."""
    out = fixture.root.parent / "out"
    with pytest.raises(DamagedSource) as caught:
        run(fixture, out, **settings)
    assert not out.exists()
    assert all(str(offender) in str(caught.value) for offender in caught.value.offenders)
    return caught.value


def refusal(fixture: Fixture, **settings: object) -> str:
    """The message of a conversion that cannot begin."""
    with pytest.raises(DataError) as caught:
        run(fixture, fixture.root.parent / "out", **settings)
    assert not isinstance(caught.value, DamagedSource)
    assert not (fixture.root.parent / "out").exists()
    return str(caught.value)


def rows(address: Path | str) -> dict[tuple[str, str], Sample]:
    dataset = Dataset.open(str(address))
    return {(split, sample.key): sample for split in dataset.splits for sample in dataset.samples(split)}


def first(fixture: Fixture, split: str = "train") -> str:
    return min(image["path"] for image in fixture.expected["images"] if image["split"] == split)


def mask_of(fixture: Fixture, path: str) -> Path:
    return (fixture.parsing / path).with_suffix(".png")


def png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def relabel(path: Path) -> None:
    pixels = np.array(Image.open(path))
    pixels[0, 0] = 20
    path.write_bytes(png(pixels))


def widen(path: Path) -> None:
    path.write_bytes(png(np.pad(np.array(Image.open(path)), ((0, 0), (0, 1)))))


def redraw(path: Path, kind: str) -> None:
    labels = np.array(Image.open(path))
    path.write_bytes(png(np.stack([labels] * 3, axis=2) if kind == "RGB" else labels.astype(np.uint16)))


CONTENT: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "cut": (lambda image, mask: cut(image), "cannot be decoded"),
    "empty": (lambda image, mask: image.write_bytes(b""), "it is empty"),
    "text": (lambda image, mask: image.write_text("not an image\n" * 40), "is no image of a known format"),
    "no-mask": (lambda image, mask: mask.unlink(), "mask missing: there is no {mask}"),
    "mask-wider": (lambda image, mask: widen(mask), "is {wider}×{height} (width × height), its image {width}×{height}"),
    "label-20": (lambda image, mask: relabel(mask), "has label 20; lip20 has labels 0 to 19"),
    "mask-rgb": (lambda image, mask: redraw(mask, "RGB"), "is a 8-bit RGB PNG; a mask is an 8-bit grey or palette PNG"),
    "mask-16-bit": (lambda image, mask: redraw(mask, "16"), "is a 16-bit grey PNG; a mask is an 8-bit grey"),
    "mask-cut": (lambda image, mask: mask.write_bytes(mask.read_bytes()[:-20]), "cannot be decoded"),
    "mask-empty": (lambda image, mask: mask.write_bytes(b""), "it is empty"),
}


@pytest.mark.parametrize("name", ["ltcc", "last"])
@pytest.mark.parametrize("damage", CONTENT)
def test_damaged_content_is_reported_with_its_path_and_reason(
    tree: Callable[[str], Fixture], name: str, damage: str
) -> None:
    fixture = tree(name)
    path = first(fixture)
    width, height = Image.open(fixture.root / path).size
    harm, reason = CONTENT[damage]
    harm(fixture.root / path, mask_of(fixture, path))
    report = offenders(fixture)
    assert [offender.path for offender in report.offenders] == [path]
    wanted = reason.format(mask=mask_of(fixture, path), width=width, wider=width + 1, height=height)
    assert wanted in report.offenders[0].problem
    assert "--quarantine" in str(report)


def png_of(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A grey PNG that claims a size; chunks: between header and end."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    made = b"\x89PNG\r\n\x1a\n"
    for kind, data in [(b"IHDR", header), *chunks, (b"IEND", b"")]:
        made += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return made


ZEROS = zlib.compress(bytes(100 << 20))
BOMBS: dict[str, tuple[bytes, str]] = {
    "claims": (png_of(100_000, 100_000, (b"IDAT", zlib.compress(b""))), "claims 100000 × 100000 pixels, more than"),
    "jpeg": (b"\xff\xd8\xff\xc0\0\x0b\x08\xff\xdc\xff\xdc\1\1\x11\0\xff\xd9", "claims 65500 × 65500 pixels"),
    "pixels": (png_of(40_000, 40_000, (b"IDAT", ZEROS)), "claims 40000 × 40000 pixels"),
    "text": (png_of(8, 8, (b"zTXt", b"x\0\0" + ZEROS), (b"IDAT", zlib.compress(bytes(72)))), "cannot be decoded"),
    "program": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n", "is no image"),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_decompression_bombs_are_reported_and_not_unpacked(tree: Callable[[str], Fixture], bomb: str) -> None:
    fixture = tree("ltcc")
    data, reason = BOMBS[bomb]
    (fixture.root / first(fixture)).write_bytes(data)
    mask_of(fixture, first(fixture, "query")).write_bytes(data)
    tracemalloc.start()
    found = {offender.path: offender.problem for offender in offenders(fixture).offenders}
    assert tracemalloc.get_traced_memory()[1] < 20 << 20
    tracemalloc.stop()
    assert set(found) == {first(fixture), first(fixture, "query")}
    assert reason in found[first(fixture)]


def test_more_data_than_pixels_are_not_unpacked(tree: Callable[[str], Fixture], tmp_path: Path) -> None:
    """As browsers do: what comes after the last pixel is nobody's."""
    fixture = tree("ltcc")
    path = fixture.root / first(fixture)
    width, height = Image.open(path).size
    path.write_bytes(png_of(width, height, (b"IDAT", ZEROS)))
    tracemalloc.start()
    run(fixture, tmp_path / "out", dry_run=True)
    assert tracemalloc.get_traced_memory()[1] < 20 << 20
    tracemalloc.stop()


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


def test_an_image_and_its_mask_may_both_be_bad(tree: Callable[[str], Fixture]) -> None:
    fixture = tree("ltcc")
    (fixture.root / first(fixture)).write_bytes(b"")
    relabel(mask_of(fixture, first(fixture)))
    assert len(offenders(fixture).offenders) == 2


def test_without_masks_the_same_tree_converts(tree: Callable[[str], Fixture], tmp_path: Path) -> None:
    fixture = tree("ltcc")
    mask_of(fixture, first(fixture)).unlink()
    conversion = run(fixture, tmp_path / "out", parsing=None)
    assert conversion.manifest is not None
    assert conversion.manifest.label_map is None
    assert all(row.parsing is None for row in rows(tmp_path / "out").values())


def test_masks_of_another_size_are_resized_to_the_nearest_when_asked(
    tree: Callable[[str], Fixture], tmp_path: Path
) -> None:
    fixture = tree("ltcc")
    path = first(fixture)
    labels = np.array(Image.open(mask_of(fixture, path)))
    mask_of(fixture, path).write_bytes(png(labels.repeat(2, axis=0).repeat(2, axis=1)))
    other = mask_of(fixture, first(fixture, "query")).read_bytes()
    run(fixture, tmp_path / "out", resize_masks=True)
    converted = rows(tmp_path / "out")
    stored = np.array(Image.open(io.BytesIO(converted["train", path].parsing or b"")))
    np.testing.assert_array_equal(stored, labels)
    assert converted["query", first(fixture, "query")].parsing == other


def test_masks_without_images_are_a_warning_with_their_count(tree: Callable[[str], Fixture], tmp_path: Path) -> None:
    fixture = tree("ltcc")
    for number in range(2):
        shutil.copy(mask_of(fixture, first(fixture)), fixture.parsing / "train" / f"900_1_c1_00000{number}.png")
    warnings = run(fixture, tmp_path / "out").warnings
    assert len(warnings) == 1
    assert "masks without an image: 2 (train/900_1_c1_000000.png" in warnings[0]


def test_a_wrong_folder_of_masks_is_named(tree: Callable[[str], Fixture], tmp_path: Path) -> None:
    fixture = tree("ltcc")
    assert "there is no folder of masks at" in refusal(fixture, parsing=tmp_path / "nowhere")
    assert "is it the right folder?" in str(offenders(fixture, parsing=fixture.parsing / "train"))


def test_the_content_decides_not_the_suffix(tree: Callable[[str], Fixture], tmp_path: Path) -> None:
    fixture = tree("vcclothes")
    path = fixture.root / first(fixture)
    data = png(np.array(Image.open(path)))
    path.write_bytes(data)
    run(fixture, tmp_path / "out")
    assert rows(tmp_path / "out")["train", first(fixture)].image == data


def test_an_exif_rotation_changes_neither_sizes_nor_bytes(tree: Callable[[str], Fixture], tmp_path: Path) -> None:
    fixture = tree("vcclothes")
    path = fixture.root / first(fixture)
    image, exif = Image.open(path), Image.Exif()
    exif[0x0112] = 6
    image.save(path, "JPEG", exif=exif)
    run(fixture, tmp_path / "out")
    assert rows(tmp_path / "out")["train", first(fixture)].image == path.read_bytes()


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
    assert "Meant ltcc?" in refusal(Fixture("ltc", fixture.root, fixture.parsing, fixture.expected))
    assert "Meant lip20?" in refusal(fixture, labels="lip-20")
    assert "there is no protocol 'lttc'" in refusal(fixture, protocol="lttc")
    nowhere = Fixture("ltcc", fixture.root / "nowhere", fixture.parsing, fixture.expected)
    assert "there is nothing at" in refusal(nowhere)


def test_links_that_lead_out_are_reported_and_not_followed(tree: Callable[[str], Fixture], tmp_path: Path) -> None:
    fixture = tree("ltcc")
    path, mask = fixture.root / first(fixture), mask_of(fixture, first(fixture, "query"))
    outside = tmp_path / "elsewhere"
    outside.mkdir()
    for file in (path, mask):
        shutil.move(file, outside / file.name)
        os.symlink(outside / file.name, file)
    inside = fixture.root / "train" / "000_1_c1_999999.png"
    inside.symlink_to(fixture.root / first(fixture, "gallery"))
    shutil.copy(mask_of(fixture, first(fixture, "gallery")), mask_of(fixture, "train/000_1_c1_999999.png"))
    report = offenders(fixture)
    assert [offender.path for offender in report.offenders] == [first(fixture), first(fixture, "query")]
    assert all("symbolic link that leads out" in offender.problem for offender in report.offenders)


def test_the_same_image_on_both_sides_is_a_warning(tree: Callable[[str], Fixture], tmp_path: Path) -> None:
    fixture = tree("vcclothes")
    query = first(fixture, "query")
    twin = f"gallery/{Path(query).name}"
    shutil.copy(fixture.root / query, fixture.root / twin)
    shutil.copy(mask_of(fixture, query), mask_of(fixture, twin))
    warnings = run(fixture, tmp_path / "out").warnings
    assert warnings == [f"the same bytes in gallery and query: {query}, {twin}; take it out of one of them"]


def test_an_image_of_train_in_a_test_split_is_told_as_a_leak(tree: Callable[[str], Fixture], tmp_path: Path) -> None:
    fixture = tree("vcclothes")
    for number, split in enumerate(("query", "gallery")):
        copy(fixture, sorted(fixture.paths)[number], f"{split}/0999-01-01-0{number}.jpg")
        copy(fixture, f"train/{Path(first(fixture)).name}", f"{split}/0999-01-01-09.jpg")
    leaks = [warning for warning in run(fixture, tmp_path / "out").warnings if warning.startswith("leak, ")]
    assert leaks == [
        f"leak, the same bytes in gallery and query and train: {first(fixture)}, query/0999-01-01-09.jpg, "
        "gallery/0999-01-01-09.jpg; take it out of one of them"
    ]


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


def test_a_file_that_changes_between_check_and_write_stops_the_conversion(
    tree: Callable[[str], Fixture], tmp_path: Path
) -> None:
    fixture = tree("ltcc")
    changed = fixture.root / first(fixture, "gallery")

    def change(stage: str, done: int, total: int) -> None:
        if stage == "check" and done == total:
            changed.write_bytes(changed.read_bytes() + b"x")

    with pytest.raises(CorruptData, match="changed after it was checked"):
        run(fixture, tmp_path / "out", progress=change)
    assert not (tmp_path / "out" / "manifest.json").exists()


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


def test_deepchange_says_that_days_stand_in_for_outfits(tree: Callable[[str], Fixture], tmp_path: Path) -> None:
    conversion = run(tree("deepchange"), tmp_path / "out")
    assert conversion.notes == [
        "clothes are pseudo labels: the collection date stands in for the outfit, as CAL's authors do it"
    ]
    assert inspect(str(tmp_path / "out"))["clothes"].startswith("pseudo labels: the collection date")


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
    convert("table", fixture.root / "mine.csv", str(tmp_path / "table"), parsing=fixture.parsing, protocol="ltcc")
    run(fixture, tmp_path / "out")
    assert rows(tmp_path / "table") == rows(tmp_path / "out")
    assert Dataset.open(str(tmp_path / "table")).manifest.protocol == "ltcc"


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


def first_line(fixture: Fixture, path: str) -> str:
    return (fixture.root / path).read_text().splitlines()[0]


def add_line(fixture: Fixture, path: str, line: str) -> None:
    text = (fixture.root / path).read_text()
    (fixture.root / path).write_text(text.rstrip("\n") + f"\n{line}\n")


def copy(fixture: Fixture, old: str, new: str) -> None:
    for source in (fixture.root, fixture.parsing):
        if (source / old).is_dir():
            shutil.copytree(source / old, source / new)
    if (fixture.root / old).is_file():
        shutil.copy(fixture.root / old, fixture.root / new)
        shutil.copy(mask_of(fixture, old), mask_of(fixture, new))


def walk(fixture: Fixture, split: str) -> str:
    """A tracklet's folder in CCVID."""
    return first_line(fixture, f"{split}.txt").split()[0]


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


def test_prcc_converts_without_val_when_asked(tree: Callable[[str], Fixture], tmp_path: Path) -> None:
    fixture = tree("prcc")
    shutil.rmtree(fixture.root / "rgb/val")
    run(fixture, tmp_path / "out", without=["val"])
    assert Dataset.open(str(tmp_path / "out")).splits == ("train", "gallery", "query_same", "query_diff")


def test_prcc_query_person_without_gallery_is_a_warning(tree: Callable[[str], Fixture], tmp_path: Path) -> None:
    fixture = tree("prcc")
    person = Path(first(fixture, "query_same")).parent.name
    copy(fixture, f"rgb/test/B/{person}", "rgb/test/B/099")
    warnings = run(fixture, tmp_path / "out").warnings
    assert "query_same person 099 has no image in gallery: its queries will not count" in warnings


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
    assert "outfits are each person's own: 15" in conversion.notes[0]
    index = Dataset.open(str(tmp_path / "out")).index("train")
    labels = [clothes for _, clothes in index.clothes_names]
    assert len(set(labels)) < len(labels)
    assert index.own_clothes().sum(axis=0).tolist() == [1] * len(labels)
