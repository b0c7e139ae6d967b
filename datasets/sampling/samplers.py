"""Which samples form a batch: P people × K samples, by the two published samplers and IFD's.

All first cut every person's shuffled samples into chunks of K (reference code of CAL, BoT, SPS, CLIP-ReID, torchreid): a
person with fewer than K samples has one chunk, drawn with replacement; otherwise the remainder n mod K is left out in this
epoch. They differ in the content of a chunk and in how chunks form batches:

* `distinct`: every batch takes P random persons of those with chunks left, one chunk each (BoT = SPS = CLIP-ReID).
  A batch never has a person twice. What is left when fewer than P persons have chunks is lost: the tail of
  the persons with many samples.
* `chunks`: all chunks are shuffled together (CAL). A batch may have a person twice; only the last, partial batch is lost.
* `appearance`: the same number of chunks, in batches as by `distinct`, each of A outfits of its person in proportion
  (IFD; `appearances`).

In expectation over epochs every sample of a person is drawn equally often; by `appearance` so it is within an outfit, and over
all outfits with the exception documented in `appearances`. A sample is an image, or a piece of a tracklet (`clips`).
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
    """The labels of N samples. person, clothes: int [N], classes from 0; clothes is -1 where unknown."""

    person: np.ndarray
    clothes: np.ndarray


@dataclass(frozen=True)
class BatchShape:
    """The shape of a global batch: people × images. appearances: outfits of each person, where the sampler uses them."""

    people: int
    images: int
    appearances: int | None = None


class Pool(Protocol):
    """The chunks that can be drawn now; opening a row group admits more."""

    def admit(self, persons: Sequence[int]) -> None: ...

    def holds(self, people: int) -> bool:
        """Whether `people` chunks can be drawn."""
        ...

    def draw(self, people: int) -> list[int]:
        """Draws `people` random chunks by the sampler's rule; they leave the pool."""
        ...


class DistinctPool:
    """Draws persons with chunks left, without replacement within a draw."""

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
        for i in range(people):  # Fisher-Yates, partial
            j = i + int(next(self._uniform) * (len(persons) - i))
            persons[i], persons[j] = persons[j], persons[i]
        for i in reversed(range(people)):  # backwards: whoever replaces a removed person was handled already
            who = persons[i]
            chunks.append(self._next[who])
            self._next[who] += 1
            if self._next[who] == self._end[who]:
                last = persons.pop()
                if i < len(persons):
                    persons[i] = last
        return chunks


class ChunkPool:
    """Draws chunks, whichever persons they show."""

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
    """A sampler. cut: makes all persons' chunks. pool: draws from the available ones. is_distinct: no person twice a batch."""

    cut: Callable[[Labels, BatchShape, np.random.Generator], Chunks]
    pool: Callable[[np.ndarray, np.random.Generator], Pool]
    is_distinct: bool

    def chunks(self, labels: Labels, shape: BatchShape, rng: np.random.Generator) -> Chunks:
        """All persons' chunks of this epoch. Raises: DataError when they cannot fill one batch, or labels are missing."""
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

    def batches(self, chunks: Chunks, people: int, rng: np.random.Generator) -> np.ndarray:
        """The chunks of each batch where all are available, as published: int64 [num_batches, people]."""
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
            f"the sampler by appearance needs batch.appearances: the number of outfits of a person in its {shape.images} "
            "images"
        )
    return cut_by_appearance(labels.person, labels.clothes, shape.images, shape.appearances, rng)


SAMPLERS: dict[str, Sampler] = {
    "distinct": Sampler(_cut_plainly, DistinctPool, is_distinct=True),
    "chunks": Sampler(_cut_plainly, ChunkPool, is_distinct=False),
    "appearance": Sampler(_cut_by_appearance, DistinctPool, is_distinct=True),
}


def _uniform(rng: np.random.Generator) -> Iterator[float]:
    """Uniform numbers in [0, 1), drawn in vectors for speed."""
    while True:
        yield from rng.random(1024).tolist()
