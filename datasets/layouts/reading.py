"""Reads a folder or an archive by a layout: its entries, and all offenders among names and lists."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datasets.errors import DataError
from datasets.layouts.layout import Entry, Layout
from datasets.layouts.recognise import check_root, find_root
from datasets.layouts.tree import Tree
from datasets.protocols.protocols import PROTOCOLS
from datasets.sources import Folder, Offender, Source, open_source
from datasets.sources.archive import Archive, Progress

_MODES = [mode for protocol in PROTOCOLS.values() for mode in (*protocol.modes, *protocol.validation().modes)]


@dataclass(frozen=True)
class Reading:
    """The result of reading a source by a layout. passed_over: reason → paths. extra: plain data for the manifest."""

    source: Source
    entries: list[Entry]
    offenders: list[Offender]
    warnings: list[str]
    passed_over: dict[str, list[str]]
    extra: dict[str, Any]


def read_layout(
    layout: Layout,
    source: str | Path,
    *,
    known: Iterable[Layout] = (),
    without: Iterable[str] = (),
    progress: Progress | None = None,
) -> Reading:
    """Reads the entries of the folder or archive `source`; no image is opened.

    known: the layouts that a wrong tree is compared with. without: the splits to leave out, whose folders may be missing.
    progress: see `open_source`.
    Raises: DataError when `source` is not the layout's root, a list is no text, or there is no split of a name in `without`.
    """
    left_out = tuple(without)
    path = Path(source)
    if os.path.isfile(path) and path.suffix.lower() in layout.source_files:
        tree = Tree(Folder(path.parent), given=path.name)
    else:
        root = open_source(path, f"the folder {layout.root}", progress=progress)
        if isinstance(root, Archive):
            root = find_root(layout, root, left_out)
        check_root(layout, root, known, left_out)
        tree = Tree(root, offenders=list(root.offenders), warnings=list(root.warnings))
    entries = list(layout.read(tree))
    _check_left_out(layout, left_out, entries)
    entries = [entry for entry in entries if entry.split not in left_out]
    if layout.names is not None:
        entries = _one_spelling(entries)
    return Reading(tree.source, entries, tree.offenders, tree.warnings, tree.passed_over, tree.extra)


def _check_left_out(layout: Layout, left_out: tuple[str, ...], entries: list[Entry]) -> None:
    usual = layout.places or {split: () for mode in _MODES for split in ("train", mode.query, mode.gallery)}
    known = dict.fromkeys([*usual, *(entry.split for entry in entries)])
    if strange := [split for split in left_out if split not in known]:
        close = difflib.get_close_matches(strange[0], known, 1)
        suggestion = f". Did you mean {close[0]}?" if close else ""
        raise DataError(
            f"there is no split {strange[0]!r} to leave out of {layout.name}; there are {', '.join(known)}{suggestion}"
        )


def _one_spelling(entries: list[Entry]) -> list[Entry]:
    """Writes a person's number as where it has most digits: 1 and 0001 are one person, as in the published code."""
    spelling: dict[int, str] = {}
    for entry in entries:
        if entry.person.isdigit() and len(entry.person) > len(spelling.get(int(entry.person), "")):
            spelling[int(entry.person)] = entry.person
    return [_respelt(entry, spelling) for entry in entries]


def _respelt(entry: Entry, spelling: Mapping[int, str]) -> Entry:
    if not entry.person.isdigit() or spelling[int(entry.person)] == entry.person:
        return entry
    return replace(entry, person=spelling[int(entry.person)])
