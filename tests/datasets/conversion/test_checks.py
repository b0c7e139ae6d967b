"""The check of one entry: digests by hand, and every fault of an image or its mask with a remedy."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from datasets.conversion import checks
from datasets.conversion.checks import Checked, check, digest
from datasets.conversion.masks import open_masks
from datasets.images.label_maps import LABEL_MAPS
from datasets.layouts.layout import Entry
from datasets.sources import Folder
from tests.datasets.conversion.damage import png

ENTRY = Entry("train", "train/1.jpg", "1")
SIZE = (6, 4)
ZEROS = bytes(16)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of one image, 6 × 4 pixels, and beside it its mask."""
    rng = np.random.default_rng(0)
    for folder, data in (
        ("images", png(rng.integers(0, 256, (*SIZE, 3), np.uint8))),
        ("masks", png(rng.integers(0, 6, SIZE, np.uint8))),
    ):
        (tmp_path / folder / "train").mkdir(parents=True)
        (tmp_path / folder / "train" / ("1.jpg" if folder == "images" else "1.png")).write_bytes(data)
    return tmp_path


def checked(root: Path, *, resize: bool = False, labels: str = "six") -> Checked:
    masks = open_masks(root / "masks", LABEL_MAPS[labels], resize=resize)
    return check(Folder(root / "images"), ENTRY, masks)


def image_of(root: Path) -> Path:
    return root / "images" / "train" / "1.jpg"


def mask_of(root: Path) -> Path:
    return root / "masks" / "train" / "1.png"


def sha16(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()[:16]


def test_a_sound_entry_has_the_digests_of_its_files_and_no_offender(root: Path) -> None:
    assert checked(root) == Checked(sha16(image_of(root)), sha16(mask_of(root)), ())
    assert check(Folder(root / "images"), ENTRY, None) == Checked(sha16(image_of(root)), ZEROS, ())
    assert digest(None) == ZEROS
    assert digest(b"") == hashlib.sha256(b"").digest()[:16]


def grown(path: Path) -> None:
    path.write_bytes(path.read_bytes() + bytes(2_000))


def link_out(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/hostname")


FAULTS: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "image gone": (lambda root: image_of(root).unlink(), "cannot be read", "check the file and its permissions"),
    "image empty": (lambda root: image_of(root).write_bytes(b""), "it is empty (0 bytes)", "copy it again"),
    "image no image": (
        lambda root: image_of(root).write_bytes(b"text"),
        "no image of a known format",
        "save it as PNG",
    ),
    "image large": (lambda root: grown(image_of(root)), "is larger than 0 MiB, too much", "copy it again"),
    "mask gone": (lambda root: mask_of(root).unlink(), "mask missing", "add it, or convert without masks"),
    "mask empty": (lambda root: mask_of(root).write_bytes(b""), "mask train/1.png cannot be decoded", "make the mask"),
    "mask text": (lambda root: mask_of(root).write_bytes(b"text"), "mask train/1.png is no PNG", "make the mask again"),
    "mask large": (lambda root: grown(mask_of(root)), "mask train/1.png is larger", "make the mask again"),
    "mask wide": (
        lambda root: mask_of(root).write_bytes(png(np.zeros((6, 5), np.uint8))),
        "mask train/1.png is 5×6 (width × height), its image 4×6",
        "--resize-masks",
    ),
    "mask label": (
        lambda root: mask_of(root).write_bytes(png(np.array([[6, 9], [0, 9]], np.uint8).repeat(3, 0).repeat(2, 1))),
        "mask train/1.png has label 6, 9; six has labels 0 to 5",
        "--labels",
    ),
    "mask link": (
        lambda root: link_out(mask_of(root)),
        "mask train/1.png is a symbolic link that leads out of the tree",
        "put the file itself there",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_one_offender_with_its_remedy(root: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "MAX_FILE_BYTES", 1_500)
    damage, problem, remedy = FAULTS[name]
    damage(root)
    found = checked(root)
    assert [offender.path for offender in found.offenders] == ["train/1.jpg"]
    assert problem in found.offenders[0].problem
    assert remedy in found.offenders[0].remedy
    sound = mask_of(root) if name.startswith("image") else image_of(root)
    assert (found.mask if name.startswith("image") else found.image) == sha16(sound)


def test_an_image_and_its_mask_are_judged_separately(root: Path) -> None:
    image_of(root).write_bytes(b"text")
    mask_of(root).write_bytes(b"text")
    assert len(checked(root).offenders) == 2


def test_sizes_may_differ_where_masks_are_resized_but_labels_may_not(root: Path) -> None:
    mask_of(root).write_bytes(png(np.full((3, 3), 5, np.uint8)))
    assert checked(root, resize=True).offenders == ()
    mask_of(root).write_bytes(png(np.full((3, 3), 6, np.uint8)))
    assert "has label 6" in checked(root, resize=True).offenders[0].problem
    assert checked(root, resize=True, labels="pascal7").offenders == ()
