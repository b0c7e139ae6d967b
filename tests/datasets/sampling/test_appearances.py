"""Chunks by appearance: exact counts, shares within one, and the frequency with which each image is promised to come."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from itertools import combinations
from math import ceil, floor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.errors import DataError
from datasets.sampling import appearances
from datasets.sampling.appearances import allocate_places, cut_by_appearance

SIZES = st.lists(st.integers(1, 30), min_size=1, max_size=6)  # images of each outfit of one person


def shares(sizes: list[int], places: int) -> list[Fraction]:
    """Places of each outfit in proportion; shares below one are one, and the others share the rest."""
    raised: set[int] = set()
    while True:
        rest = places - len(raised)
        total = sum(size for i, size in enumerate(sizes) if i not in raised)
        found = [Fraction(1) if i in raised else Fraction(rest * size, total) for i, size in enumerate(sizes)]
        low = {i for i, share in enumerate(found) if share < 1}
        if not low:
            return found
        raised |= low


def promised(sizes: list[int], images: int, shown: int) -> list[Fraction]:
    """Expected places of each outfit in a chunk: over all sets of outfits, each as likely as it has images."""
    sets = list(combinations(range(len(sizes)), min(shown, len(sizes))))
    total = sum(sizes[i] for chosen in sets for i in chosen)
    expected = [Fraction(0)] * len(sizes)
    for chosen in sets:
        probability = Fraction(sum(sizes[i] for i in chosen), total)
        for i, share in zip(chosen, shares([sizes[i] for i in chosen], images), strict=True):
            expected[i] += probability * share
    return expected


@settings(max_examples=100)
@given(SIZES, st.integers(0, 6), st.integers(0, 99))
def test_places_are_whole_add_up_and_lie_within_one_of_their_share(sizes: list[int], more: int, seed: int) -> None:
    places = len(sizes) + more
    found = allocate_places(np.array([sizes] * 20), places, np.random.default_rng(seed))
    expected = shares(sizes, places)
    assert (found.sum(1) == places).all()
    assert all(floor(e) <= n <= ceil(e) for row in found.tolist() for n, e in zip(row, expected, strict=True))
    assert found.min() >= 1


@pytest.mark.parametrize(("sizes", "places"), [([18, 9], 4), ([5, 3, 3], 8), ([50, 1, 7, 7], 6), ([1, 1, 1], 4)])
def test_places_are_in_expectation_the_share(sizes: list[int], places: int) -> None:
    num = 40_000
    found = allocate_places(np.array([sizes] * num), places, np.random.default_rng(0)).mean(0)
    assert np.abs(found - np.array([float(e) for e in shares(sizes, places)])).max() < 5 * 0.5 / np.sqrt(num)


PERSONS = st.lists(SIZES, min_size=1, max_size=5)


def labels(persons: list[list[int]], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Samples in any order, clothes classes numbered in any order."""
    rng = np.random.default_rng(seed)
    person = np.repeat(np.arange(len(persons)), [sum(sizes) for sizes in persons])
    clothes = np.repeat(rng.permutation(sum(map(len, persons))), [size for sizes in persons for size in sizes])
    order = rng.permutation(len(person))
    return person[order], clothes[order]


