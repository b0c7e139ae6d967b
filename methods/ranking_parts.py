"""Rankings made in parts: of some queries at a time, and of the same queries in several galleries."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor

from methods.matches import Labels, NoValidQuery
from methods.ranking import RANKS, Ranking, rank_distances


def rank_blocks(
    blocks: Iterable[Tensor], query_labels: Labels, gallery_labels: Labels, rule: str, ranks: Sequence[int] = RANKS
) -> Ranking:
    """As `rank_distances`, from blocks [*, G] of distances of consecutive queries, one block in memory at a time.

    Raises: NoValidQuery. ValueError as `rank_distances`, and when the blocks have other than Q rows.
    """
    parts: list[Ranking] = []
    per_query_ap, first_match = np.full(len(query_labels), np.nan), np.full(len(query_labels), -1.0)
    start = 0
    for block in blocks:
        rows = slice(start, start := start + len(block))
        try:
            part = rank_distances(block, query_labels.take(rows), gallery_labels, rule, ranks)
        except NoValidQuery:
            continue
        per_query_ap[rows], first_match[rows] = part.per_query_ap, part.first_match
        parts.append(part)
    if start != len(query_labels):
        raise ValueError(f"the blocks have {start} rows; expected one for each of {len(query_labels)} queries")
    if not parts:
        raise NoValidQuery(
            f"no valid query under the rule {rule!r}: none of {start} queries has a match in the gallery"
        )
    return _mean(parts, [part.num_valid for part in parts], per_query_ap, first_match)


def mean_over_draws(rankings: Sequence[Ranking]) -> Ranking:
    """The same queries ranked against several galleries of one size: the mean of every metric.

    Per query, means are over the galleries in which it has a match; `num_valid` is how many have one in any.
    """
    ap = np.stack([ranking.per_query_ap for ranking in rankings])  # [draws, Q]
    first = np.stack([ranking.first_match for ranking in rankings])
    is_valid = first > 0
    times = is_valid.sum(0)
    with np.errstate(invalid="ignore"):
        per_query_ap = np.where(is_valid, ap, 0).sum(0) / times  # NaN where no gallery has a match
        first_match = np.where(times > 0, np.where(is_valid, first, 0).sum(0) / times, -1)
    mean = _mean(rankings, [1] * len(rankings), per_query_ap, first_match)
    return replace(mean, mAP=float(np.mean([ranking.mAP for ranking in rankings])))


def _mean(parts: Sequence[Ranking], weights: Sequence[int], per_query_ap: np.ndarray, first: np.ndarray) -> Ranking:
    """Weighted means of what has no value per query."""
    of_rank = {rank: [part.cmc[rank] for part in parts] for rank in parts[0].cmc}
    return Ranking(
        cmc={
            rank: None if None in shares else float(np.average(np.array(shares, dtype=float), weights=weights))
            for rank, shares in of_rank.items()
        },
        mAP=float(np.nanmean(per_query_ap)),
        mINP=float(np.average([part.mINP for part in parts], weights=weights)),
        num_valid=int(np.count_nonzero(first > 0)),
        per_query_ap=per_query_ap,
        first_match=first,
        precision=np.average([part.precision for part in parts], axis=0, weights=weights),
    )
