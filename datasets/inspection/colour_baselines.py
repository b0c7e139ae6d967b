"""Colour baselines: the rank-1 of mean colours, without a network. They show whether a benchmark is too easy.

Nearest neighbours by the clothes' colours must find the same outfit and not the changed one. By the colours of skin and
hair they must not find the person, else a network could succeed without learning a body.
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
    """A baseline's score over num_valid queries.

    rank1: the fraction of valid queries whose nearest gallery image is a match. random: the mean share of matches, which is
    the rank-1 of a random ranking.
    """

    rank1: float
    random: float
    num_valid: int


def clothes_colour(image: NDArray[np.uint8], parsing: NDArray[np.uint8], labels: LabelMap) -> Floats:
    """Mean colours of top and bottom, float64 [6]; nan where they are not visible.

    image: uint8 [H, W, 3], RGB. parsing: uint8 [H, W]. A garment over the whole body counts as both: its upper and its lower
    half.
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
    """Mean colours of skin and hair, float64 [6]; nan where they are not visible. Shapes as in `clothes_colour`."""
    skin = np.isin(parsing, [number for number, name in enumerate(labels.labels) if name in SKIN])
    hair = np.isin(parsing, [number for number, name in enumerate(labels.labels) if name == "hair"])
    return np.concatenate([_mean(image, skin), _mean(image, hair if hair.any() else skin)])


def has_skin_labels(labels: LabelMap) -> bool:
    """Whether a label map has labels for skin and hair."""
    return "hair" in labels.labels and set(labels.labels) >= SKIN


def _mean(image: NDArray[np.uint8], where: NDArray[np.bool_]) -> Floats:
    return image[where].mean(0) if where.any() else np.full(3, np.nan)


def stack(rows: Iterable[Floats]) -> Floats:
    """float64 [N, 6]; nan is replaced by the mean of the column."""
    table = np.stack(list(rows))
    is_visible = ~np.isnan(table)
    means = np.where(is_visible, table, 0).sum(0) / np.maximum(is_visible.sum(0), 1)
    return np.where(is_visible, table, means)


def rank1(
    query: Floats, gallery: Floats, query_index: SplitIndex, gallery_index: SplitIndex, rule: str, camera: str | None
) -> Score | None:
    """The score of nearest neighbours by Euclidean distance under a protocol's rule; None without a valid query.

    query: float64 [Q, D]. gallery: float64 [G, D]. camera: the column that the rule compares as camera, None for none.
    """
    right = valid = 0
    chance = 0.0
    for number, row in enumerate(query):
        same = gallery_index.person == query_index.person[number]
        keep = np.ones(len(same), bool)
        if camera is not None:
            seen_by, place = getattr(gallery_index, camera), getattr(query_index, camera)[number]
            keep &= ~(same & (seen_by == place) & (place >= 0))
        if rule != "general":
            alike = (gallery_index.clothes == query_index.clothes[number]) & (query_index.clothes[number] >= 0)
            keep &= ~same | (alike if rule == "same-clothes" else ~alike)
        matches = same & keep
        if not matches.any():
            continue
        distance = np.where(keep, ((gallery - row) ** 2).sum(1), np.inf)
        right += int(matches[int(distance.argmin())])
        valid += 1
        chance += float(matches.sum() / keep.sum())
    return Score(right / valid, chance / valid, valid) if valid else None
