"""Rankings made in parts: blocks of queries are as one matrix, draws of a gallery are averaged."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.matches import RULES, Labels, NoValidQuery
from methods.ranking import rank_distances
from methods.ranking_parts import mean_over_draws, rank_blocks
from orchestration.measures import measured


def labels(rng: np.random.Generator, num: int) -> Labels:
    return Labels(rng.integers(0, 4, num), rng.integers(0, 3, num), rng.integers(0, 3, num))


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 20), st.integers(1, 12), st.sampled_from(RULES))
def test_blocks_of_queries_rank_as_one_matrix_does(seed: int, q: int, g: int, block: int, rule: str) -> None:
    rng = np.random.default_rng(seed)
    query, gallery = labels(rng, q), labels(rng, g)
    distance = torch.from_numpy(rng.integers(0, 5, (q, g)).astype(np.float64))
    try:
        whole = rank_distances(distance, query, gallery, rule)
    except NoValidQuery:
        with pytest.raises(NoValidQuery, match=f"{rule}.*none of {q} queries"):
            rank_blocks(distance.split(block), query, gallery, rule)
        return
    parts = rank_blocks(distance.split(block), query, gallery, rule)
    np.testing.assert_array_equal(parts.per_query_ap, whole.per_query_ap)
    np.testing.assert_array_equal(parts.first_match, whole.first_match)
    assert parts.num_valid == whole.num_valid
    assert measured(parts) == pytest.approx(measured(whole), rel=1e-12)


def test_blocks_that_are_not_of_all_queries_are_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="the blocks have 2 rows; expected one for each of 3 queries"):
        rank_blocks([torch.zeros(2, 5)], labels(rng, 3), labels(rng, 5), "general")


def test_draws_of_a_gallery_are_averaged() -> None:
    """Two queries; the second has its person in the second draw alone."""
    query = Labels([0, 1], [0, 0], [0, 0])
    first = rank_distances(
        torch.tensor([[2.0, 1.0, 3.0], [1.0, 2.0, 3.0]]), query, Labels([0, 2, 3], [1, 1, 1], [0, 0, 0]), "general"
    )
    second = rank_distances(
        torch.tensor([[1.0, 2.0, 3.0], [1.0, 3.0, 2.0]]), query, Labels([0, 1, 2], [1, 1, 1], [0, 0, 0]), "general"
    )
    assert first.per_query_ap.tolist() == [0.5, pytest.approx(np.nan, nan_ok=True)]
    mean = mean_over_draws([first, second])
    assert mean.per_query_ap.tolist() == [0.75, pytest.approx(1 / 3)]
    assert mean.first_match.tolist() == [1.5, 3.0]
    assert mean.mAP == pytest.approx((0.5 + (1 + 1 / 3) / 2) / 2)  # of each draw's own mean over its valid queries
    assert mean.cmc[1] == pytest.approx((0 + 0.5) / 2)
    assert mean.cmc[5] is None
    assert mean.num_valid == 2


def test_a_query_without_a_match_in_any_draw_stays_without() -> None:
    gallery = Labels([0, 2], [1, 1], [0, 0])
    one = rank_distances(torch.tensor([[1.0, 2.0], [1.0, 2.0]]), Labels([0, 9], [0, 0], [0, 0]), gallery, "general")
    mean = mean_over_draws([one, one, one])
    assert np.isnan(mean.per_query_ap[1])
    assert mean.first_match.tolist() == [1.0, -1.0]
    assert measured(mean) == pytest.approx(measured(one))
    assert mean.num_valid == 1
