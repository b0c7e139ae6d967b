"""Which samples form a batch: P people × K images, in the two published forms.

Both first cut every person's shuffled images into chunks of K (reference code of CAL, BoT, SPS, CLIP-ReID, torchreid):
a person with fewer than K images gives one chunk drawn with replacement, else the remainder n mod K is left out this
epoch. They differ in how chunks meet:

distinct   every batch takes P persons at random among those with chunks left, one chunk each (BoT = SPS = CLIP-ReID).
           A batch never shows a person twice. What is left when fewer than P persons have chunks is lost: the tail of
           the people with many images.
chunks     all chunks are shuffled together (CAL). A batch may show a person twice; only the last, partial batch is lost.

In expectation over epochs every image of a person is drawn equally often.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from datasets.errors import DataError


@dataclass(frozen=True)
class Chunks:
    """Everybody's images in pieces of K. rows: int64 [C, K]; those of person i are first[i] … first[i + 1] - 1."""

    rows: np.ndarray
    first: np.ndarray


def cut(person: np.ndarray, images: int, rng: np.random.Generator) -> Chunks:
    """Each person's images in random order, in chunks of `images`. person: int [N], classes from 0.

    Raises: DataError when `images` is less than 1.
    """
    if images < 1:
        raise DataError(f"{images} images of each person are no batch; batch.images must be at least 1")
    shuffled = rng.permutation(len(person))
    # stable, so that the same seed gives the same order whatever sorting network the processor is given
    order = shuffled[np.argsort(person[shuffled], kind="stable")]
    counts = np.bincount(person)
    num_chunks = np.where(counts < images, np.minimum(counts, 1), counts // images)
    first = _starts(num_chunks)
    owner = np.repeat(np.arange(len(counts)), num_chunks)
    place_in_person = (np.arange(first[-1]) - first[owner]) * images
    begin = _starts(counts)[owner]
    places = (begin + place_in_person)[:, None] + np.arange(images)
    few = np.flatnonzero(counts[owner] < images)
    places[few] = begin[few, None] + rng.integers(0, counts[owner[few], None], (len(few), images))
    return Chunks(order[places], first)


class Pool(Protocol):
    """The chunks that may be drawn now; more come in as row groups do."""

    def admit(self, persons: Sequence[int]) -> None: ...

    def holds(self, people: int) -> bool:
        """True when a draw of `people` chunks is possible."""
        ...

    def draw(self, people: int) -> list[int]:
        """`people` chunks at random by the sampler's rule; they leave the pool."""
        ...


class DistinctPool:
    """Persons with chunks left, drawn without replacement within a draw."""

    def __init__(self, first: np.ndarray, rng: np.random.Generator) -> None:
        self._next: list[int] = first[:-1].tolist()
        self._end: list[int] = first[1:].tolist()
        self._persons: list[int] = []
        self._uniform = _uniform(rng)

    def admit(self, persons: Sequence[int]) -> None:
        self._persons += [who for who in persons if self._next[who] < self._end[who]]

    def holds(self, people: int) -> bool:
        return len(self._persons) >= people

    def draw(self, people: int) -> list[int]:
        persons, chunks = self._persons, []
        for i in range(people):  # Fisher-Yates, as far as needed
            j = i + int(next(self._uniform) * (len(persons) - i))
            persons[i], persons[j] = persons[j], persons[i]
        for i in reversed(range(people)):  # from behind: what takes a leaver's place was looked at already
            who = persons[i]
            chunks.append(self._next[who])
            self._next[who] += 1
            if self._next[who] == self._end[who]:
                last = persons.pop()
                if i < len(persons):
                    persons[i] = last
        return chunks


class ChunkPool:
    """Chunks, whoever is on them."""

    def __init__(self, first: np.ndarray, rng: np.random.Generator) -> None:
        self._first: list[int] = first.tolist()
        self._chunks: list[int] = []
        self._uniform = _uniform(rng)

    def admit(self, persons: Sequence[int]) -> None:
        for who in persons:
            self._chunks += range(self._first[who], self._first[who + 1])

    def holds(self, people: int) -> bool:
        return len(self._chunks) >= people

    def draw(self, people: int) -> list[int]:
        chunks, drawn = self._chunks, []
        for _ in range(people):
            j = int(next(self._uniform) * len(chunks))
            chunks[j], chunks[-1] = chunks[-1], chunks[j]
            drawn.append(chunks.pop())
        return drawn


def distinct(person: np.ndarray, people: int, images: int, rng: np.random.Generator) -> np.ndarray:
    """An epoch of batches of `people` different persons, `images` rows each: int64 [batches, people × images].

    person: int [N], each row's person, classes from 0. Rows of one person stand together.
    Raises: DataError when there are fewer persons than `people`.
    """
    pieces = cut(person, images, rng)
    check("distinct", pieces, people, images)
    pool = DistinctPool(pieces.first, rng)
    pool.admit(range(len(pieces.first) - 1))
    drawn: list[int] = []
    while pool.holds(people):
        drawn += pool.draw(people)
    return pieces.rows[drawn].reshape(-1, people * images)


def chunks(person: np.ndarray, people: int, images: int, rng: np.random.Generator) -> np.ndarray:
    """An epoch of batches of `people` chunks, all shuffled together: int64 [batches, people × images].

    person: int [N], each row's person, classes from 0. Rows of one chunk stand together.
    Raises: DataError when there are fewer chunks than `people`.
    """
    pieces = cut(person, images, rng)
    check("chunks", pieces, people, images)
    order = rng.permutation(len(pieces.rows))
    whole = len(order) - len(order) % people
    return pieces.rows[order[:whole]].reshape(-1, people * images)


SAMPLERS: dict[str, Callable[[np.ndarray, int, int, np.random.Generator], np.ndarray]] = {
    "distinct": distinct,
    "chunks": chunks,
}
POOLS: dict[str, Callable[[np.ndarray, np.random.Generator], Pool]] = {"distinct": DistinctPool, "chunks": ChunkPool}


def check(sampler: str, pieces: Chunks, people: int, images: int) -> None:
    """Raises: DataError when the sampler cannot fill one batch of `people` × `images` from these chunks."""
    identities = int(np.count_nonzero(np.diff(pieces.first)))
    available = identities if sampler == "distinct" else len(pieces.rows)
    if people <= available:
        return
    counted = f"{identities} identities" + ("" if sampler == "distinct" else f" in {available} chunks of {images}")
    raise DataError(
        f"a batch of {people} people × {images} images ({sampler}) is larger than the data, which has {counted}; "
        f"set batch.people to at most {available}, or train on more people"
    )


def _starts(counts: np.ndarray) -> np.ndarray:
    """int64 [n + 1]: where each run begins, and the end."""
    return np.concatenate([[0], np.cumsum(counts)])


def _uniform(rng: np.random.Generator) -> Iterator[float]:
    """Numbers in [0, 1), one by one at the price of a vector."""
    while True:
        yield from rng.random(1024).tolist()
