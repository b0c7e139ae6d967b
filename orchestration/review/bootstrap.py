"""Paired bootstrap (Efron and Tibshirani, 1993, ch. 13): the uncertainty of a mean difference over queries.

Every measure and both models share the same resamples of queries, so variation that both models have in common cancels.
Queries of one person are correlated; resampling whole persons gives a wider, more conservative interval.
"""

from __future__ import annotations

import numpy as np

RESAMPLES = 2000
DRAWN_AT_ONCE = 1 << 21  # 16 MiB of draws


def mean_intervals(
    values: np.ndarray, *, confidence: float, seed: int, groups: np.ndarray | None = None, resamples: int = RESAMPLES
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile intervals of the means of `values` (float [M, Q]: M measures of Q queries): their ends, float64 [M] each.

    groups: int64 [Q]; resample whole groups instead of single queries. With a single group or query the ends are NaN.
    """
    members = np.arange(values.shape[1]) if groups is None else np.unique(groups, return_inverse=True)[1]
    size = np.bincount(members)
    nothing = np.full(len(values), np.nan)
    if len(size) < 2:
        return nothing, nothing
    sums = np.stack([np.bincount(members, row) for row in values])  # [M, groups]
    random = np.random.default_rng(seed)
    means = []
    for start in range(0, resamples, at_once := max(1, DRAWN_AT_ONCE // len(size))):
        drawn = random.integers(0, len(size), (min(at_once, resamples - start), len(size)))
        means.append([row[drawn].sum(1) for row in sums] / size[drawn].sum(1))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(means, axis=1), (tail, 1 - tail), axis=1)
    return low, high
