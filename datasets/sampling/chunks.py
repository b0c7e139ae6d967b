"""Each person's samples in chunks of K, from which samplers compose batches of P × K."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from datasets.errors import DataError


@dataclass(frozen=True)
class Chunks:
    """C chunks of K samples. rows: int32 [C, K], samples (int64 from 2³¹ on). first: int64 [persons + 1].

    Person i has the chunks first[i] … first[i + 1] - 1.
    """

    rows: np.ndarray
    first: np.ndarray


def cut(person: np.ndarray, images: int, rng: np.random.Generator) -> Chunks:
    """Each person's samples in random order, in chunks of `images`. person: int [N], classes from 0.

    A person with fewer has one chunk, drawn with replacement; otherwise the remainder is left out.
    Raises: DataError when `images` is less than 1.
    """
    order = grouped(person, rng)
    counts = np.bincount(person)
    first = starts(num_chunks(counts, images))
    owner = np.repeat(np.arange(len(counts)), np.diff(first))
    place_in_person = (np.arange(first[-1]) - first[owner]) * images
    begin = starts(counts)[owner]
    places = (begin + place_in_person)[:, None] + np.arange(images)
    few = np.flatnonzero(counts[owner] < images)
    places[few] = begin[few, None] + rng.integers(0, counts[owner[few], None], (len(few), images))
    return Chunks(order[places], first)


def num_chunks(counts: np.ndarray, images: int) -> np.ndarray:
    """The number of chunks of each person: int64 [persons]. counts: int64 [persons], the number of samples.

    Raises: DataError when `images` is less than 1.
    """
    if images < 1:
        raise DataError(f"{images} images of each person are no batch; set batch.images to at least 1")
    return np.where(counts < images, np.minimum(counts, 1), counts // images)


def grouped(classes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The samples sorted by class, in random order within each: int32 [N] (int64 from 2³¹ on)."""
    shuffled = rng.permutation(len(classes))
    # stable, so that the same seed gives the same order whatever sorting network the processor has
    order = np.argsort(classes[shuffled], kind="stable")
    return shuffled.astype(np.int32 if len(classes) < 2**31 else np.int64)[order]


def starts(counts: np.ndarray) -> np.ndarray:
    """int64 [n + 1]: where each run of these lengths begins, and the end."""
    return np.concatenate([[0], np.cumsum(counts)])
