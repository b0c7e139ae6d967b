"""Single-shot galleries: one random image of each person, in several draws; metrics are means over the draws.

This is the evaluation of PRCC's authors (Yang et al., PAMI 2019), with ten draws. Seed and method of drawing
are those of CAL's published code, over a sorted listing. Its own listing is unsorted, so its draws differ by machine.
"""

import random
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import numpy as np

from datasets.format.index import SplitIndex

SEED, DRAWS = 3, 10
RECORD = "single_shot_galleries"  # in the manifest's extra: lists of keys


def draw(persons: Iterable[Hashable], draws: int = DRAWS) -> list[list[int]]:
    """The positions of the drawn images, for each draw one per person.

    persons: the person of each image of a listing, in its order; persons are drawn in the order in which they first occur.
    """
    places: dict[Hashable, list[int]] = {}
    for place, person in enumerate(persons):
        places.setdefault(person, []).append(place)
    rng = random.Random(SEED)
    return [[rng.choice(of_person) for of_person in places.values()] for _ in range(draws)]


def galleries(index: SplitIndex, rows: np.ndarray, draws: int, extra: Mapping[str, Any]) -> list[np.ndarray]:
    """The rows (int64, ascending) of each draw, out of a gallery's `rows` (int64, ascending).

    The draws recorded in the manifest's `extra` are used where the gallery has all their images. Otherwise new ones are
    drawn: for a data set of another layout, or where a drawn image was quarantined.
    """
    recorded = extra.get(RECORD) if index.split == "gallery" else None
    if recorded:
        row_of = dict(zip(index.keys(rows), rows.tolist(), strict=True))
        if all(key in row_of for keys in recorded for key in keys):
            return [np.sort(np.array([row_of[key] for key in keys])) for keys in recorded]
    return [np.sort(rows[places]) for places in draw(index.person[rows].tolist(), draws)]
