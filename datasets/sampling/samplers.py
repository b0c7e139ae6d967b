"""Which samples form a batch: P people × K samples, in the two published forms and IFD's.

All first cut every person's shuffled samples into chunks of K (reference code of CAL, BoT, SPS, CLIP-ReID, torchreid): a
person with fewer than K samples gives one chunk drawn with replacement, else the remainder n mod K is left out this
epoch. They differ in what a chunk holds and in how chunks meet:

distinct    every batch takes P persons at random among those with chunks left, one chunk each (BoT = SPS = CLIP-ReID).
            A batch never shows a person twice. What is left when fewer than P persons have chunks is lost: the tail of
            the people with many samples.
chunks      all chunks are shuffled together (CAL). A batch may show a person twice; only the last, partial batch is lost.
appearance  as many chunks, meeting as in `distinct`, each of A outfits of its person in proportion (IFD; `appearances`).

In expectation over epochs every sample of a person is drawn equally often; by `appearance` within an outfit, and over
all outfits except as its page says. A sample is an image, or a piece of a tracklet (`clips`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from datasets.errors import DataError
from datasets.sampling.appearances import cut_by_appearance
from datasets.sampling.chunks import Chunks, cut


@dataclass(frozen=True)
class Labels:
    """What is known of the samples that batches are made of: person, clothes int [N], classes from 0; clothes -1 where
    unknown."""

    person: np.ndarray
    clothes: np.ndarray


@dataclass(frozen=True)
class BatchShape:
    """people × images of a global batch; appearances: outfits of each person in it, where the sampler minds them."""

    people: int
    images: int
    appearances: int | None = None


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


@dataclass(frozen=True)
class Sampler:
    """cut: everybody's chunks. pool: how those at hand are drawn. is_distinct: a batch never shows a person twice."""

    cut: Callable[[Labels, BatchShape, np.random.Generator], Chunks]
    pool: Callable[[np.ndarray, np.random.Generator], Pool]
    is_distinct: bool

    def chunks(self, labels: Labels, shape: BatchShape, rng: np.random.Generator) -> Chunks:
        """Everybody's chunks of this epoch. Raises: DataError when they cannot fill one batch, or labels are missing."""
        chunks = self.cut(labels, shape, rng)
        identities = int(np.count_nonzero(np.diff(chunks.first)))
        available = identities if self.is_distinct else len(chunks.rows)
        if shape.people > available:
            counted = f"{identities} identities"
            counted += "" if self.is_distinct else f" in {available} chunks of {shape.images}"
            raise DataError(
                f"a batch of {shape.people} people × {shape.images} images is larger than the data, which has "
                f"{counted}; set batch.people to at most {available}, or train on more people"
            )
        return chunks

    def meet(self, chunks: Chunks, people: int, rng: np.random.Generator) -> np.ndarray:
        """The chunks of each batch where all are at hand, as published: int64 [batches, people]."""
        if not self.is_distinct:
            order = rng.permutation(len(chunks.rows))
            return order[: len(order) - len(order) % people].reshape(-1, people)
        pool = self.pool(chunks.first, rng)
        pool.admit(range(len(chunks.first) - 1))
        drawn: list[int] = []
        while pool.holds(people):
            drawn += pool.draw(people)
        return np.array(drawn, dtype=np.int64).reshape(-1, people)


def _cut_plainly(labels: Labels, shape: BatchShape, rng: np.random.Generator) -> Chunks:
    return cut(labels.person, shape.images, rng)


def _cut_by_appearance(labels: Labels, shape: BatchShape, rng: np.random.Generator) -> Chunks:
    if shape.appearances is None:
        raise DataError(
            f"the sampler by appearance needs batch.appearances: how many outfits of a person its {shape.images} images "
            "show"
        )
    return cut_by_appearance(labels.person, labels.clothes, shape.images, shape.appearances, rng)


SAMPLERS: dict[str, Sampler] = {
    "distinct": Sampler(_cut_plainly, DistinctPool, is_distinct=True),
    "chunks": Sampler(_cut_plainly, ChunkPool, is_distinct=False),
    "appearance": Sampler(_cut_by_appearance, DistinctPool, is_distinct=True),
}


def _uniform(rng: np.random.Generator) -> Iterator[float]:
    """Numbers in [0, 1), one by one at the price of a vector."""
    while True:
        yield from rng.random(1024).tolist()
