"""Counting what comes before a pair: on the host, by the device's algorithm, and by hand, with ties."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from methods import counting
from methods.counting import InconsistentTile, count_before
from methods.matches import Labels, NoValidQuery, Pairs, pairs_of
from methods.similarity import Tile

DEVICES = pytest.mark.parametrize("on_device", [False, True], ids=["host", "device"])


def tiles_of(similarity: Tensor, span: int, width: int) -> Iterator[Tile]:
    for start in range(0, similarity.shape[1], width):
        for row in range(0, len(similarity), span):
            yield Tile(row, start, similarity[row : row + span, start : start + width])


def problem(seed: int) -> tuple[Pairs, Tensor]:
    """Pairs, nearest first, and the similarities of their rows with the gallery: few values, so that many are equal."""
    rng = np.random.default_rng(seed)
    query, gallery = (Labels(rng.integers(0, 3, n), np.full(n, camera), np.zeros(n)) for n, camera in ((5, 0), (17, 1)))
    pairs = pairs_of(query, gallery, ["general"])
    similarity = torch.from_numpy(rng.integers(0, 4, (len(pairs.queries), 17)).astype(np.float64))
    return pairs.nearest_first(similarity.numpy()[pairs.row, pairs.gallery]), similarity


@DEVICES
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 20))
def test_counts_are_the_places_of_a_stable_sort(on_device: bool, seed: int, span: int, width: int) -> None:
    try:
        pairs, similarity = problem(seed)
    except NoValidQuery:
        return
    order = np.argsort(-similarity.numpy(), axis=1, kind="stable")
    expected = [int(np.flatnonzero(order[row] == at)[0]) for row, at in zip(pairs.row, pairs.gallery, strict=True)]
    with pytest.MonkeyPatch.context() as patch:
        if on_device:
            patch.setattr(counting, "_count_on_host", lambda *args, pool: counting._count_on_device(*args))
        assert count_before(pairs, tiles_of(similarity, span, width), span, width).tolist() == expected


@DEVICES
def test_a_tile_with_other_similarities_than_the_pairs_is_inconsistent(
    on_device: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs, similarity = problem(0)
    if on_device:
        monkeypatch.setattr(counting, "_count_on_host", lambda *args, pool: counting._count_on_device(*args))
    with pytest.raises(InconsistentTile):
        count_before(pairs, tiles_of(similarity + 0.5, 2, 8), 2, 8)
