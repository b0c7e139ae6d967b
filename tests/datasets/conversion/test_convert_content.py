"""What is wrong with images and masks themselves is found before anything is written."""

from __future__ import annotations

import io
import os
import shutil
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.errors import CorruptData
from tests.datasets.conversion.damage import (
    copy,
    cut,
    first,
    mask_of,
    offenders,
    png,
    refusal,
    relabel,
    rows,
    run,
)
from tests.layouts import Fixture


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
    """A grey PNG that declares a size; chunks: between header and end."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    made = b"\x89PNG\r\n\x1a\n"
    for kind, data in [(b"IHDR", header), *chunks, (b"IEND", b"")]:
        made += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return made


ZEROS = zlib.compress(bytes(100 << 20))
BOMBS: dict[str, tuple[bytes, str]] = {
    "size": (png_of(100_000, 100_000, (b"IDAT", zlib.compress(b""))), "claims 100000 × 100000 pixels, more than"),
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
    run(fixture, tmp_path / "out", dry_run=True)  # imports what it needs, which is not measured
    path.write_bytes(png_of(width, height, (b"IDAT", ZEROS)))
    tracemalloc.start()
    run(fixture, tmp_path / "out", dry_run=True)
    assert tracemalloc.get_traced_memory()[1] < 20 << 20
    tracemalloc.stop()


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
    assert "check that it is the folder of masks" in str(offenders(fixture, parsing=fixture.parsing / "train"))


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
    assert warnings == [f"the same bytes in gallery and query: {query}, {twin}; remove it from all but one of them"]


def test_an_image_of_train_in_a_test_split_is_told_as_a_leak(tree: Callable[[str], Fixture], tmp_path: Path) -> None:
    fixture = tree("vcclothes")
    for number, split in enumerate(("query", "gallery")):
        copy(fixture, sorted(fixture.paths)[number], f"{split}/0999-01-01-0{number}.jpg")
        copy(fixture, f"train/{Path(first(fixture)).name}", f"{split}/0999-01-01-09.jpg")
    leaks = [warning for warning in run(fixture, tmp_path / "out").warnings if warning.startswith("leak, ")]
    assert leaks == [
        f"leak, the same bytes in gallery and query and train: {first(fixture)}, query/0999-01-01-09.jpg, "
        "gallery/0999-01-01-09.jpg; remove it from all but one of them"
    ]


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
