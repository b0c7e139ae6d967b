"""Exact CMC, mAP (Zheng et al., ICCV 2015) and mINP (Ye et al., TPAMI 2021), for a gallery of any size.

No index is sorted and no distance matrix is held. A match's position is one more than the number of valid gallery
entries that come before it: those closer, and equal ones earlier in the index (what a stable sort gives). Entries of
another person always count; entries of the same person are few, so they are listed as pairs, and those that a rule
removes (junk) are subtracted at the end. What is left is to count, in each tile [queries, gallery block], the
similarities above each pair's own. Two passes over the gallery: the first finds each pair's similarity, the second
counts. Memory is O(queries × same-person entries + tile).

Both passes must give a pair the same bits, or it would be compared with a rounded copy of itself. The first multiplies
only the rows it needs, the second verifies them in its full tiles; where a processor's matrix product does depend on
the shape of its operands, the first pass is made again with the tiles of the second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from methods.counting import InconsistentTile, count_before
from methods.matches import Labels, Pairs, apply_rule, pairs_of
from methods.similarity import Gallery, Tile, dot_products, gallery_blocks, pair_similarities, refuse_infinite

RANKS = (1, 5, 10, 20)
RECALLS = np.arange(21) / 20  # at which precision is given
BLOCK = 8192  # gallery entries per tile: a row of it sorts in the second-level cache
HOST_QUERIES, DEVICE_QUERIES = 128, 1024  # queries per tile


@dataclass(frozen=True, slots=True)
class Ranking:
    """Fractions, not percent; means are over the valid queries, those with at least one match."""

    cmc: dict[int, float | None]  # rank → share of queries whose first match is at or above it; None beyond the gallery
    mAP: float  # noqa: N815  the field's name
    mINP: float  # noqa: N815
    num_valid: int
    per_query_ap: np.ndarray  # float64 [Q], NaN where the query has no match
    first_match: np.ndarray  # float64 [Q], position of the first match counted from 1, -1 where there is none
    precision: np.ndarray  # float64 [21], at each of RECALLS: the highest at that recall or beyond it


def describe(embed: Callable[..., Tensor], *inputs: Tensor, flip: bool = True) -> Tensor:
    """Test descriptors [B, D] of `inputs` (images [B, 3, H, W], and whatever else `embed` takes, width last).

    The embeddings of the images and of their mirror images are added, then L2-normalised; no view is normalised alone.
    """
    features = embed(*inputs)
    if flip:
        features = features + embed(*(x.flip(-1) for x in inputs))
    return F.normalize(features, dim=1)


def describe_tracks(clip_features: Tensor, clips_of_track: Tensor) -> Tensor:
    """Test descriptors [V, D] of tracks: the mean of their clips' raw features, then L2-normalised (CAL, Sec. 5.2).

    clip_features: [C, D]. clips_of_track: int64 [V, 2], first clip and one past the last.
    """
    means = [clip_features[start:stop].mean(0) for start, stop in clips_of_track.tolist()]
    return F.normalize(torch.stack(means), dim=1)


@torch.no_grad()
def rank(
    query: Tensor,
    gallery: Gallery,
    query_labels: Labels,
    gallery_labels: Labels,
    rule: str,
    ranks: Sequence[int] = RANKS,
    block: int = BLOCK,
) -> Ranking:
    """Rank a gallery by dot product for each query, on the query's device and in its precision.

    query: [Q, D], L2-normalised. gallery: [G, D] likewise, as a tensor, an array (may be memory-mapped), a sequence of
    tensors [*, D], or a function that gives an iterable of them, called once per pass. rule: one of RULES. An entry of
    the query's person is removed if it has the query's camera; under "same-clothes" also if its clothes differ, under
    "clothes-changing" also if they are the same. What is left of that person are the matches.

    Raises: NoValidQuery. ValueError for an unknown rule, shapes that do not fit, features that are not finite, or a
    gallery that differs between two passes.
    """
    return rank_by_rules(query, gallery, query_labels, gallery_labels, (rule,), ranks, block)[rule]


@torch.no_grad()
def rank_by_rules(
    query: Tensor,
    gallery: Gallery,
    query_labels: Labels,
    gallery_labels: Labels,
    rules: Sequence[str],
    ranks: Sequence[int] = RANKS,
    block: int = BLOCK,
) -> dict[str, Ranking]:
    """As `rank`, by several rules at once: one count of the entries before each pair serves every rule.

    Raises: as `rank`; NoValidQuery of the first rule that has none.
    """
    query = query.detach()
    if not query.is_floating_point() or query.ndim != 2 or len(query) != len(query_labels):
        raise ValueError(
            f"query must be floating point [{len(query_labels)}, D], one row per label; "
            f"got {query.dtype} {list(query.shape)}"
        )
    query = query.float() if query.element_size() < 4 else query
    refuse_infinite(query, "query", 0)
    pairs = pairs_of(query_labels, gallery_labels, rules)
    query = query[torch.from_numpy(pairs.queries).to(query.device)]
    num = len(gallery_labels)
    block = min(max(block, 1), num)
    width = -(-block // 64) * 64  # whole vector registers: one kernel for all columns of a product
    blocks = partial(gallery_blocks, gallery, num, width, query)

    def tiles(span: int) -> Iterator[Tile]:
        for start, rows in blocks():
            for first in range(0, len(query), span):
                yield Tile(first, start, dot_products(query[first : first + span], rows)[:, : num - start])

    span = HOST_QUERIES if query.device.type == "cpu" else DEVICE_QUERIES
    for whole in (False, True):
        found = pairs.nearest_first(pair_similarities(pairs, query, blocks(), span, width, whole))
        try:
            before = count_before(found, tiles(span), span, width)
            by_rule = {rule: apply_rule(found, query_labels, gallery_labels, rule) for rule in rules}
            return {rule: _summary(kept, before[is_kept], ranks) for rule, (kept, is_kept) in by_rule.items()}
        except InconsistentTile:
            continue
    raise ValueError("the gallery gave other features in the second pass than in the first")


@torch.no_grad()
def rank_distances(
    distance: Tensor,
    query_labels: Labels,
    gallery_labels: Labels,
    rule: str,
    ranks: Sequence[int] = RANKS,
    block: int = BLOCK,
) -> Ranking:
    """As `rank`, from distances [Q, G] (floating point, smaller is nearer) that exist already.

    Raises: NoValidQuery. ValueError for an unknown rule, shapes that do not fit, or distances that are not finite.
    """
    expected = (len(query_labels), len(gallery_labels))
    if not distance.is_floating_point() or distance.shape != expected:
        raise ValueError(
            f"distance must be floating point {list(expected)}; got {distance.dtype} {list(distance.shape)}"
        )
    distance = distance.detach()
    distance = distance.float() if distance.element_size() < 4 else distance
    if not torch.isfinite(distance).all():
        raise ValueError("distance holds values that are not finite, which have no place in a ranking")
    pairs = pairs_of(query_labels, gallery_labels, (rule,))
    rows = torch.from_numpy(pairs.queries).to(distance.device)
    span, num, block = HOST_QUERIES, len(gallery_labels), max(block, 1)

    def tiles() -> Iterator[Tile]:
        for start in range(0, num, block):
            for first in range(0, len(rows), span):
                yield Tile(first, start, -distance[rows[first : first + span], start : start + block])

    chosen = rows[torch.from_numpy(pairs.row).to(rows.device)], torch.from_numpy(pairs.gallery).to(rows.device)
    found = pairs.nearest_first(-distance[chosen].cpu().numpy())
    return _summary(found, count_before(found, tiles(), span, block), ranks)


def _summary(pairs: Pairs, before: np.ndarray, ranks: Sequence[int]) -> Ranking:
    """pairs: nearest first. before: entries before each, junk included."""
    offsets = np.searchsorted(pairs.row, np.arange(len(pairs.queries) + 1))

    def running(flags: np.ndarray) -> np.ndarray:  # how many of them so far in the row, this one included
        total = np.cumsum(flags)
        return total - np.concatenate(([0], total))[offsets[pairs.row]]

    match = pairs.is_match
    row, position = pairs.row[match], (1 + before - running(~match))[match]
    number = running(match)[match]  # 1 for the row's first match
    num_matches = np.bincount(row, minlength=len(pairs.queries))
    last = np.cumsum(num_matches) - 1
    first = position[last - num_matches + 1]
    average_precision = np.bincount(row, number / position, minlength=len(pairs.queries)) / num_matches
    per_query_ap = np.full(pairs.num_queries, np.nan)
    per_query_ap[pairs.queries] = average_precision
    first_match = np.full(pairs.num_queries, -1.0)
    first_match[pairs.queries] = first
    highest = _highest_from_here(number / position, row)
    at = (
        (last - num_matches + 1)[:, None]
        + np.maximum(np.ceil(RECALLS * num_matches[:, None] - 1e-9), 1).astype(int)
        - 1
    )
    return Ranking(
        cmc={rank: float(np.mean(first <= rank)) if rank <= pairs.num_gallery else None for rank in ranks},
        mAP=float(np.nanmean(per_query_ap)),
        mINP=float(np.mean(num_matches / position[last])),
        num_valid=len(pairs.queries),
        per_query_ap=per_query_ap,
        first_match=first_match,
        precision=highest[at].mean(0),
    )


def _highest_from_here(values: np.ndarray, row: np.ndarray) -> np.ndarray:
    """The highest of each value (0…1) and those after it in its row; rows ascend."""
    apart = 2.0 * (row[-1] - row)  # so that a row's lowest is above the highest of the rows behind it
    return np.maximum.accumulate((values + apart)[::-1])[::-1] - apart
