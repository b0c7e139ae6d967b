"""Label maps beside a data set, in a folder or an archive: the mask of `a/b.jpg` is `a/b.png`."""

from __future__ import annotations

import io
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from PIL import Image

from datasets.errors import DataError
from datasets.images.decode import decode_image, decode_parsing, resize_parsing
from datasets.images.label_maps import LabelMap
from datasets.sources import Offender, Source, open_source
from datasets.sources.archive import Archive, Progress
from datasets.sources.source import walk

_PROBED = 200  # images whose masks show which folder of an archive contains the masks


@dataclass(frozen=True)
class Masks:
    """The masks of a data set, listed once.

    names: paths below the source's root. offenders: those among them that must not be opened. resize: whether a mask of
    another size is resized to its image's. variants: by plain spelling the paths that end in capitals or are decomposed (NFD).
    """

    source: Source
    label_map: LabelMap
    resize: bool
    names: frozenset[str]
    offenders: dict[str, Offender]
    variants: Mapping[str, str]

    def path_of(self, image: str) -> str:
        """The path of an image's mask; the expected one where there is none."""
        name = mask_name(image)
        return name if name in self.names else self.variants.get(_plain(name), name)

    def orphans(self, images: Iterable[str], source: Source) -> list[str]:
        """Masks without an image, sorted. images: known paths; images that the layout does not read are found in `source`."""
        left = sorted(self.names - {self.path_of(path) for path in images})
        stems: dict[str, set[str]] = {}
        for folder in {_folder(name) for name in left}:
            stems[folder] = {PurePosixPath(child.name).stem for child in source.children(folder)}
        return [name for name in left if PurePosixPath(name).stem not in stems[_folder(name)]]


def open_masks(
    place: str | Path,
    label_map: LabelMap,
    *,
    resize: bool = False,
    images: Sequence[str] = (),
    of: Source | None = None,
    progress: Progress | None = None,
) -> Masks:
    """The masks in a folder, or in the folder of an archive that has the masks of `images`.

    images: paths below the root of the source `of`. progress: see `open_source`.
    Raises: DataError when there is no such folder or archive.
    """
    if not os.path.exists(place):
        raise DataError(f"there is no folder of masks at {place}; expected label maps with the images' names, but .png")
    if isinstance(of, Archive) and os.path.isfile(place) and os.path.samefile(place, of.path):
        source: Source = of.top()
    else:
        source = open_source(place, "a folder of masks", progress=progress)
    if isinstance(source, Archive):
        source = _root_of_masks(source, images, of)
    names, offenders = set[str](), dict[str, Offender]()
    for path, child in walk(source):
        if path.lower().endswith(".png") and not child.name.startswith("."):
            names.add(path)
            if child.offender is not None:
                offenders[path] = child.offender
    variants = {plain: path for path in names if (plain := _plain(path)) != path}
    return Masks(source, label_map, resize, frozenset(names), offenders, variants)


def mask_name(path: str) -> str:
    """The path of an image's mask below the folder of masks. path: the image's, below the data set's root."""
    stem, dot, suffix = path.rpartition(".")
    return f"{stem if dot and '/' not in suffix else path}.png"


def _plain(path: str) -> str:
    """A mask's path composed (NFC), with its suffix in small letters."""
    return unicodedata.normalize("NFC", path[: -len(".png")]) + ".png"


def in_size_of(image: bytes, mask: bytes, key: str) -> bytes:
    """The mask in the image's size, to the nearest label, as a grey PNG; its own bytes where it has that size."""
    labels = decode_parsing(mask, key)
    height, width = decode_image(image, key).shape[1:]
    if tuple(labels.shape) == (height, width):
        return mask
    out = io.BytesIO()
    Image.fromarray(resize_parsing(labels, (height, width)).numpy()).save(out, "PNG")
    return out.getvalue()


def _root_of_masks(archive: Archive, images: Sequence[str], of: Source | None) -> Archive:
    """The folder with most of the masks; never the images' own, whose PNGs have the names of masks."""
    probed = images[:: max(1, len(images) // _PROBED)]
    found = Counter(folder for path in probed for folder in archive.ends(mask_name(path)))
    if of is not None and archive.is_same(of) and isinstance(of, Archive):
        found.pop(of.prefix, None)
    if not found:
        return archive
    return archive.below(max(sorted(found), key=lambda folder: found[folder]))


def _folder(name: str) -> str:
    return name.rpartition("/")[0]
