"""The settings of a conversion, and the look-up of the names in them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from datasets.errors import DataError
from datasets.shards.writer import ROW_GROUP_BYTES, SHARD_BYTES

T = TypeVar("T")


@dataclass(frozen=True)
class ConversionSettings:
    """Settings of `convert`; the defaults convert every image or stop.

    parsing: the folder or archive of parsing masks, None for a data set without masks.
    labels: the label map of these masks, a name of LABEL_MAPS.
    quarantine: leave offenders out and record them in the manifest, instead of stopping.
    resize_masks: resize masks of another size to their images' sizes, to the nearest label.
    dry_run: check and count, write nothing.
    without: the splits to leave out.
    protocol, name, version, licence: what the manifest says instead of the layout's own; one line each.
    person_as_clothes: where a data set labels no clothes, each person's images count as one outfit.
    threads: the number of threads that read and check, None for one per available processor.
    row_group_bytes, shard_bytes: the size that a row group, and a shard, does not exceed.
    overwrite: replace a finished data set at the destination.
    """

    parsing: str | Path | None = None
    labels: str = "lip20"
    quarantine: bool = False
    resize_masks: bool = False
    dry_run: bool = False
    without: tuple[str, ...] = ()
    protocol: str | None = None
    name: str | None = None
    version: str | None = None
    licence: str | None = None
    person_as_clothes: bool = False
    threads: int | None = None
    row_group_bytes: int = ROW_GROUP_BYTES
    shard_bytes: int = SHARD_BYTES
    overwrite: bool = False


def check_texts(settings: ConversionSettings) -> None:
    """Raises: DataError when a text of the manifest is empty or more than one printable line."""
    for option in ("name", "version", "licence"):
        text = getattr(settings, option)
        if text is not None and not (text.strip() and text.isprintable()):
            raise DataError(f"--{option} {text!r} is not one printable line; such as --{option} 'corridor, 2024'")


def find_by_name(kind: str, name: str, known: Mapping[str, T]) -> T:
    """The entry of `known` with this name.

    Raises: DataError when there is none; it lists the names and suggests the closest.
    """
    if name in known:
        return known[name]
    close = difflib.get_close_matches(name.lower(), known, 1)  # the names are in lower case
    suggestion = f" Did you mean {close[0]}?" if close else ""
    raise DataError(f"there is no {kind} {name!r}; there are {', '.join(known)}.{suggestion}")
