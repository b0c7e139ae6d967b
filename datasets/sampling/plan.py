"""Which rows each batch of an epoch contains: a pure function of the index, the sampler and the seed.

A sample is a row, or for clips (`clips.Pieces`) a piece of a tracklet, whose frames the plan draws.

A global batch is `lanes` equal blocks. With window="all" it comes from the papers' sampler over the whole index and is
only cut into blocks. Otherwise rows are read as a stream. The row groups are dealt to lanes, again in each epoch, all of a
person's to the same lane. Each lane keeps `window` row groups open, draws its people / lanes persons from those, closes a
group when its last image is drawn and opens the next in shuffled order. A worker owns a contiguous block of lanes, so every
row group is read by one worker, and the global batches do not depend on the number of workers.

The cost of a window: a person shares batches only with persons of the groups that are open at the same time, so a batch is
as mixed as window × lanes row groups are. The epoch ends with the first lane that cannot fill its block. Lanes are balanced
to within one unit (row groups that share a person), so with U units and L lanes about L / U of an epoch may be lost, a
different part each time (`Plan.never_drawn` counts it). Where a few persons have most of the images, `distinct` draws
them last (as the papers' sampler does at the end of an epoch), and a lane opens groups beyond `window` until it has
enough persons; the stream then needs more cache or reads row groups again.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from datasets.errors import DataError
from datasets.format.index import SplitIndex
from datasets.sampling.chunks import Chunks
from datasets.sampling.clips import Pieces
from datasets.sampling.samplers import SAMPLERS, BatchShape, Labels, Pool


@dataclass(frozen=True)
class Plan:
    """The batches of an epoch.

    rows: int32 or int64 [num_batches, people × images], rows of the index, lane after lane; of clips
    [num_batches, people × images × clip], frame after frame. num_rows: the number of rows of the index. clip: frames of a
    clip, None where samples are images.
    """

    rows: np.ndarray
    people: int
    images: int
    lanes: int
    num_rows: int
    clip: int | None = None

    @property
    def num_batches(self) -> int:
        return len(self.rows)

    def share(self, worker: int = 0, workers: int = 1) -> np.ndarray:
        """The rows that a worker reads: [num_batches, people × images / workers (× clip)], a contiguous block of lanes.

        Raises: DataError when the workers cannot share the lanes.
        """
        if workers < 1 or self.lanes % workers:
            raise DataError(
                f"{workers} workers cannot share batch.lanes={self.lanes} equally; set workers to one of "
                f"{_listed(_divisors(self.lanes))}, or batch.lanes to a multiple of {workers} that divides "
                f"batch.people={self.people}"
            )
        if not 0 <= worker < workers:
            raise DataError(f"there is no worker {worker} of {workers}; expected 0 … {workers - 1}")
        width = self.rows.shape[1] // workers
        return self.rows[:, worker * width : (worker + 1) * width]

    def never_drawn(self) -> int:
        """The number of rows that this epoch leaves out: the remainders of persons' images below K, and the tail."""
        is_drawn = np.zeros(self.num_rows, dtype=np.bool_)
        is_drawn[self.rows.ravel()] = True
        return int(self.num_rows - is_drawn.sum())


