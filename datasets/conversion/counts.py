"""Counts of a source beside the published ones, and what looks like a mistake in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from datasets.layouts.layout import Entry, Layout
from datasets.protocols.protocols import Protocol

_TEST_SPLITS = ("query", "gallery", "query_same", "query_diff")  # ends of the names of test splits
_JUNK = "junk"  # bad boxes show no person


@dataclass(frozen=True)
class Count:
    """One count. what: "images", "train/persons" …. official: the published counts, empty where there are none."""

    what: str
    found: int
    official: tuple[int, ...] = ()

    @property
    def differs(self) -> bool:
        return bool(self.official) and self.found not in self.official

    def __str__(self) -> str:
        official = f"   official {' or '.join(f'{count:,}' for count in self.official)}" if self.official else ""
        return f"{self.what:24} {self.found:>9,}{official}{'   differs' if self.differs else ''}"


@dataclass
class _Labels:
    images: int = 0
    persons: set[str] = field(default_factory=set)
    clothes: set[tuple[str, str]] = field(default_factory=set)
    cameras: set[str] = field(default_factory=set)
    sequences: set[str] = field(default_factory=set)

    def add(self, entry: Entry) -> None:
        self.images += 1
        self.persons.add(entry.person)
        if entry.clothes is not None:
            self.clothes.add((entry.person, entry.clothes))
        if entry.camera is not None:
            self.cameras.add(entry.camera)
        if entry.sequence is not None:
            self.sequences.add(entry.sequence)

    def counts(self, prefix: str) -> Iterator[tuple[str, int]]:
        yield f"{prefix}images", self.images
        for name in ("persons", "clothes", "cameras", "sequences"):
            if number := len(getattr(self, name)):
                yield f"{prefix}{name}", number


def counts(layout: Layout, entries: Iterable[Entry]) -> list[Count]:
    """Counts over all splits, without junk, and of each split."""
    whole, parts = _Labels(), dict[str, _Labels]()
    for entry in entries:
        parts.setdefault(entry.split, _Labels()).add(entry)
        if entry.split != _JUNK:
            whole.add(entry)
    found = dict(whole.counts(""))
    for split, labels in parts.items():
        found.update(labels.counts(f"{split}/"))
    found = {what: 0 for what in layout.official if what not in found} | found
    return [Count(what, number, _official(layout, what)) for what, number in found.items()]


def _official(layout: Layout, what: str) -> tuple[int, ...]:
    published = layout.official.get(what, ())
    return published if isinstance(published, tuple) else (published,)


def queries_without_match(protocol: Protocol, entries: Iterable[Entry]) -> list[str]:
    """A warning for each query person without an image in the gallery."""
    persons: dict[str, set[str]] = {}
    for entry in entries:
        persons.setdefault(entry.split, set()).add(entry.person)
    pairs = dict.fromkeys(
        (mode.query, mode.gallery) for mode in protocol.modes if {mode.query, mode.gallery} <= set(persons)
    )
    return [
        f"{query} person {person} has no image in {gallery}: its queries are not scored"
        for query, gallery in pairs
        for person in sorted(persons[query] - persons[gallery])
    ]


def same_images(same: Iterable[Sequence[Entry]]) -> list[str]:
    """A warning for each image in several splits, or of several persons. same: groups of entries with one image each.

    An image of train in a query or gallery is a leak: the test would score what was learned.
    """
    found = []
    for duplicates in same:
        splits, persons = {entry.split for entry in duplicates}, {entry.person for entry in duplicates}
        if len(splits) > 1 or len(persons) > 1:
            where = " and ".join(sorted(splits)) if len(splits) > 1 else f"persons {' and '.join(sorted(persons))}"
            files = ", ".join(dict.fromkeys(entry.path for entry in duplicates))
            leak = "leak, " if "train" in splits and any(split.endswith(_TEST_SPLITS) for split in splits) else ""
            found.append(f"{leak}the same bytes in {where}: {files}; remove it from all but one of them")
    return found


def turned_images(entries: Sequence[Entry], orientations: NDArray[np.uint8]) -> str | None:
    """A note that EXIF asks viewers to turn some images; None where it asks for none. orientations: uint8 [N]."""
    turned = np.flatnonzero(orientations != 1)
    if not len(turned):
        return None
    each = ", ".join(
        f"{kind}: {num:,}" for kind, num in zip(*np.unique(orientations[turned], return_counts=True), strict=True)
    )
    return (
        f"{len(turned):,} images have an EXIF orientation ({each}), such as {entries[turned[0]].path}; pixels are used as they "
        "are stored, not turned"
    )


def shared_clothes(entries: Iterable[Entry]) -> str | None:
    """A note that a clothes label of several persons is a different outfit of each; None where there is no such label."""
    persons: dict[str, set[str]] = {}
    for entry in entries:
        if entry.clothes is not None:
            persons.setdefault(entry.clothes, set()).add(entry.person)
    num = sum(len(who) > 1 for who in persons.values())
    outfits = sum(map(len, persons.values()))
    if not num:
        return None
    return f"{num:,} of {len(persons):,} clothes labels belong to several persons; outfits are counted per person: {outfits:,}"
