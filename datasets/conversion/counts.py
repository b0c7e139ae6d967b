"""What a source holds beside what its authors say it holds, and what in it looks like a mistake."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from datasets.layouts.layout import Entry, Layout
from datasets.protocols.protocols import Protocol

_ASKED = ("query", "gallery", "query_same", "query_diff")  # ends of the names of test splits
_JUNK = "junk"  # bad boxes are nobody's images


@dataclass(frozen=True)
class Count:
    """what: "images", "train/persons" …. official: what publications say, empty where they are silent."""

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
    """Of all splits together (junk left out) and of each."""
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
    told = layout.official.get(what, ())
    return told if isinstance(told, tuple) else (told,)


def lonely_queries(protocol: Protocol, entries: Iterable[Entry]) -> list[str]:
    """A warning for each query person whom the gallery does not show."""
    persons: dict[str, set[str]] = {}
    for entry in entries:
        persons.setdefault(entry.split, set()).add(entry.person)
    pairs = dict.fromkeys(
        (mode.query, mode.gallery) for mode in protocol.modes if {mode.query, mode.gallery} <= set(persons)
    )
    return [
        f"{query} person {person} has no image in {gallery}: its queries will not count"
        for query, gallery in pairs
        for person in sorted(persons[query] - persons[gallery])
    ]


def same_images(same: Iterable[Sequence[Entry]]) -> list[str]:
    """A warning for each image that stands in several splits, or under several persons. same: entries of one image each.

    An image of train in a query or gallery is a leak: the test would ask for what was learned.
    """
    found = []
    for twins in same:
        splits, persons = {entry.split for entry in twins}, {entry.person for entry in twins}
        if len(splits) > 1 or len(persons) > 1:
            where = " and ".join(sorted(splits)) if len(splits) > 1 else f"persons {' and '.join(sorted(persons))}"
            files = ", ".join(dict.fromkeys(entry.path for entry in twins))
            leak = "leak, " if "train" in splits and any(split.endswith(_ASKED) for split in splits) else ""
            found.append(f"{leak}the same bytes in {where}: {files}; take it out of one of them")
    return found


def shared_clothes(entries: Iterable[Entry]) -> str | None:
    """Says that an outfit's label which stands with several persons is an outfit of each."""
    persons: dict[str, set[str]] = {}
    for entry in entries:
        if entry.clothes is not None:
            persons.setdefault(entry.clothes, set()).add(entry.person)
    num = sum(len(who) > 1 for who in persons.values())
    outfits = sum(map(len, persons.values()))
    if not num:
        return None
    return f"{num:,} of {len(persons):,} clothes labels stand with several persons; outfits are each person's own: {outfits:,}"
