"""The early-stopping rules as functions of curves."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestration.sweeps.early_stopping import asha, average_to, median

curves = st.lists(st.lists(st.floats(0, 1, width=16), min_size=9, max_size=9), min_size=1, max_size=8)


@given(curves, st.randoms(use_true_random=False))
def test_halving_decides_as_rays_scheduler_does(scores: list[list[float]], order: random.Random) -> None:
    from ray.tune.schedulers import TrialScheduler
    from ray.tune.schedulers.async_hyperband import _Bracket

    bracket = _Bracket(min_t=1, max_t=9, reduction_factor=3, s=0)
    rule = asha(grace=1, max_epochs=9)
    known: dict[str, dict[int, float]] = {}
    live = {str(n): list(enumerate(curve, start=1)) for n, curve in enumerate(scores)}
    while live:
        name = order.choice(sorted(live))
        epoch, score = live[name].pop(0)
        known.setdefault(name, {})[epoch] = score
        trial = type("T", (), {"trial_id": name})()
        rays = epoch < 9 and bracket.on_result(trial, epoch, score) == TrialScheduler.STOP
        assert rule(name, epoch, known) == rays
        if rays or not live[name]:
            del live[name]


def test_the_median_rule_stops_what_is_below_half_of_the_others() -> None:
    rule = median(grace=2, max_epochs=9)
    known = {str(n): {1: 0.1 * n, 2: 0.1 * n + 0.1, 3: 0.1 * n + 0.2} for n in range(5)}
    assert average_to(known["4"], 3) == pytest.approx(0.5)
    # "1": its best is 0.3; the others' averages are 0.1, 0.3, 0.4, 0.5
    assert [name for name in known if rule(name, 3, known)] == ["0", "1"]
    assert not rule("0", 1, known)  # within grace
    assert not rule("0", 3, {"0": known["0"], "4": known["4"]})  # too few to go by


def test_rules_count_from_the_first_epoch_that_changes_a_score() -> None:
    curves = {name: {5: low, 7: low, 13: low} for name, low in (("a", 0.9), ("b", 0.8), ("c", 0.7), ("d", 0.1))}
    stops = asha(1, 14, 4)
    assert [stops("d", epoch, curves) for epoch in (5, 7, 13)] == [True, True, True]
    assert not asha(3, 14, 4)("d", 5, curves)
    assert median(1, 14, 4)("d", 5, curves)
    assert not median(2, 14, 4)("d", 5, curves)