@settings(max_examples=100)
@given(PERSONS, st.integers(1, 8), st.data(), st.integers(0, 99), st.sampled_from([1, 3, 1 << 17]))
def test_chunks_hold_k_images_of_the_outfits_asked_for_each_used_in_turn(
    persons: list[list[int]], images: int, data: st.DataObject, seed: int, block: int
) -> None:
    shown = data.draw(st.integers(1, images))
    person, clothes = labels(persons, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(appearances, "BLOCK_CHUNKS", block)
        found = cut_by_appearance(person, clothes, images, shown, np.random.default_rng(seed))
    counts = [sum(sizes) for sizes in persons]
    assert np.diff(found.first).tolist() == [max(n // images, 1) for n in counts]
    for who, sizes in enumerate(persons):
        for rows in found.rows[found.first[who] : found.first[who + 1]]:
            assert (person[rows] == who).all()
            worn = Counter(clothes[rows].tolist())
            assert len(worn) == min(shown, len(sizes))
            size = {outfit: int((clothes == outfit).sum()) for outfit in worn}
            for outfit, share in zip(worn, shares(list(size.values()), images), strict=True):
                assert floor(share) <= worn[outfit] <= ceil(share)
    times = np.bincount(found.rows.ravel(), minlength=len(person))
    for outfit in range(clothes.max() + 1):
        assert np.ptp(times[clothes == outfit]) <= 1  # none comes again before all have come


@pytest.mark.parametrize(
    ("sizes", "images", "shown"), [([18, 9, 3], 4, 2), ([40, 30, 20], 8, 2), ([5, 4], 4, 4), ([2, 1], 8, 2)]
)
def test_every_image_is_drawn_with_the_promised_frequency(sizes: list[int], images: int, shown: int) -> None:
    """Within 5 standard deviations over the epochs, for every image alone."""
    person, clothes = labels([sizes, [7, 7]], seed=0)
    epochs = 3000
    times = np.zeros((epochs, len(person)))
    for seed in range(epochs):
        drawn = cut_by_appearance(person, clothes, images, shown, np.random.default_rng(seed))
        times[seed] = np.bincount(drawn.rows.ravel(), minlength=len(person))
    num_chunks = max(sum(sizes) // images, 1)
    outfits = [clothes[person == 0][clothes[person == 0] == c] for c in np.unique(clothes[person == 0])]
    size_of = {int(group[0]): len(group) for group in outfits}
    expected_of = dict(zip(sizes, promised(sizes, images, shown), strict=True))
    for outfit, size in size_of.items():
        of_outfit = times[:, clothes == outfit]
        expected = float(expected_of[size]) * num_chunks / size
        assert np.abs(of_outfit.mean(0) - expected).max() < 5 * of_outfit.std(0).max() / np.sqrt(epochs) + 1e-9


def test_without_a_raised_share_all_images_of_a_person_are_drawn_equally_often() -> None:
    for sizes, images, shown in [([40, 30, 20], 8, 2), ([40, 30, 20], 8, 3), ([12, 10, 9, 8], 6, 2)]:
        assert [e / size for e, size in zip(promised(sizes, images, shown), sizes, strict=True)] == [
            Fraction(images, sum(sizes))
        ] * len(sizes)


def test_the_example_of_the_page() -> None:
    assert [float(e) for e in promised([18, 9, 3], 4, 2)] == pytest.approx([2.25, 1.2, 0.55])
    person, clothes = np.zeros(30, int), np.repeat([0, 1, 2], [18, 9, 3])
    sets: Counter[tuple[int, ...]] = Counter()
    for seed in range(2000):
        rows = cut_by_appearance(person, clothes, 4, 2, np.random.default_rng(seed)).rows
        assert rows.shape == (7, 4)
        sets.update(tuple(sorted(set(clothes[chunk].tolist()))) for chunk in rows)
    found = {chosen: times / sets.total() for chosen, times in sets.items()}
    assert found == pytest.approx({(0, 1): 0.45, (0, 2): 0.35, (1, 2): 0.2}, abs=0.02)


def test_the_seed_decides() -> None:
    person, clothes = labels([[9, 4], [7, 7, 2]], seed=1)
    one, same, other = (cut_by_appearance(person, clothes, 4, 2, np.random.default_rng(s)).rows for s in (1, 1, 2))
    assert (one == same).all()
    assert (one != other).any()


def test_images_without_clothes_labels_are_refused_with_the_mend() -> None:
    with pytest.raises(
        DataError, match=r"clothes label of every image, and 2 of 4 have none; set batch.sampler=distinct"
    ):
        cut_by_appearance(np.array([0, 0, 1, 1]), np.array([0, -1, 1, -1]), 2, 2, np.random.default_rng(0))


def test_more_outfits_than_places_are_refused() -> None:
    with pytest.raises(DataError, match=r"2 images of a person cannot show 3 outfits; set batch.appearances to 1 … 2"):
        cut_by_appearance(np.zeros(9, int), np.zeros(9, int), 2, 3, np.random.default_rng(0))
