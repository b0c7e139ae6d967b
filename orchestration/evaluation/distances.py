"""How far apart the pairs of an evaluation are, by what they share (CCAF, Li et al., ACM MM 2024, Fig. 6), for any method.

A pair's distance is 1 − its cosine similarity, the measure that the ranking sorts by: from 0 to 2. All pairs of queries with
gallery entries count, except those that the ranking leaves out: the query's person in the query's camera.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from datasets.protocols import protocols
from datasets.protocols.protocols import Protocol
from datasets.shards.dataset import SplitIndex
from methods.matches import Labels
from methods.similarity import dot_products
from orchestration.evaluation.embed import Descriptors
from orchestration.evaluation.modes import ranking_input
from orchestration.figures import plt, to_png
from orchestration.measures import DISTANCES

PICTURE = "distances.png"
KINDS = ("same person, same clothes", "same person, other clothes", "same person, clothes unknown", "other persons")
SAME_CLOTHES, OTHER_CLOTHES, UNKNOWN_CLOTHES, OTHERS, LEFT_OUT = range(5)
COLOURS = ("#1b7837", "#e08214", "#762a83", "#7f7f7f")  # of the kinds
STROKES = ("-", "--", "-.", ":")  # of their means
BINS = 100
EDGES = np.linspace(0, 2, BINS + 1)
QUERIES, ENTRIES = 128, 8192  # of a tile: tens of megabytes, whatever the size of the gallery


@dataclass(frozen=True)
class Distances:
    """Distances of pairs by kind, in the order of KINDS.

    pairs: int64 [4, BINS], the number of pairs within each two of EDGES. total: float64 [4], the sum of their distances,
    which no bin rounds.
    """

    pairs: np.ndarray
    total: np.ndarray

    def __add__(self, other: Distances) -> Distances:
        return Distances(self.pairs + other.pairs, self.total + other.total)

    @property
    def kinds(self) -> list[int]:
        """Those that have a pair."""
        return np.flatnonzero(self.pairs.any(1)).tolist()

    def mean(self, *kinds: int) -> float:
        """The mean distance of the pairs of some kinds together; NaN where there are none."""
        number = int(self.pairs[list(kinds)].sum())
        return float(self.total[list(kinds)].sum() / number) if number else float("nan")

    @property
    def same_person(self) -> float:
        """The paper's mean over intra-class pairs."""
        return self.mean(SAME_CLOTHES, OTHER_CLOTHES, UNKNOWN_CLOTHES)

    @property
    def delta(self) -> float:
        """The paper's δ: the mean over other persons less the mean over the same person. NaN where either has no pair."""
        return self.mean(OTHERS) - self.same_person

    def density(self, kind: int) -> np.ndarray:
        """float64 [BINS]: the kind's histogram, whose area is 1."""
        return self.pairs[kind] / (self.pairs[kind].sum() * (EDGES[1] - EDGES[0]))

    def metrics(self) -> dict[str, float]:
        """The means that exist and δ, by their names in `measures.DISTANCES`."""
        values = (
            self.mean(SAME_CLOTHES), self.mean(OTHER_CLOTHES), self.same_person, self.mean(OTHERS), self.delta,
        )  # fmt: skip
        return {name: value for name, value in zip(DISTANCES, values, strict=True) if not np.isnan(value)}


def distances_of(
    protocol: Protocol, indexes: Mapping[str, SplitIndex], descriptors: Mapping[str, Descriptors]
) -> Distances:
    """The distances of all pairs that the protocol ranks. Each query split counts once against each of its galleries.

    A mode of some cameras or of a drawn gallery ranks a part of these pairs. What a rule removes by clothes stays: it is a
    kind of its own.
    """
    whole = {
        split: ranking_input(protocol, index, descriptors[split], protocols.samples(protocol, index))
        for split, index in indexes.items()
    }
    found = Distances(np.zeros((len(KINDS), BINS), dtype=np.int64), np.zeros(len(KINDS)))
    for query, gallery in dict.fromkeys((mode.query, mode.gallery) for mode in protocol.modes):
        asked, shown = whole[query], whole[gallery]
        found += pair_distances(asked.features, shown.features, asked.labels, shown.labels)
    return found


