"""Re-ranking: a dense implementation with plain loops, ties included, and what the formula promises."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from methods import reranking
from methods.matches import RULES, Labels
from methods.ranking import rank
from methods.ranking_parts import rank_blocks
from methods.reranking import rerank
from orchestration.measures import measured


def literal(query: np.ndarray, gallery: np.ndarray, k1: int, k2: int, weight: float) -> np.ndarray:
    """Final distances [Q, G] from an N × N matrix, entry by entry, as the paper's equations and the published code have it."""
    x = np.concatenate([query, gallery]).astype(np.float64)
    num = len(x)
    distance = (x**2).sum(1)[:, None] + (x**2).sum(1)[None] - 2 * x @ x.T
    distance = (distance / np.maximum(distance.max(axis=0), 1e-300)).T
    order = np.argsort(distance, axis=1, kind="stable")

    def reciprocal(i: int, k: int) -> set[int]:
        return {int(j) for j in order[i, : k + 1] if i in order[j, : k + 1]}

    v = np.zeros((num, num))
    for i in range(num):
        members = reciprocal(i, k1)
        expanded = set(members)
        for j in members:
            theirs = reciprocal(j, int(np.around(k1 / 2)))
            if len(theirs & members) > 2 / 3 * len(theirs):
                expanded |= theirs
        for j in expanded:
            v[i, j] = np.exp(-distance[i, j])
        v[i] /= max(v[i].sum(), 1e-300)
    if k2 != 1:
        v = np.stack([v[order[i, :k2]].mean(axis=0) for i in range(num)])
    final = np.empty((len(query), len(gallery)))
    for q in range(len(query)):
        for g in range(len(gallery)):
            common = np.minimum(v[q], v[len(query) + g]).sum()
            jaccard = 1 - common / (2 - common)
            final[q, g] = (1 - weight) * jaccard + weight * distance[q, len(query) + g]
    return final


def people(seed: int, num_query: int, num_gallery: int, dim: int = 12, persons: int = 6) -> tuple[Tensor, Tensor]:
    """Unit vectors around a few centres, float64."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((persons, dim))
    num = num_query + num_gallery
    x = centres[rng.integers(0, persons, num)] + 0.6 * rng.standard_normal((num, dim))
    features = F.normalize(torch.from_numpy(x), dim=1)
    return features[:num_query], features[num_query:]


def final(query: Tensor, gallery: Tensor, **options: Any) -> np.ndarray:
    return torch.cat(list(rerank(query, gallery, **options).blocks())).numpy()


@settings(max_examples=60)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 12),
    st.integers(1, 60),
    st.integers(1, 25),
    st.integers(1, 8),
    st.sampled_from([0.0, 0.3, 0.8, 1.0]),
)
def test_equals_the_dense_loops(seed: int, q: int, g: int, k1: int, k2: int, weight: float) -> None:
    query, gallery = people(seed, q, g)
    expected = literal(query.numpy(), gallery.numpy(), k1, k2, weight)
    np.testing.assert_allclose(final(query, gallery, k1=k1, k2=k2, weight=weight), expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(
        final(query.float(), gallery.float(), k1=k1, k2=k2, weight=1.0),
        literal(query.numpy(), gallery.numpy(), k1, k2, 1.0), rtol=0, atol=1e-6,
    )  # fmt: skip


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.integers(1, 50), st.integers(1, 12), st.integers(1, 7))
def test_equals_the_dense_loops_with_many_ties(seed: int, q: int, g: int, k1: int, k2: int) -> None:
    """Unit vectors of four halves: products are exact, entries repeat, and neighbourhoods end in the midst of ties."""
    rng = np.random.default_rng(seed)
    x = np.zeros((q + g, 6))
    for row in x:
        row[rng.choice(6, 4, replace=False)] = rng.choice([-0.5, 0.5], 4, p=[0.2, 0.8])
    query, gallery = torch.from_numpy(x[:q]), torch.from_numpy(x[q:])
    for dtype in (torch.float64, torch.float32):
        found = final(query.to(dtype), gallery.to(dtype), k1=k1, k2=k2, weight=0.3)
        np.testing.assert_allclose(found, literal(x[:q], x[q:], k1, k2, 0.3), rtol=0, atol=1e-6)


@pytest.mark.parametrize("tile", [1, 500, 20_000])
def test_the_size_of_the_tiles_changes_nothing(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    query, gallery = people(1, 30, 200)
    expected = final(query, gallery)
    monkeypatch.setattr(reranking, "TILE", tile)
    np.testing.assert_allclose(final(query, gallery), expected, rtol=0, atol=1e-12)


def labels(seed: int, num: int) -> Labels:
    rng = np.random.default_rng(seed)
    return Labels(rng.integers(0, 6, num), rng.integers(0, 3, num), rng.integers(0, 3, num))


@pytest.mark.parametrize("rule", RULES)
def test_the_whole_weight_on_the_original_distance_gives_the_original_ranking(rule: str) -> None:
    query, gallery = (x.float() for x in people(2, 40, 300))
    gallery[200:240] = gallery[10:50]  # ties
    of_query, of_gallery = labels(0, 40), labels(1, 300)
    ranked = rank_blocks(rerank(query, gallery, weight=1.0).blocks(), of_query, of_gallery, rule)
    plain = rank(query, gallery, of_query, of_gallery, rule)
    np.testing.assert_array_equal(ranked.per_query_ap, plain.per_query_ap)
    np.testing.assert_array_equal(ranked.first_match, plain.first_match)
    assert measured(ranked) == pytest.approx(measured(plain), rel=1e-12)


def test_permuting_the_gallery_permutes_the_distances() -> None:
    query, gallery = people(3, 20, 150)
    order = np.random.default_rng(0).permutation(150)
    found = final(query, gallery[torch.from_numpy(order)])
    np.testing.assert_allclose(found, final(query, gallery)[:, order], rtol=0, atol=1e-12)


def test_neighbours_in_common_bring_people_together() -> None:
    """Three views of a person in a row: the ends are nearer to others than to each other, and share the middle."""
    angle = torch.tensor([0.0, 25, 50, 120, 130, 140, 235, 245, 255]).deg2rad().double()
    features = torch.stack([angle.cos(), angle.sin()], dim=1)
    found = final(features[:1], features[1:], k1=3, k2=3, weight=0.0)[0]
    assert set(np.argsort(found, kind="stable")[:2].tolist()) == {0, 1}
    assert (found[2:] > found[:2].max()).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_distances_of_the_host() -> None:
    query, gallery = people(6, 60, 900)
    found = final(query.cuda(), gallery.cuda())
    np.testing.assert_allclose(found, final(query, gallery), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k1": 0}, "k1 = 0, k2 = 6, weight = 0.3: expected k1 and k2 of at least 1"),
        ({"k2": 0}, "k2 = 0"),
        ({"weight": 1.5}, "a weight in 0…1"),
    ],
)
def test_settings_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rerank(*people(5, 3, 5), **options)


def test_features_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        rerank(torch.full((2, 3), torch.nan), torch.ones(4, 3))
