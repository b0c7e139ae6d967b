"""Tiles of similarities: every way to give a gallery makes the same blocks, and pairs are found where they lie."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
import pytest
import torch
from torch import Tensor

from methods.matches import Labels, pairs_of
from methods.similarity import Gallery, by_tile, dot_products, gallery_blocks, pair_similarities
from tests import golden

NUM, WIDTH = 23, 5


def features(num: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(num, 4, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def in_pieces(sizes: list[int]) -> Callable[[], Iterable[Tensor]]:
    return lambda: iter(features(NUM, 0).split(sizes))


@pytest.mark.parametrize("size", [1, 7, 23, 64])
@pytest.mark.parametrize(
    "gallery",
    [features(NUM, 0), features(NUM, 0).numpy(), list(features(NUM, 0).split(6)), in_pieces([1, 0, 20, 2])],
    ids=["tensor", "array", "list", "function"],
)
def test_blocks_are_the_rows_in_turn_filled_up_with_zeros(gallery: Gallery, size: int) -> None:
    query = features(3, 1)
    blocks = list(gallery_blocks(gallery, NUM, size, query))
    assert [start for start, _ in blocks] == list(range(0, NUM, size))
    assert {len(rows) for _, rows in blocks} == {size}
    rows = torch.cat([rows for _, rows in blocks])
    assert torch.equal(rows[:NUM], features(NUM, 0))
    assert not rows[NUM:].any()


def test_blocks_come_in_the_queries_precision() -> None:
    [(_, rows)] = gallery_blocks(features(NUM, 0), NUM, NUM, features(1, 1, torch.float32))
    assert rows.dtype == torch.float32


@pytest.mark.parametrize(
    ("gallery", "told"),
    [
        (torch.ones(NUM, 3), r"must be \[\*, 4\] as the queries are; got \[23, 3\]"),
        (torch.ones(NUM), r"got \[23\]"),
        (torch.ones(NUM - 1, 4), "gallery has 22 features but 23 labels"),
        ([torch.ones(10, 4), torch.full((13, 4), torch.inf)], "gallery features are not finite, first at row 10"),
    ],
    ids=["width", "dimensions", "number", "infinite"],
)
def test_a_gallery_that_does_not_fit_is_refused(gallery: Gallery, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        list(gallery_blocks(gallery, NUM, WIDTH, features(2, 1)))


@pytest.mark.parametrize("dtype", golden.DTYPES, ids=str)
def test_a_dot_product_has_the_same_bits_in_any_tile(dtype: torch.dtype) -> None:
    query, gallery = features(6, 1, dtype), features(64, 2, dtype)
    whole = dot_products(query, gallery)
    torch.testing.assert_close(whole, (query.double() @ gallery.double().T).to(dtype), rtol=1e-5, atol=1e-5)
    if dtype == torch.float32 and torch.backends.mkldnn.is_available():
        assert torch.equal(dot_products(query[2:5], gallery[:16]), whole[2:5, :16])


def test_in_float64_the_order_of_the_dimensions_does_not_matter() -> None:
    """The sums are exact, so no matrix product of any library can give copies different similarities."""
    random = torch.Generator().manual_seed(5)
    for num, dim in ((1, 1), (3, 122), (3, 844), (128, 2048), (5, 12_288)):
        query, rows = (torch.randn(n, dim, dtype=torch.float64, generator=random) for n in (num, 64))
        rows[8:16], rows[20] = 1e-30 * rows[8:16], 0
        order = torch.randperm(dim, generator=random)
        found = dot_products(query, rows)
        assert torch.equal(dot_products(query[:, order], rows[:, order]), found)
        true = torch.tensor([[math.fsum(product) for product in (query[0] * rows).tolist()]], dtype=torch.float64)
        bound = 1e-15 * query[:1].norm() * rows.norm(dim=1)
        assert ((found[:1] - true).abs() <= bound).all()


@pytest.mark.parametrize("dtype", golden.DTYPES, ids=str)
def test_copies_of_a_row_are_equally_similar(dtype: torch.dtype) -> None:
    for num, width, dim in ((1, 64, 7), (3, 64, 844), (3, 128, 122), (3, 320, 787), (130, 192, 256)):
        rows = features_of(5, dim, dtype)[torch.arange(width) % 5]
        found = dot_products(features_of(num, dim, dtype), rows)
        assert torch.equal(found, found[:, torch.arange(width) % 5])


def features_of(num: int, dim: int, dtype: torch.dtype) -> Tensor:
    random = torch.Generator().manual_seed(num)
    return torch.nn.functional.normalize(torch.randn(num, dim, dtype=dtype, generator=random), dim=1)


def some_pairs() -> tuple[Labels, Labels]:
    rng = np.random.default_rng(3)
    return tuple(Labels(rng.integers(0, 4, num), np.full(num, cam), np.zeros(num)) for num, cam in ((9, 0), (NUM, 1)))  # type: ignore[return-value]


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("span", [2, 100])
def test_each_pair_has_its_own_dot_product(span: int, whole: bool) -> None:
    pairs = pairs_of(*some_pairs(), ["general"])
    query, gallery = features(9, 1)[torch.from_numpy(pairs.queries)], features(NUM, 2)
    found = pair_similarities(pairs, query, gallery_blocks(gallery, NUM, WIDTH, query), span, WIDTH, whole)
    expected = [float(query[row] @ gallery[at]) for row, at in zip(pairs.row, pairs.gallery, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_tiles_share_out_the_pairs() -> None:
    pairs, span = pairs_of(*some_pairs(), ["general"]), 2
    of_block, members = by_tile(pairs, span, WIDTH)
    np.testing.assert_array_equal(of_block, pairs.gallery // WIDTH)
    found = []
    for row in range(0, len(pairs.queries), span):
        for start in range(0, NUM, WIDTH):
            inside = members(row, start)
            assert (
                (pairs.row[inside] // span == row // span) & (pairs.gallery[inside] // WIDTH == start // WIDTH)
            ).all()
            found += inside.tolist()
    assert sorted(found) == list(range(len(pairs.row)))
