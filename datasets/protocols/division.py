"""Divides persons' images into query and gallery, so that every mode of a protocol has a valid query of each person.

Of each person, outfit and camera one image (or tracklet) at random is a query, and the rest is gallery; where there is a
single one, every second is a query. If a mode then has no valid query of the person, the division is drawn again, at most
DRAWS times. After that a single image is the query: one that is valid in every mode when all others are gallery. Such an image
exists whenever any division gives all modes a valid query: two images in one outfit from two cameras, and another outfit, are
enough for the three rules.
"""

from dataclasses import dataclass

import numpy as np

from datasets.format.index import SplitIndex
from datasets.protocols.protocols import Labels, Protocol, Rule, labels, valid_queries

DRAWS = 10


@dataclass(frozen=True)
class QueryGalleryDivision:
    """A division of N rows of P persons.

    is_query: bool [N], whether a row is a query, else gallery. is_able: bool [P], whether a person has a valid query in every
    mode. reasons: why persons are not able, each with bool [P]; a person may have several.
    """

    is_query: np.ndarray
    is_able: np.ndarray
    reasons: dict[str, np.ndarray]


def divide_query_gallery(protocol: Protocol, index: SplitIndex, rng: np.random.Generator) -> QueryGalleryDivision:
    """Divides the images of every person of a split as if that person were held out."""
    num_persons, rules = index.num_persons, {mode.rule: None for mode in protocol.validation().modes}
    everything, units = labels(protocol, index), _units(protocol, index)
    reasons = _unlabelled(protocol, index)
    is_labelled = ~np.any([np.zeros(num_persons, dtype=bool), *reasons.values()], axis=0)
    several = np.bincount(everything.person[units.first_row], minlength=num_persons) > 1
    is_valid = {rule: valid_queries(rule, everything, everything) for rule in rules}  # when all others are gallery
    can = {rule: several & (np.bincount(everything.person, rows, num_persons) > 0) for rule, rows in is_valid.items()}
    for mode in protocol.validation().modes:
        reasons[f"give mode {mode.name!r} ({mode.rule} rule) no valid query"] = is_labelled & ~can[mode.rule]
    pending = ~np.any(list(reasons.values()), axis=0)
    cell, person = _cells(everything.take(units.first_row)), everything.person[units.first_row]
    good = np.all(list(is_valid.values()), axis=0)[units.first_row]
    is_query_unit = np.zeros(len(cell), dtype=bool)
    for draw, of_unit in [(_one_of_each, cell)] * DRAWS + [(_one_alone, good)]:
        still = np.flatnonzero(pending[person])
        is_query_unit[still] = draw(of_unit[still], person[still], rng)
        pending &= ~_served(everything, is_query_unit[units.of_row], pending, list(rules))
    is_query = is_query_unit[units.of_row]
    return QueryGalleryDivision(is_query, ~pending & ~np.any(list(reasons.values()), axis=0), reasons)


def _unlabelled(protocol: Protocol, index: SplitIndex) -> dict[str, np.ndarray]:
    """Persons that the protocol's check would refuse for a missing or ambiguous label, by the reason."""
    lacking: dict[str, np.ndarray] = {}
    if any(mode.rule != "general" for mode in protocol.validation().modes):
        lacking["have images without a clothes label"] = index.clothes < 0
    if protocol.camera is not None and protocol.name != "general":
        column = index.camera if protocol.camera == "camera" else index.sequence
        lacking[f"have images without a {protocol.camera}"] = column < 0
    if protocol.sample == "tracklet":
        lacking["have images without a sequence"] = index.sequence < 0
        lacking["have images without a frame"] = np.array([frame is None for frame in index.frames()], dtype=bool)
        kinds = np.unique(np.stack([index.sequence, index.person, index.clothes, index.camera]), axis=1)[0]
        mixed = kinds[1:][kinds[1:] == kinds[:-1]]
        lacking["have a sequence of several persons, outfits or cameras"] = np.isin(index.sequence, mixed[mixed >= 0])
    return {reason: np.bincount(index.person, rows, index.num_persons) > 0 for reason, rows in lacking.items()}


@dataclass(frozen=True)
class _Units:
    """The U units that a protocol ranks, images or tracklets. of_row: int64 [N], each row's. first_row: int64 [U]."""

    of_row: np.ndarray
    first_row: np.ndarray


def _units(protocol: Protocol, index: SplitIndex) -> _Units:
    if protocol.sample == "image":
        return _Units(np.arange(len(index)), np.arange(len(index)))
    tracklet = np.stack([index.person, index.clothes, index.sequence])
    begins = np.ones(len(index), dtype=bool)
    begins[1:] = (tracklet[:, 1:] != tracklet[:, :-1]).any(axis=0)
    return _Units(np.cumsum(begins) - 1, np.flatnonzero(begins))


def _cells(of_unit: Labels) -> np.ndarray:
    """int64 [U]: equal where person, outfit and camera are equal."""
    cell = of_unit.person
    for column in (of_unit.clothes, of_unit.camera):
        cell = np.unique(cell * (column.max(initial=0) + 2) + column + 1, return_inverse=True)[1]
    return cell


def _one_of_each(cell: np.ndarray, person: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """bool [U]: the queries; one unit of each cell, and every second of a person's single units."""
    chance = rng.random(len(cell))
    is_query = np.zeros(len(cell), dtype=bool)
    order = np.lexsort((chance, cell))
    firsts = order[np.diff(cell[order], prepend=-1) != 0]
    is_single = np.bincount(cell)[cell] == 1 if len(cell) else is_query
    is_query[firsts[~is_single[firsts]]] = True
    singles = np.flatnonzero(is_single)
    singles = singles[np.lexsort((chance[singles], person[singles]))]
    is_query[singles[_number_within(person[singles]) % 2 == 1]] = True
    return is_query


def _one_alone(good: np.ndarray, person: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """bool [U]: the queries; one of each person's good units."""
    is_query = np.zeros(len(good), dtype=bool)
    chosen = np.flatnonzero(good)
    chosen = chosen[np.lexsort((rng.random(len(chosen)), person[chosen]))]
    is_query[chosen[_number_within(person[chosen]) == 0]] = True
    return is_query


def _served(everything: Labels, is_query: np.ndarray, persons: np.ndarray, rules: list[Rule]) -> np.ndarray:
    """bool [P]: which of the `persons` (bool [P]) have a valid query by every rule."""
    among = persons[everything.person]
    query, gallery = (everything.take(np.flatnonzero(among & side)) for side in (is_query, ~is_query))
    valid = (valid_queries(rule, query, gallery) for rule in rules)
    return np.all([np.bincount(query.person, one, len(persons)) > 0 for one in valid], axis=0)


def _number_within(grouped: np.ndarray) -> np.ndarray:
    """int64: each entry's position in its run of equal entries, from 0."""
    begins = np.flatnonzero(np.diff(grouped, prepend=grouped[:1] - 1))
    return np.arange(len(grouped)) - np.repeat(begins, np.diff(begins, append=len(grouped)))
