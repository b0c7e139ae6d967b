"""Paired bootstrap: as plain loops draw it, and as sure as it says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestration.review import bootstrap
from orchestration.review.bootstrap import mean_intervals


def intervals(values: np.ndarray, **options: object) -> np.ndarray:
    return np.array(mean_intervals(values, confidence=0.95, seed=0, **options))  # type: ignore[arg-type]


def test_intervals_are_those_of_plain_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "DRAWN_AT_ONCE", 7 * 50)  # several rounds
    values = np.random.default_rng(1).normal(size=(2, 50))
    random = np.random.default_rng(0)
    drawn = np.concatenate([random.integers(0, 50, (number, 50)) for number in (7,) * 14 + (2,)])
    for row, low, high in zip(values, *intervals(values, resamples=100), strict=True):
        means = [np.mean([row[at] for at in one]) for one in drawn]
        assert (low, high) == pytest.approx(np.quantile(means, (0.025, 0.975)))


def test_whole_persons_are_drawn_with_all_their_queries() -> None:
    values, person = np.random.default_rng(1).normal(size=(1, 30)), np.random.default_rng(2).integers(5, 9, 30)
    drawn = np.random.default_rng(0).integers(0, 4, (100, 4))
    means = [np.concatenate([values[0, person == 5 + one] for one in some]).mean() for some in drawn]
    assert intervals(values, groups=person, resamples=100)[:, 0] == pytest.approx(np.quantile(means, (0.025, 0.975)))


def test_queries_that_are_all_alike_within_a_person_are_no_surer_than_persons() -> None:
    of_person = np.random.default_rng(3).normal(size=12)
    alike, person = np.repeat(of_person, 20)[None], np.repeat(np.arange(12), 20)
    by_person, by_query = (np.diff(one, axis=0).item() for one in (intervals(alike, groups=person), intervals(alike)))
    assert by_person > 3 * by_query


def test_an_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(4)
    low, high = intervals(random.normal(0.3, 1, size=(400, 80)), resamples=400)
    assert 0.90 <= np.mean((low <= 0.3) & (high >= 0.3)) <= 0.98


@settings(max_examples=25)
@given(st.lists(st.floats(-1, 1), min_size=2, max_size=20), st.floats(-1, 1))
def test_adding_to_every_query_moves_the_interval_and_nothing_else(values: list[float], constant: float) -> None:
    before = intervals(np.array([values]), resamples=50)
    np.testing.assert_allclose(intervals(np.array([values]) + constant, resamples=50), before + constant, atol=1e-9)
    assert min(values) - 1e-9 <= before[0, 0] <= before[1, 0] <= max(values) + 1e-9


def test_one_query_or_one_person_tells_nothing() -> None:
    assert np.isnan(intervals(np.ones((2, 1)))).all()
    assert np.isnan(intervals(np.ones((2, 9)), groups=np.zeros(9, dtype=int))).all()
