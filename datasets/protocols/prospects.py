"""What a protocol will do with a data set, from its labels alone: valid queries of each mode, test people seen in training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

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
    return [_prospect(protocol, mode, dataset) for mode in protocol.modes if not mode.draws]


def protocol_warnings(protocol: Protocol, dataset: Labelled) -> list[str]:
    """A warning for every mode that cannot be scored, and one where test people are in train."""
    found = [
        f"mode {one.mode} ({one.query} → {one.gallery}) of protocol {protocol.name} cannot be scored: {one.problem}"
        for one in prospects(protocol, dataset)
        if one.problem
    ]
    seen = seen_in_training(protocol, dataset)
    return [*found, seen] if seen else found


def seen_in_training(protocol: Protocol, dataset: Labelled) -> str | None:
    """A warning that people of the protocol's query and gallery splits are in train; None where there are none.

    Only these splits count: a data set may have others with people of train, as PRCC's val.
    """
    used = dict.fromkeys(split for mode in protocol.modes for split in (mode.query, mode.gallery))
    there = [split for split in used if split in dataset.splits]
    if not there or "train" not in dataset.splits:
        return None
    people, seen = _people(dataset, there)
    if not seen:
        return None
    return (
        f"{len(seen):,} of the {people:,} people in {' and '.join(there)} are also in train, such as {seen[0]!r}: the test "
        "scores people seen in training. Give train and test different people"
    )


def _people(dataset: Labelled, splits: Sequence[str]) -> tuple[int, list[str]]:
    """The number of people in some splits, and the names of those who are in train."""
    indexes = dataset.indexes(*splits, "train")
    tested = np.unique(np.concatenate([index.person for index in indexes[:-1]]))
    seen = np.intersect1d(tested, indexes[-1].person)
    return len(tested), [indexes[0].person_names[person] for person in seen.tolist()]


def _prospect(protocol: Protocol, mode: Mode, dataset: Labelled) -> Prospect:
    plain = Prospect(mode.name, mode.query, mode.gallery)
    if missing := [split for split in (mode.query, mode.gallery) if split not in dataset.splits]:
        return _without(plain, f"there is no split {' and no '.join(dict.fromkeys(missing))}")
    query, gallery = dataset.indexes(mode.query, mode.gallery)
    if reason := unlabelled(protocol, mode, query) or unlabelled(protocol, mode, gallery):
        return _without(plain, reason)
    of_query, of_gallery = rows(protocol, mode, query), rows(protocol, mode, gallery)
    asked, there = labels(protocol, query).take(of_query), labels(protocol, gallery).take(of_gallery)
    valid = int(valid_queries(mode.rule, asked, there).sum())
    people, seen = _people(dataset, (mode.query, mode.gallery)) if "train" in dataset.splits else (0, [])
    cameras = np.unique(np.concatenate([query.camera[of_query], gallery.camera[of_gallery]]))
    return Prospect(
        mode.name,
        mode.query,
        mode.gallery,
        queries=len(of_query),
        valid=valid,
        people=people or len(np.unique(np.concatenate([asked.person, there.person]))),
        seen=len(seen),
        cameras=int((cameras >= 0).sum()),
        problem=None if valid else "no query has a match in the gallery",
    )


def _without(plain: Prospect, problem: str) -> Prospect:
    return Prospect(plain.mode, plain.query, plain.gallery, problem=problem)
