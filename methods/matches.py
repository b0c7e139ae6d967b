"""Which gallery entries are a query's matches and which are junk, by person, camera and clothes, under each rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

RULES = ("general", "same-clothes", "clothes-changing")


class NoValidQuery(ValueError):  # noqa: N818  what it says is no slip of the program
    """No query has a match under the rule: there is nothing to average."""


@dataclass(frozen=True, slots=True)
class Labels:
    """Integer labels of N entries, int64 [N] each. -1 = unknown, which equals nothing, itself included."""

    person: np.ndarray
    camera: np.ndarray
    clothes: np.ndarray

    def __post_init__(self) -> None:
        for name in self.__slots__:
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.int64))
        sizes = {name: getattr(self, name).shape for name in self.__slots__}
        if len(set(sizes.values())) > 1 or self.person.ndim != 1:
            raise ValueError(f"labels must be one integer per entry, all of the same number; got shapes {sizes}")

    def __len__(self) -> int:
        return len(self.person)

    def take(self, rows: np.ndarray | slice) -> Labels:
        return Labels(self.person[rows], self.camera[rows], self.clothes[rows])


@dataclass(frozen=True, slots=True)
class Pairs:
    """The gallery entries of each query's person. A row is a query that has a match; rows are ordered by person."""

    queries: np.ndarray  # int64 [R]: the query each row stands for
    row: np.ndarray  # int64 [N], ascending
    gallery: np.ndarray  # int64 [N]
    is_match: np.ndarray  # bool [N]; the others are junk
    num_queries: int
    num_gallery: int
    similarity: np.ndarray = field(default_factory=lambda: np.empty(0))  # floating point [N], once it is known

    def nearest_first(self, similarity: np.ndarray) -> Pairs:
        """The pairs of each row in the order of a stable sort by decreasing similarity."""
        order = np.lexsort((self.gallery, -similarity, self.row))
        return replace(self, gallery=self.gallery[order], is_match=self.is_match[order], similarity=similarity[order])


def valid_and_match(query_labels: Labels, gallery_labels: Labels, rule: str) -> tuple[np.ndarray, np.ndarray]:
    """Which gallery entries are valid for each query by a rule, and which match it: bool [Q, G] each.

    For the few queries of a picture. A removed entry is neither valid nor a match. Raises: NoValidQuery.
    """
    pairs = pairs_of(query_labels, gallery_labels, (rule,))
    valid = np.ones((len(query_labels), len(gallery_labels)), dtype=bool)
    matches = np.zeros_like(valid)
    rows = pairs.queries[pairs.row]
    valid[rows, pairs.gallery] = matches[rows, pairs.gallery] = pairs.is_match
    return valid, matches


def pairs_of(query: Labels, gallery: Labels, rules: Sequence[str]) -> Pairs:
    """The pairs of the queries that have a match under one of the rules. `is_match` is the first rule's.

    Raises: NoValidQuery where a rule has none. ValueError for an unknown rule.
    """
    everything = _same_person_pairs(query, gallery)
    kept = [apply_rule(everything, query, gallery, rule)[1] for rule in rules]
    if len(rules) == 1:
        return apply_rule(everything, query, gallery, rules[0])[0]
    return _keep(everything, np.logical_or.reduce(kept))


def _same_person_pairs(query: Labels, gallery: Labels) -> Pairs:
    """Those of every query whose person is in the gallery; `is_match` is False throughout."""
    queries = np.argsort(query.person, kind="stable")  # neighbours share gallery rows, and with them products
    entries = np.argsort(gallery.person, kind="stable")
    persons, wanted = gallery.person[entries], query.person[queries]
    start = np.searchsorted(persons, wanted, "left")
    num = np.where(wanted < 0, 0, np.searchsorted(persons, wanted, "right") - start)
    row = np.repeat(np.arange(len(queries)), num)
    within = np.arange(len(row)) - np.repeat(np.cumsum(num) - num, num)
    entry = entries[np.repeat(start, num) + within]
    return Pairs(queries, row, entry, np.zeros(len(row), dtype=bool), len(query), len(gallery))


def apply_rule(pairs: Pairs, query: Labels, gallery: Labels, rule: str) -> tuple[Pairs, np.ndarray]:
    """The pairs of the queries that have a match under a rule, with its `is_match`; and which pairs these are, bool [N].

    Raises: NoValidQuery; ValueError for an unknown rule.
    """
    if rule not in RULES:
        raise ValueError(f"unknown rule {rule!r}: it is one of {', '.join(RULES)}")

    def same(query_label: np.ndarray, gallery_label: np.ndarray) -> np.ndarray:
        ours, theirs = query_label[pairs.queries[pairs.row]], gallery_label[pairs.gallery]
        return (ours == theirs) & (ours >= 0)

    is_match = ~same(query.camera, gallery.camera)
    if rule != "general":
        is_match &= same(query.clothes, gallery.clothes) == (rule == "same-clothes")
    is_valid = np.bincount(pairs.row[is_match], minlength=len(pairs.queries)) > 0
    if not is_valid.any():
        raise NoValidQuery(
            f"no valid query under the rule {rule!r}: of {len(query)} queries and {len(gallery)} gallery entries, "
            f"{len(np.unique(pairs.row))} queries have their person in the gallery ({len(pairs.row)} pairs), and the rule "
            "keeps none of these. Check cameras and clothes of the two splits, or leave this mode out of the protocol"
        )
    kept = is_valid[pairs.row]
    return _keep(replace(pairs, is_match=is_match), kept), kept


def _keep(pairs: Pairs, kept: np.ndarray) -> Pairs:
    """Some pairs (bool [N]), with the rows that have one, in their order."""
    is_row = np.bincount(pairs.row[kept], minlength=len(pairs.queries)) > 0
    similarity = pairs.similarity[kept] if len(pairs.similarity) else pairs.similarity
    return replace(
        pairs,
        queries=pairs.queries[is_row],
        row=(np.cumsum(is_row) - 1)[pairs.row[kept]],
        gallery=pairs.gallery[kept],
        is_match=pairs.is_match[kept],
        similarity=similarity,
    )
