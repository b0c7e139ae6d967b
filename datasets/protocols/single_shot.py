"""Single-shot galleries: one image of each person, drawn several times; metrics are means over the draws.

PRCC's authors evaluate so (Yang et al., PAMI 2019): one image per person at random, ten times. Seed and manner of drawing
are those of CAL's published code, over a sorted listing; its own listing is unsorted, so its draws differ by machine.
"""

import random
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import numpy as np

from datasets.format.index import SplitIndex

SEED, DRAWS = 3, 10
RECORD = "single_shot_galleries"  # in the manifest's extra: lists of keys


def draw(persons: Iterable[Hashable], draws: int = DRAWS) -> list[list[int]]:
    """Places of the images drawn. persons: of a listing's images, in its order, which is the order of the persons too."""
    places: dict[Hashable, list[int]] = {}
    for place, person in enumerate(persons):
        places.setdefault(person, []).append(place)
    rng = random.Random(SEED)
    return [[rng.choice(of_person) for of_person in places.values()] for _ in range(draws)]


def galleries(index: SplitIndex, rows: np.ndarray, draws: int, extra: Mapping[str, Any]) -> list[np.ndarray]:
    """Out of a gallery's `rows` (int64, ascending), the rows of each draw (int64, ascending).

    The draws that the manifest's `extra` records are taken where the gallery has all their images, else others are made
    (a data set of another layout; a drawn image that was set aside).
    """
    recorded = extra.get(RECORD) if index.split == "gallery" else None
    if recorded:
        row_of = dict(zip(index.keys(rows), rows.tolist(), strict=True))
        if all(key in row_of for keys in recorded for key in keys):
            return [np.sort(np.array([row_of[key] for key in keys])) for keys in recorded]
    return [np.sort(rows[places]) for places in draw(index.person[rows].tolist(), draws)]
