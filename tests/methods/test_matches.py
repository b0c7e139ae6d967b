"""What counts under each rule: query by query from the protocols' sentences, and rows that keep their pairs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from methods.matches import RULES, Labels, NoValidQuery, apply_rule, pairs_of, valid_and_match


def random_labels(rng: np.random.Generator, num: int) -> Labels:
    """Some of them unknown."""
    return Labels(rng.integers(-1, 3, num), rng.integers(-1, 3, num), rng.integers(-1, 3, num))


def known_and_equal(one: int, other: int) -> bool:
    return one == other and one >= 0


def expected_of(query: Labels, gallery: Labels, rule: str) -> tuple[np.ndarray, np.ndarray]:
    """(valid, match) entry by entry: bool [Q, G] each."""
    valid = np.ones((len(query), len(gallery)), dtype=bool)
    match = np.zeros_like(valid)
    for q in range(len(query)):
        for g in range(len(gallery)):
            if not known_and_equal(query.person[q], gallery.person[g]):
                continue
            other_camera = not known_and_equal(query.camera[q], gallery.camera[g])
            same_clothes = known_and_equal(query.clothes[q], gallery.clothes[g])
            asked = {"general": True, "same-clothes": same_clothes, "clothes-changing": not same_clothes}[rule]
            valid[q, g] = match[q, g] = other_camera and asked
    return valid, match


@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.integers(1, 20), st.sampled_from(RULES))
def test_valid_entries_and_matches_are_those_of_the_rule(
    seed: int, num_query: int, num_gallery: int, rule: str
) -> None:
    rng = np.random.default_rng(seed)
    query, gallery = random_labels(rng, num_query), random_labels(rng, num_gallery)
    valid, match = expected_of(query, gallery, rule)
    if not match.any():
        with pytest.raises(NoValidQuery, match=f"no valid query under the rule '{rule}': of {num_query} queries"):
            valid_and_match(query, gallery, rule)
        return
    found_valid, found_match = valid_and_match(query, gallery, rule)
    np.testing.assert_array_equal(found_match, match)
    has_match = match.any(1)  # the entries of a query without a match are in no picture
    np.testing.assert_array_equal(found_valid[has_match], valid[has_match])


@given(st.integers(0, 2**32 - 1), st.lists(st.sampled_from(RULES), min_size=1, max_size=3, unique=True))
def test_the_pairs_of_several_rules_hold_those_of_each(seed: int, rules: list[str]) -> None:
    rng = np.random.default_rng(seed)
    query, gallery = random_labels(rng, 8), random_labels(rng, 20)
    try:
        together = pairs_of(query, gallery, rules)
    except NoValidQuery:
        return
    assert (np.diff(together.row) >= 0).all()
    assert set(together.row.tolist()) == set(range(len(together.queries)))
    for rule in rules:
        alone, (kept, is_kept) = pairs_of(query, gallery, [rule]), apply_rule(together, query, gallery, rule)
        for one in ("queries", "row", "gallery", "is_match"):
            np.testing.assert_array_equal(getattr(kept, one), getattr(alone, one))
        np.testing.assert_array_equal(together.gallery[is_kept], kept.gallery)


def labels(person: list[int], clothes: list[int], camera: list[int]) -> Labels:
    return Labels(np.array(person), np.array(clothes), np.array(camera))


def test_pairs_are_ordered_as_by_a_stable_sort() -> None:
    query, gallery = labels([0, 1], [0, 0], [0, 0]), labels([0, 0, 0, 1, 1], [1] * 5, [0] * 5)
    pairs = pairs_of(query, gallery, ["general"])
    ordered = pairs.nearest_first(np.array([0.5, 0.9, 0.5, 0.1, 0.2]))
    assert ordered.gallery.tolist() == [1, 0, 2, 4, 3]
    assert ordered.similarity.tolist() == [0.9, 0.5, 0.5, 0.2, 0.1]
    assert ordered.row.tolist() == [0, 0, 0, 1, 1]


def test_labels_of_different_lengths_and_unknown_rules_are_refused() -> None:
    with pytest.raises(ValueError, match="labels must be one integer per entry, all of the same number"):
        labels([0, 1], [0], [0, 1])
    one = labels([0], [0], [0])
    with pytest.raises(ValueError, match="unknown rule 'cc': it is one of general, same-clothes, clothes-changing"):
        pairs_of(one, one, ["cc"])
