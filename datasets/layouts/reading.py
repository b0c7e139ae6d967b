"""Reads a directory as one of the layouts: its entries, and everything that was wrong with names and lists."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datasets.layouts.layout import Entry, Layout
from datasets.layouts.recognise import check_root
from datasets.layouts.tree import Offender, Tree


@dataclass(frozen=True)
class Reading:
    """What a layout found. passed_over: reason → paths. extra: plain data for the manifest."""

    root: Path
    entries: list[Entry]
    offenders: list[Offender]
    warnings: list[str]
    passed_over: dict[str, list[str]]
    extra: dict[str, Any]


def read_layout(
    layout: Layout, source: str | Path, *, known: Iterable[Layout] = (), without: Iterable[str] = ()
) -> Reading:
    """The entries of the directory `source`, by split, no image opened.

    known: the layouts to recognise a wrong tree by. without: splits to leave out, whose folders need not be there.
    Raises: DataError when the directory is not the layout's root, or a list is no text.
    """
    left_out = tuple(without)
    source = Path(source)
    if source.is_file() and source.suffix.lower() in layout.source_files:
        tree = Tree(source.parent, given=source.name)
    else:
        check_root(layout, source, known, left_out)
        tree = Tree(source)
    entries = [entry for entry in layout.read(tree) if entry.split not in left_out]
    if layout.names is not None:
        entries = _one_spelling(entries)
    return Reading(tree.root, entries, tree.offenders, tree.warnings, tree.passed_over, tree.extra)


def _one_spelling(entries: list[Entry]) -> list[Entry]:
    """1 and 0001 are one person, as the published parsers have it: written as where it has most digits."""
    spelling: dict[int, str] = {}
    for entry in entries:
        if entry.person.isdigit() and len(entry.person) > len(spelling.get(int(entry.person), "")):
            spelling[int(entry.person)] = entry.person
    return [_respelt(entry, spelling) for entry in entries]


def _respelt(entry: Entry, spelling: Mapping[int, str]) -> Entry:
    if not entry.person.isdigit() or spelling[int(entry.person)] == entry.person:
        return entry
    return replace(entry, person=spelling[int(entry.person)])
