"""Two scores that need no network: how far mean colours alone go. They keep a benchmark honest.

Nearest neighbour on the clothes' colours must find the same outfit and not the changed one; on the colours of skin and
hair it must not find the person, else a network could pass without learning a body.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datasets.format.index import SplitIndex
from datasets.images.label_maps import LabelMap

Floats = NDArray[np.float64]
SKIN = frozenset({"face", "left arm", "right arm", "left leg", "right leg"})


@dataclass(frozen=True)
class Score:
    """rank1: fraction of valid queries whose nearest is a positive. random: mean share of positives, what chance gives."""

    rank1: float
    random: float
    num_valid: int


def clothes_colour(image: NDArray[np.uint8], parsing: NDArray[np.uint8], labels: LabelMap) -> Floats:
    """Mean colour of top and bottom, float64 [6]; nan where nothing is seen.

    image [H, W, 3], parsing [H, W]. One garment over the whole body counts as both: its upper and lower half.
    """
    parts = np.asarray(labels.part_table())[parsing]
    garment = np.asarray(labels.clothing_table())[parsing]
    top, bottom = garment & (parts == 2), garment & (parts == 3)
    if top.any() and not bottom.any():
        rows = np.flatnonzero(top.any(1))
        half = np.arange(len(top))[:, None] > (rows[0] + rows[-1]) / 2
        top, bottom = top & ~half, top & half
    return np.concatenate([_mean(image, top), _mean(image, bottom)])


def skin_colour(image: NDArray[np.uint8], parsing: NDArray[np.uint8], labels: LabelMap) -> Floats:
    """Mean colour of skin and hair, float64 [6]; nan where nothing is seen. Shapes as in `clothes_colour`."""
    skin = np.isin(parsing, [number for number, name in enumerate(labels.labels) if name in SKIN])
    hair = np.isin(parsing, [number for number, name in enumerate(labels.labels) if name == "hair"])
    return np.concatenate([_mean(image, skin), _mean(image, hair if hair.any() else skin)])


def tells_skin(labels: LabelMap) -> bool:
    """Whether a label map has skin and hair at all."""
    return "hair" in labels.labels and set(labels.labels) >= SKIN


def _mean(image: NDArray[np.uint8], where: NDArray[np.bool_]) -> Floats:
    return image[where].mean(0) if where.any() else np.full(3, np.nan)


def stack(rows: Iterable[Floats]) -> Floats:
    """[N, 6], what was not seen replaced by the mean of the others."""
    table = np.stack(list(rows))
    seen = ~np.isnan(table)
    means = np.where(seen, table, 0).sum(0) / np.maximum(seen.sum(0), 1)
    return np.where(seen, table, means)


def rank1(
    query: Floats, gallery: Floats, asked: SplitIndex, shown: SplitIndex, rule: str, camera: str | None
) -> Score | None:
    """Nearest neighbour by Euclidean distance under a protocol's rule; None without any valid query.

    query [Q, D], gallery [G, D]. camera: which column says that two images come from one camera, None for no such rule.
    """
    right = valid = 0
    chance = 0.0
    for number, row in enumerate(query):
        same = shown.person == asked.person[number]
        keep = np.ones(len(same), bool)
        if camera is not None:
            seen_by, place = getattr(shown, camera), getattr(asked, camera)[number]
            keep &= ~(same & (seen_by == place) & (place >= 0))
        if rule != "general":
            alike = (shown.clothes == asked.clothes[number]) & (asked.clothes[number] >= 0)
            keep &= ~same | (alike if rule == "same-clothes" else ~alike)
        positives = same & keep
        if not positives.any():
            continue
        distance = np.where(keep, ((gallery - row) ** 2).sum(1), np.inf)
        right += int(positives[int(distance.argmin())])
        valid += 1
        chance += float(positives.sum() / keep.sum())
    return Score(right / valid, chance / valid, valid) if valid else None