def plan_epoch(
    index: SplitIndex,
    fingerprint: str,
    *,
    sampler: str,
    people: int,
    images: int,
    window: int | Literal["all"],
    lanes: int,
    seed: int,
    epoch: int,
    appearances: int | None = None,
    pieces: Pieces | None = None,
) -> Plan:
    """The batches of an epoch, the same on any machine and for any number of workers.

    fingerprint: hex digest of the data set. sampler: a name of SAMPLERS. people, images: P and K of the global batch.
    window: row groups open per lane, or "all" for the papers' sampler over everything. lanes: equal blocks of the batch.
    appearances: outfits of each person in a batch, where the sampler uses them. pieces: the index's, where a sample is a
    clip.
    Raises: DataError where these cannot give a batch; the message names the numbers and what is possible.
    """
    if sampler not in SAMPLERS:
        raise DataError(f"there is no sampler {sampler!r}; there are {', '.join(SAMPLERS)}")
    if people < 1:
        raise DataError(f"a batch of {people} people is empty; set batch.people to at least 1")
    if lanes < 1 or people % lanes:
        raise DataError(
            f"batch.lanes={lanes} cannot share batch.people={people} equally; "
            f"set batch.lanes to one of {_listed(_divisors(people))}, or batch.people to a multiple of {lanes}"
        )
    if window != "all" and window < 1:
        raise DataError(f'batch.window={window} is too small; set it to at least 1, or "all"')
    labels = Labels(index.person, index.clothes) if pieces is None else Labels(pieces.person, pieces.clothes)
    entropy = [int(fingerprint, 16), seed, epoch]
    rng = np.random.default_rng(entropy)
    chunks = SAMPLERS[sampler].chunks(labels, BatchShape(people, images, appearances), rng)
    if window == "all":
        drawn = SAMPLERS[sampler].batches(chunks, people, rng)
    else:
        units = find_units(index.person, index.group, len(index.groups))
        in_lanes = []
        for lane, dealt in enumerate(deal(units, np.diff(chunks.first), lanes, rng)):
            pool = SAMPLERS[sampler].pool(chunks.first, np.random.default_rng([*entropy, lane]))
            in_lanes.append(_draw_lane(dealt, units, chunks, pool, window, people // lanes))
        _check_lanes(in_lanes, units, index, people, lanes, window)
        num_batches = min(map(len, in_lanes))
        drawn = np.concatenate([lane[:num_batches] for lane in in_lanes], axis=1)
    rows = chunks.rows[drawn].reshape(len(drawn), people * images)
    if pieces is not None:
        of_frames = np.random.default_rng(np.random.SeedSequence(entropy, spawn_key=(1,)))
        rows = pieces.draw(rows, of_frames).reshape(len(rows), -1)
    return Plan(rows, people, images, lanes, len(index), None if pieces is None else pieces.length)


def plan_samples(num_rows: int, fingerprint: str, *, samples: int, seed: int, epoch: int) -> Plan:
    """An epoch of batches of `samples` rows at random over the whole split, each row at most once.

    What remains after the last whole batch is left out. Workers share a batch in equal contiguous parts.
    Raises: DataError where the split has fewer rows than a batch.
    """
    if not 1 <= samples <= num_rows:
        raise DataError(f"a batch of {samples} rows is no part of a split of {num_rows}; expected 1 … {num_rows} rows")
    order = np.random.default_rng([int(fingerprint, 16), seed, epoch]).permutation(num_rows)
    rows = order[: num_rows // samples * samples].reshape(-1, samples)
    return Plan(rows, people=samples, images=1, lanes=samples, num_rows=num_rows)


@dataclass(frozen=True)
class Units:
    """U units: row groups that must stay together, because they share a person.

    persons: int64, sorted by unit; unit u has persons[first[u] : first[u + 1]]. groups: int64 [U], the number of row groups.
    """

    persons: np.ndarray
    first: np.ndarray
    groups: np.ndarray

    def __len__(self) -> int:
        return len(self.groups)


def find_units(person: np.ndarray, group: np.ndarray, num_groups: int) -> Units:
    """The units of an index. person, group: int [N], each row's."""
    begins = np.ones(len(person), dtype=np.bool_)
    begins[1:] = (person[1:] != person[:-1]) | (group[1:] != group[:-1])
    pairs = np.unique(person[begins].astype(np.int64) * num_groups + group[begins])
    who, where = np.divmod(pairs, num_groups)
    root = np.arange(num_groups)
    for i in np.flatnonzero(who[1:] == who[:-1]).tolist():
        one, other = sorted((_root(root, where[i]), _root(root, where[i + 1])))
        root[other] = one
    _, unit_of_group = np.unique([_root(root, g) for g in range(num_groups)], return_inverse=True)
    is_first = np.ones(len(who), dtype=np.bool_)
    is_first[1:] = who[1:] != who[:-1]
    persons, unit_of_person = who[is_first], unit_of_group[where[is_first]]
    groups = np.bincount(unit_of_group)
    sizes = np.bincount(unit_of_person, minlength=len(groups))
    order = np.argsort(unit_of_person, kind="stable")
    return Units(persons[order], np.concatenate([[0], np.cumsum(sizes)]), groups)


def deal(units: Units, num_chunks: np.ndarray, lanes: int, rng: np.random.Generator) -> list[list[int]]:
    """Each lane's units in the order in which they open, balanced by chunks. num_chunks: int [persons]."""
    totals = np.cumsum(np.concatenate([[0], num_chunks[units.persons]]))
    sizes = np.diff(totals[units.first])
    order = rng.permutation(len(units))
    # larger units first, so that smaller ones balance the lanes; in random order within a factor of two
    order = order[np.argsort(-np.floor(np.log2(np.maximum(sizes[order], 1))), kind="stable")]
    heap = [(0, lane) for lane in rng.permutation(lanes).tolist()]
    heapq.heapify(heap)
    dealt: list[list[int]] = [[] for _ in range(lanes)]
    for unit, size in zip(order.tolist(), sizes[order].tolist(), strict=True):
        load, lane = heapq.heappop(heap)
        dealt[lane].append(unit)
        heapq.heappush(heap, (load + size, lane))
    return [rng.permutation(np.array(lane, dtype=np.int64)).tolist() for lane in dealt]


def _draw_lane(dealt: list[int], units: Units, chunks: Chunks, pool: Pool, window: int, people: int) -> np.ndarray:
    """The chunks that a lane draws: int64 [num_batches, people]."""
    persons = [units.persons[units.first[unit] : units.first[unit + 1]].tolist() for unit in dealt]
    left = [sum(int(chunks.first[who + 1] - chunks.first[who]) for who in unit) for unit in persons]
    groups = units.groups[dealt].tolist()
    place = np.full(len(chunks.rows), -1, dtype=np.int64)  # of a chunk's unit in `dealt`
    for at, unit in enumerate(persons):
        for who in unit:
            place[chunks.first[who] : chunks.first[who + 1]] = at
    drawn: list[list[int]] = []
    waiting: Iterator[int] = iter(range(len(dealt)))
    coming = next(waiting, None)
    num_open = 0
    while True:
        while coming is not None and (
            num_open + groups[coming] <= max(window, groups[coming]) or not pool.holds(people)
        ):
            pool.admit(persons[coming])
            num_open += groups[coming]
            coming = next(waiting, None)
        if not pool.holds(people):
            return np.array(drawn, dtype=np.int64).reshape(-1, people)
        drawn.append(pool.draw(people))
        for chunk in drawn[-1]:
            at = place[chunk]
            left[at] -= 1
            if left[at] == 0:
                num_open -= groups[at]


def _check_lanes(
    drawn: list[np.ndarray], units: Units, index: SplitIndex, people: int, lanes: int, window: int | str
) -> None:
    if min(map(len, drawn)) == 0:
        raise DataError(
            f"batch.window={window} with batch.lanes={lanes} needs {people // lanes} persons in every lane, but the "
            f"{len(index.groups)} row groups of {index.split!r} form only {len(units)} units of whole persons; "
            f"set batch.window=all or fewer lanes (one of {_listed(_divisors(lanes)[:-1] or [1])}), "
            "or write the data set with smaller row groups"
        )


def _root(root: np.ndarray, at: int) -> int:
    while root[at] != at:
        root[at] = root[root[at]]
        at = root[at]
    return int(at)


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))
