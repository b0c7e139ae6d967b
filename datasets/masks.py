"""A folder of label maps beside a data set: the mask of `a/b.jpg` is `a/b.png`."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from PIL import Image

from datasets.decode import decode_image, decode_parsing, resize_parsing
from datasets.errors import DataError
from datasets.schema import LabelMap


@dataclass(frozen=True)
class Masks:
    """The folder, listed once.

    names: paths below it. outside: links among them that lead out of it, which are not followed. resize: whether a mask
    of another size than its image's is brought to it.
    """

    root: Path
    label_map: LabelMap
    resize: bool
    names: frozenset[str]
    outside: frozenset[str]

    def orphans(self, images: Iterable[str], source: Path) -> list[str]:
        """Masks of no image, sorted. images: known paths; what no layout reads is looked for below `source`."""
        left = sorted(self.names - {mask_name(path) for path in images})
        stems: dict[PurePosixPath, set[str]] = {}
        for folder in {PurePosixPath(name).parent for name in left}:
            place = source / folder
            files = os.listdir(place) if place.is_dir() else []
            stems[folder] = {PurePosixPath(file).stem for file in files}
        return [name for name in left if PurePosixPath(name).stem not in stems[PurePosixPath(name).parent]]


def open_masks(folder: str | Path, label_map: LabelMap, *, resize: bool = False) -> Masks:
    """Raises: DataError when there is no such folder."""
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f"there is no folder of masks at {root}; expected label maps named as the images, with .png")
    resolved, names, outside = root.resolve(), set[str](), set[str]()
    for place, _, files in os.walk(root):
        inside = Path(place).relative_to(root)
        for file in files:
            if file.endswith(".png") and not file.startswith("."):
                name = (inside / file).as_posix()
                names.add(name)
                path = Path(place, file)
                if path.is_symlink() and not path.resolve().is_relative_to(resolved):
                    outside.add(name)
    return Masks(root, label_map, resize, frozenset(names), frozenset(outside))


def mask_name(path: str) -> str:
    """The mask's path below the folder of masks, of the image's below the data set's root."""
    return PurePosixPath(path).with_suffix(".png").as_posix()


def in_size_of(image: bytes, mask: bytes, key: str) -> bytes:
    """The mask in the image's size, nearest, as a grey PNG; its own bytes where it has that size already."""
    labels = decode_parsing(mask, key)
    height, width = decode_image(image, key).shape[1:]
    if tuple(labels.shape) == (height, width):
        return mask
    out = io.BytesIO()
    Image.fromarray(resize_parsing(labels, (height, width)).numpy()).save(out, "PNG")
    return out.getvalue()
