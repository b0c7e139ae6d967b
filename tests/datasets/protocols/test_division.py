"""Query and gallery of held-out people: every mode has a question about each of them, or no division would give it one."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.format.index import SplitIndex
from datasets.protocols.division import QueryGalleryDivision, divide_query_gallery
from datasets.protocols.protocols import PROTOCOLS, Protocol

NAMES = ("ltcc", "prcc", "vcclothes", "ccvid", "deepchange", "last", "market1501", "general")
CAMERAS = ("session1/1", "session2/1", "session1/2", "session3/1")  # the first two are one to CCVID


class Row(NamedTuple):
    person: int
    clothes: int  # of the person; -1 unknown
    camera: int  # into CAMERAS; -1 unknown
    sequence: int  # -1 unknown


def index_of(rows: list[Row] | np.ndarray) -> SplitIndex:
    """Stored as a data set stores them: by person, clothes, sequence."""
    person, clothes, camera, sequence = np.asarray(rows).T
    worn = np.where(clothes < 0, -1, person * 10 + clothes)
    names = np.unique(worn[worn >= 0]).tolist()
    frames = [str(number) for number in range(len(rows))]
    return SplitIndex(
        "train", person, np.where(worn < 0, -1, np.searchsorted(names, worn)), camera, sequence,
        np.zeros(len(rows), dtype=np.int64), np.arange(len(rows)), [str(p) for p in range(person.max() + 1)],
        [(str(name // 10), str(name % 10)) for name in names], list(CAMERAS), [], (), False,
        lambda split, column: _Texts(frames),
    )  # fmt: skip


class _Texts(list):
    def to_pylist(self) -> list:
        return list(self)


@st.composite
def people(draw: st.DrawFn, protocol: str) -> list[Row]:
    """A few people of few images; as a protocol's data have them, now and then without a label."""
    unknown = draw(st.booleans())
    rows: list[Row] = []
    lowest = -1 if unknown else 0
    for person in range(draw(st.integers(1, 5))):
        for unit in range(draw(st.integers(1, 6))):
            clothes, camera = draw(st.integers(lowest, 2)), draw(st.integers(lowest, 3))
            if protocol == "last":
                camera = -1
            is_video = PROTOCOLS[protocol].sample == "tracklet"
            sequence = 100 * person + (unit if is_video else draw(st.integers(lowest, 2)))
            sequence = -1 if unknown and draw(st.integers(0, 9)) == 0 else sequence
            rows += [Row(person, clothes, camera, sequence)] * (draw(st.integers(1, 2)) if is_video else 1)
    return sorted(rows, key=lambda row: (row.person, row.clothes, row.sequence))


def is_match(protocol: Protocol, rule: str, query: Row, entry: Row) -> bool:
    """By the words of the rules."""
    if query.person != entry.person:
        return False
    if protocol.camera is not None:
        ours, theirs = (row.camera if protocol.camera == "camera" else row.sequence for row in (query, entry))
        if protocol.name == "ccvid":
            ours, theirs = (0 if camera == 1 else camera for camera in (ours, theirs))
        if ours == theirs >= 0:
            return False
    same_clothes = query.clothes == entry.clothes >= 0
    return rule == "general" or same_clothes == (rule == "same-clothes")


def serves(protocol: Protocol, rows: list[Row], asks: list[bool]) -> bool:
    """Every mode has a query with a match."""
    query = [row for row, is_query in zip(rows, asks, strict=True) if is_query]
    gallery = [row for row, is_query in zip(rows, asks, strict=True) if not is_query]
    return all(
        any(is_match(protocol, mode.rule, q, g) for q in query for g in gallery) for mode in protocol.validation().modes
    )


def units(protocol: Protocol, rows: list[Row]) -> list[int]:
    if protocol.sample == "image":
        return list(range(len(rows)))
    return [sorted(set(rows)).index(row) for row in rows]


