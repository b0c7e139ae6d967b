"""Masks beside a data set: their names, the folder of an archive that has them, and their resizing by plain loops."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.conversion.masks import Masks, in_size_of, mask_name, open_masks
from datasets.errors import DataError
from datasets.images.label_maps import LABEL_MAPS
from datasets.sources import Folder, open_source
from tests.datasets.conversion.damage import png
from tests.datasets.sources.packing import pack

SIX = LABEL_MAPS["six"]
MASK, IMAGE = png(np.ones((4, 3), np.uint8)), png(np.full((4, 3, 3), 9, np.uint8))


def tree(root: Path, *paths: str, data: bytes = MASK) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    return root


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("a/b.jpg", "a/b.png"),
        ("b.png", "b.png"),
        ("a.b/c.d.jpeg", "a.b/c.d.png"),
        ("a.b/c", "a.b/c.png"),
        ("c", "c.png"),
    ],
)
def test_a_mask_has_its_images_path_with_another_suffix(image: str, mask: str) -> None:
    assert mask_name(image) == mask


def test_a_folder_of_masks_is_listed_once_with_what_must_not_be_opened(tmp_path: Path) -> None:
    root = tree(tmp_path / "masks", "a/1.png", "2.png", "a/.3.png", "notes.txt", "4.jpg")
    (root / "5.png").symlink_to(tmp_path / "elsewhere.png")
    masks = open_masks(root, SIX)
    assert masks.names == {"a/1.png", "2.png", "5.png"}
    assert list(masks.offenders) == ["5.png"]
    assert "symbolic link" in masks.offenders["5.png"].problem
    with pytest.raises(DataError, match="there is no folder of masks at"):
        open_masks(tmp_path / "nowhere", SIX)


def test_masks_in_capitals_and_from_a_mac_are_found(tmp_path: Path) -> None:
    masks = open_masks(tree(tmp_path / "masks", "a/1.PNG", "a/2.Png", "a/3.png", "a/3.PNG", "a/Zoe\u0308.png"), SIX)
    paths = {"a/1.jpg": "a/1.PNG", "a/2.jpg": "a/2.Png", "a/3.jpg": "a/3.png", "a/Zo\u00eb.jpg": "a/Zoe\u0308.png"}
    assert {image: masks.path_of(image) for image in paths} == paths
    assert masks.path_of("a/4.jpg") == "a/4.png"
    assert masks.orphans([*paths], Folder(tmp_path)) == ["a/3.PNG"]


def orphans(masks: Masks, images: Path) -> list[str]:
    return masks.orphans(["a/1.jpg"], Folder(images))


def test_orphans_are_masks_without_any_image_also_of_those_that_no_layout_reads(tmp_path: Path) -> None:
    masks = open_masks(tree(tmp_path / "masks", "a/1.png", "a/2.png", "a/3.png", "b/4.png"), SIX)
    images = tree(tmp_path / "images", "a/1.jpg", "a/2.bmp", data=IMAGE)
    assert orphans(masks, images) == ["a/3.png", "b/4.png"]


def test_in_an_archive_the_folder_with_most_of_the_masks_is_taken(tmp_path: Path) -> None:
    tree(tmp_path / "all", "deep/masks/a/1.png", "deep/masks/a/2.png", "few/a/1.png")
    images = tree(tmp_path / "images", "a/1.jpg", "a/2.jpg", data=IMAGE)
    packed = pack(tmp_path / "all", tmp_path / "masks.zip")
    masks = open_masks(packed, SIX, images=["a/1.jpg", "a/2.jpg"], of=Folder(images))
    assert masks.names == {"a/1.png", "a/2.png"}
    assert masks.source.where().endswith("masks.zip: deep/masks")
    nothing = open_masks(packed, SIX, images=["b/9.jpg"], of=Folder(images))
    assert "deep/masks/a/1.png" in nothing.names, "where no mask is found, the archive's top is the folder"


def test_images_that_are_pngs_are_never_their_own_masks(tmp_path: Path) -> None:
    tree(tmp_path / "all", "images/a/1.png", "images/a/2.png", data=IMAGE)
    tree(tmp_path / "all", "masks/a/1.png")
    packed = pack(tmp_path / "all", tmp_path / "all.tar")
    images = open_source(packed, "images").below("images")
    masks = open_masks(packed, SIX, images=["a/1.png", "a/2.png"], of=images)
    assert masks.names == {"a/1.png"}
    assert masks.source.read("a/1.png", 1 << 20) == MASK


def test_a_mask_of_another_size_takes_the_nearest_labels() -> None:
    labels = np.random.default_rng(0).integers(0, 20, (9, 5), np.uint8)
    image = png(np.zeros((7, 8, 3), np.uint8))
    resized = np.array(Image.open(io.BytesIO(in_size_of(image, png(labels), "a"))))
    expected = [[labels[int((y + 0.5) * 9 / 7), int((x + 0.5) * 5 / 8)] for x in range(8)] for y in range(7)]
    assert resized.tolist() == expected


def test_a_mask_of_the_images_size_keeps_its_bytes() -> None:
    assert in_size_of(IMAGE, MASK, "a") is MASK
