"""Checks of a source's images and masks: they decode completely, have one size, and labels are in the label map."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from datasets.conversion.masks import Masks
from datasets.images.decode import (
    KINDS,
    MAX_FILE_BYTES,
    DecodeError,
    UnreadKind,
    check_image,
    decode_parsing,
    exif_orientation,
)
from datasets.layouts.layout import Entry
from datasets.sources import Offender, Source, TooLarge

DIGEST_BYTES = 16
_FIX_IMAGE = "copy it again from an undamaged copy, or remove it"
_FIX_KIND = f"expected {', '.join(KINDS)} of at most 16 bits a channel; save it as PNG, or remove it"
_FIX_MASK = "make the mask again"


@dataclass(frozen=True, slots=True)
class Checked:
    """The result of checking an entry.

    image, mask: 16-byte digests of the files, zeros where unread. orientation: of the image's EXIF, 1 where it has none.
    """

    image: bytes
    mask: bytes
    offenders: tuple[Offender, ...]
    orientation: int = 1


@dataclass
class _Problems:
    path: str
    found: list[Offender] = field(default_factory=list)

    def add(self, problem: str, remedy: str) -> None:
        self.found.append(Offender(self.path, problem, remedy))


def check(source: Source, entry: Entry, masks: Masks | None) -> Checked:
    """Decodes an entry's image, and its mask if there are masks. Nothing is repaired or filled in."""
    problems = _Problems(entry.path)
    image = _read(source, entry.path, problems, "", _FIX_IMAGE)
    size = None if image is None else _image_size(image, problems)
    mask = None if masks is None else _read_mask(masks, problems)
    if masks is not None and mask is not None:
        _check_mask(mask, masks, size, problems)
    orientation = 1 if size is None or image is None else exif_orientation(image)
    return Checked(digest(image), digest(mask), tuple(problems.found), orientation)


def digest(data: bytes | None) -> bytes:
    """16 bytes, zeros for nothing."""
    return bytes(DIGEST_BYTES) if data is None else hashlib.sha256(data).digest()[:DIGEST_BYTES]


def _read(source: Source, path: str, problems: _Problems, what: str, remedy: str) -> bytes | None:
    """A file's bytes; None where it cannot be read, which is reported."""
    try:
        data = source.read(path, MAX_FILE_BYTES)
    except TooLarge:
        problems.add(f"{what}is larger than {MAX_FILE_BYTES >> 20} MiB, too much for one image", remedy)
        return None
    except OSError as error:
        problems.add(f"{what}cannot be read: {error.strerror or error}", "check the file and its permissions")
        return None
    if not data:
        problems.add(f"{what}cannot be decoded: it is empty (0 bytes)", remedy)
    return data or None


def _image_size(image: bytes, problems: _Problems) -> tuple[int, int] | None:
    """(height, width)."""
    try:
        return check_image(image, problems.path)
    except DecodeError as error:
        is_unread = isinstance(error, UnreadKind)
        problems.add(_reason(error, problems.path), _FIX_KIND if is_unread else _FIX_IMAGE)
        return None


def _read_mask(masks: Masks, problems: _Problems) -> bytes | None:
    name = masks.path_of(problems.path)
    if name not in masks.names:
        problems.add(f"mask missing: there is no {masks.source.where(name)}", "add it, or convert without masks")
        return None
    if offender := masks.offenders.get(name):
        problems.add(f"mask {name} {offender.problem} ({masks.source.where()})", offender.remedy)
        return None
    return _read(masks.source, name, problems, f"mask {name} ", _FIX_MASK)


def _check_mask(mask: bytes, masks: Masks, size: tuple[int, int] | None, problems: _Problems) -> None:
    name = masks.path_of(problems.path)
    try:
        labels = decode_parsing(mask, name).numpy()
    except DecodeError as error:
        problems.add(f"mask {name} {_reason(error, name)}", _FIX_MASK)
        return
    height, width = labels.shape
    if size is not None and (height, width) != size and not masks.resize:
        problems.add(
            f"mask {name} is {width}×{height} (width × height), its image {size[1]}×{size[0]}",
            f"{_FIX_MASK}, or resize masks with --resize-masks",
        )
    largest = masks.label_map.num_labels - 1
    if int(labels.max()) > largest:
        beyond = sorted(set(labels[labels > largest].tolist()))
        problems.add(
            f"mask {name} has label {', '.join(map(str, beyond))}; {masks.label_map.name} has labels 0 to {largest}",
            f"{_FIX_MASK}, or give the label map it was made with (--labels)",
        )


def _reason(error: DecodeError, key: str) -> str:
    return str(error).removeprefix(f"{key} ")
