"""What a protocol will do with a data set, from its labels alone: valid queries of each mode, test people seen in training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from datasets.format.index import SplitIndex
from datasets.protocols.protocols import Labelled, Mode, Protocol, labels, rows, unlabelled, valid_queries


@dataclass(frozen=True)
class Prospect:
    """One mode on a data set.

    queries, valid: the number of queries, and of those with a match in the gallery. people: those of query and gallery. seen:
    those among them who are in train. cameras: of query and gallery. problem: why the mode cannot be scored, None where it
    can.
    """

    mode: str
    query: str
    gallery: str
    queries: int = 0
    valid: int = 0
    people: int = 0
    seen: int = 0
    cameras: int = 0
    problem: str | None = None

    def __str__(self) -> str:
        return f"{self.mode} {self.valid:,} of {self.queries:,}" if self.problem is None else f"{self.mode} none"


def prospects(protocol: Protocol, dataset: Labelled) -> list[Prospect]:
    """The prospects of every mode that ranks whole galleries."""
    opened: dict[tuple[str, str], tuple[SplitIndex, ...]] = {}
    found = []
    for mode in protocol.modes:
        pair = mode.query, mode.gallery
        missing = [split for split in dict.fromkeys(pair) if split not in dataset.splits]
        if missing and not mode.draws:
            problem = f"there is no split {' and no '.join(missing)}"
            found.append(Prospect(mode.name, *pair, problem=problem))
        elif not mode.draws:
            if pair not in opened:
                opened[pair] = dataset.indexes(*pair, *(["train"] if "train" in dataset.splits else []))
            found.append(_prospect(protocol, mode, *opened[pair]))
    return found


def protocol_warnings(protocol: Protocol, dataset: Labelled, found: Sequence[Prospect]) -> list[str]:
    """A warning for every mode that cannot be scored, and one where test people are in train. found: by `prospects`."""
    unscored = [
        f"mode {one.mode} ({one.query} → {one.gallery}) of protocol {protocol.name} cannot be scored: {one.problem}"
        for one in found
        if one.problem
    ]
    seen = seen_in_training(protocol, dataset)
    return [*unscored, seen] if seen else unscored


def seen_in_training(protocol: Protocol, dataset: Labelled) -> str | None:
    """A warning that people of the protocol's query and gallery splits are in train; None where there are none.

    Only these splits count: a data set may have others with people of train, as PRCC's val.
    """
    used = dict.fromkeys(split for mode in protocol.modes for split in (mode.query, mode.gallery))
    there = [split for split in used if split in dataset.splits]
    if not there or "train" not in dataset.splits:
        return None
    indexes = dataset.indexes(*there, "train")
    tested, seen = _people(indexes[:-1]), _people(indexes[-1:])
    both = np.intersect1d(tested, seen)
    if not len(both):
        return None
    return (
        f"{len(both):,} of the {len(tested):,} people in {' and '.join(there)} are also in train, such as "
        f"{indexes[0].person_names[both[0]]!r}: the test scores people seen in training. Give train and test different people"
    )


def _people(indexes: Sequence[SplitIndex]) -> np.ndarray:
    return np.unique(np.concatenate([index.person for index in indexes]))


def _prospect(
    protocol: Protocol, mode: Mode, query: SplitIndex, gallery: SplitIndex, train: SplitIndex | None = None
) -> Prospect:
    """The indexes have one numbering."""
    plain = Prospect(mode.name, mode.query, mode.gallery)
    if reason := unlabelled(protocol, mode, query) or unlabelled(protocol, mode, gallery):
        return replace(plain, problem=reason)
    of_query, of_gallery = rows(protocol, mode, query), rows(protocol, mode, gallery)
    asked, there = labels(protocol, query).take(of_query), labels(protocol, gallery).take(of_gallery)
    people = np.unique(np.concatenate([asked.person, there.person]))
    cameras = np.unique(np.concatenate([query.camera[of_query], gallery.camera[of_gallery]]))
    valid = int(valid_queries(mode.rule, asked, there).sum())
    return replace(
        plain,
        queries=len(of_query),
        valid=valid,
        people=len(people),
        seen=0 if train is None else len(np.intersect1d(people, train.person)),
        cameras=int((cameras >= 0).sum()),
        problem=None if valid else "no query has a match in the gallery",
    )