@torch.no_grad()
def pair_distances(
    query: Tensor,
    gallery: Tensor,
    query_labels: Labels,
    gallery_labels: Labels,
    *,
    queries: int = QUERIES,
    entries: int = ENTRIES,
) -> Distances:
    """The exact distances of every query with every gallery entry, in tiles of `queries` × `entries`.

    query: [Q, D], gallery: [G, D], floating point and L2-normalised. An unknown label (-1) equals nothing, as in the ranking.
    """
    pairs, total = np.zeros((len(KINDS) + 1, BINS), dtype=np.int64), np.zeros(len(KINDS) + 1)
    for first in range(0, len(query), queries):
        asked = query_labels.take(slice(first, first + queries))
        for start in range(0, len(gallery), entries):
            tile = dot_products(query[first : first + queries], gallery[start : start + entries])
            distance = 1 - tile.numpy().ravel()
            place = np.minimum((distance * (BINS / 2)).astype(np.int64), BINS - 1)  # rounding may leave 0…2
            at, kind = same_person(asked, gallery_labels.take(slice(start, start + entries)))
            few = np.bincount(kind * BINS + place[at], minlength=pairs.size).reshape(pairs.shape)
            pairs += few
            pairs[OTHERS] += np.bincount(place, minlength=BINS) - few.sum(0)
            summed = np.bincount(kind, distance[at], minlength=len(total))
            total += summed
            total[OTHERS] += distance.sum(dtype=np.float64) - summed.sum()
    return Distances(pairs[:LEFT_OUT], total[:LEFT_OUT])


def same_person(query: Labels, gallery: Labels) -> tuple[np.ndarray, np.ndarray]:
    """The pairs of one person: int64 [n] each, places in [Q, G] row by row, and the kind of each pair or LEFT_OUT."""
    person = np.where(query.person < 0, -2, query.person)  # unknown, and equal to no unknown one of the gallery
    at = np.flatnonzero(person[:, None] == gallery.person)
    ours, theirs = query.take(at // len(gallery)), gallery.take(at % len(gallery))
    worn = np.where(ours.clothes == theirs.clothes, SAME_CLOTHES, OTHER_CLOTHES)
    kind = np.where((ours.clothes >= 0) & (theirs.clothes >= 0), worn, UNKNOWN_CLOTHES)
    return at, np.where((ours.camera == theirs.camera) & (ours.camera >= 0), LEFT_OUT, kind)


def draw(found: Distances) -> bytes:
    """PNG: the densities of the kinds that have pairs, their means as vertical lines, and δ between its two means."""
    figure, axes = plt.subplots(figsize=(8, 3.8))
    shown = found.kinds
    low, high = shown_range([found])
    for kind in shown:
        density, mean = found.density(kind), found.mean(kind)
        label = f"{KINDS[kind]}: mean {mean:.3f}\n{found.pairs[kind].sum():,} pairs"
        axes.stairs(density, EDGES, color=COLOURS[kind], linewidth=1.2)
        axes.stairs(density, EDGES, color=COLOURS[kind], alpha=0.2, fill=True)
        axes.axvline(mean, color=COLOURS[kind], linestyle=STROKES[kind], linewidth=1.6, label=label)
    top = 1.22 * max(found.density(kind).max() for kind in shown)
    axes.set(xlim=(low, high), ylim=(0, top), xlabel="distance, 1 − cosine similarity", ylabel="density of pairs")
    axes.set_title("Distances of queries to gallery entries")
    key = None
    if not np.isnan(found.delta):
        draw_delta(axes, found, 0.92 * top)
        key = f"δ = {found.delta:.3f}: other persons\nless the same person ({found.same_person:.3f})"
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.02, 1), labelspacing=0.8, title=key, title_fontsize=8)
    return to_png(figure)


def draw_delta(axes: Axes, found: Distances, height: float) -> None:
    """An arrow from the mean of the same person's pairs to that of other persons' pairs."""
    ends = found.same_person, found.mean(OTHERS)
    axes.annotate(
        "", (ends[1], height), (ends[0], height), arrowprops={"arrowstyle": "<->", "shrinkA": 0, "shrinkB": 0}
    )
    box = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}
    axes.text(sum(ends) / 2, 1.03 * height, f"δ = {found.delta:.3f}", ha="center", va="bottom", fontsize=8, bbox=box)


def shown_range(several: list[Distances]) -> tuple[float, float]:
    """The smallest part of the axis that has every pair of these distances, and a margin."""
    filled = np.flatnonzero(sum(one.pairs.sum(0) for one in several))
    return float(EDGES[max(0, filled[0] - 2)]), float(EDGES[min(BINS, filled[-1] + 3)])