def lacks_labels(protocol: Protocol, rows: list[Row]) -> bool:
    if protocol.name in ("general", "last"):
        return False
    column = {"camera": 2, "sequence": 3, None: 2}[protocol.camera]
    needs_clothes = any(mode.rule != "general" for mode in protocol.validation().modes)
    is_video = protocol.sample == "tracklet"
    return any(
        (row[column] < 0) or (needs_clothes and row.clothes < 0) or (is_video and row.sequence < 0) for row in rows
    )


@settings(max_examples=250)
@given(st.sampled_from(NAMES).flatmap(lambda name: st.tuples(st.just(name), people(name))), st.integers(0, 99))
def test_people_are_able_exactly_when_some_division_serves_every_mode(given_: tuple[str, list[Row]], seed: int) -> None:
    name, rows = given_
    protocol = PROTOCOLS[name]
    found = divide_query_gallery(protocol, index_of(rows), np.random.default_rng(seed))
    for person in range(len(found.is_able)):
        at = [number for number, row in enumerate(rows) if row.person == person]
        mine = [rows[number] for number in at]
        asks = found.is_query[at].tolist()
        of = units(protocol, mine)
        assert len({*zip(of, asks, strict=True)}) == len(set(of)), "a tracklet is cut in two"
        if found.is_able[person]:
            assert serves(protocol, mine, asks)
            assert not lacks_labels(protocol, mine)
        elif not lacks_labels(protocol, mine):
            every = product([False, True], repeat=max(of) + 1)
            assert not any(serves(protocol, mine, [chosen[unit] for unit in of]) for chosen in every)


@settings(max_examples=50)
@given(st.sampled_from(NAMES).flatmap(lambda name: st.tuples(st.just(name), people(name))))
def test_whoever_is_not_able_has_a_reason(given_: tuple[str, list[Row]]) -> None:
    name, rows = given_
    found = divide_query_gallery(PROTOCOLS[name], index_of(rows), np.random.default_rng(0))
    assert (np.any(list(found.reasons.values()), axis=0) == ~found.is_able).all()


def division(protocol: str, *rows: Row, seed: int = 0) -> QueryGalleryDivision:
    return divide_query_gallery(PROTOCOLS[protocol], index_of(list(rows)), np.random.default_rng(seed))


@pytest.mark.parametrize("seed", range(5))
def test_of_each_outfit_and_camera_one_asks_and_of_single_ones_every_second(seed: int) -> None:
    many = [Row(0, clothes, camera, 0) for clothes in (0, 1) for camera in (0, 2) for _ in range(3)]
    single = [Row(1, clothes, camera, 0) for clothes in (0, 1) for camera in (0, 2, 3)]
    found = division("ltcc", *many, *single, seed=seed)
    assert found.is_able.all()
    assert found.is_query[:12].reshape(4, 3).sum(1).tolist() == [1, 1, 1, 1]
    assert found.is_query[12:].sum() == 3


def test_reasons_tell_modes_from_missing_labels() -> None:
    one_outfit = [Row(0, 0, camera, 0) for camera in (0, 0, 2, 2)]
    one_camera = [Row(1, clothes, 0, 0) for clothes in (0, 0, 1, 1)]
    no_label = [Row(2, -1, 0, 0), Row(2, 0, 2, 0)]
    found = division("ltcc", *one_outfit, *one_camera, *no_label)
    assert not found.is_able.any()
    assert {reason: who.tolist() for reason, who in found.reasons.items() if who.any()} == {
        "have images without a clothes label": [False, False, True],
        "give mode 'general' (general rule) no valid query": [False, True, False],
        "give mode 'same-clothes' (same-clothes rule) no valid query": [False, True, False],
        "give mode 'clothes-changing' (clothes-changing rule) no valid query": [True, True, False],
    }


def test_many_people_are_divided_at_once() -> None:
    rng = np.random.default_rng(0)
    person = np.sort(rng.integers(0, 10_000, 200_000))
    labels = np.stack([person, rng.integers(0, 3, len(person)), rng.integers(0, 4, len(person)), person])
    order = np.lexsort(labels[::-1])
    found = divide_query_gallery(PROTOCOLS["ltcc"], index_of(labels.T[order]), rng)
    assert found.is_able.mean() > 0.99
