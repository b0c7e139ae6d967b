"""Scores, ranks and rows of configurations."""

from __future__ import annotations

import math
import random

import pytest

from orchestration.sweeps.space import configuration_id
from orchestration.sweeps.state import Result, SweepState, Trial
from tests.orchestration.sweeps.simulation import play, queue_of


def test_a_configuration_that_lost_a_seed_has_the_mean_of_the_others() -> None:
    queue = queue_of("grid", None, 2, early_stopping=True)
    play(queue, 2, random.Random(0), failing={(3, 1), (2, 1), (2, 2)})
    by_value = {configuration.values["a"]: configuration for configuration in queue.sweep_state}
    assert by_value[3].score is not None
    assert (by_value[3].score.mean, by_value[3].score.count) == (0.302, 1)
    assert by_value[2].score is None
    assert [configuration.values["a"] for configuration in queue.sweep_state.ranked()] == [3, 3, 1, 1, 2, 2]


def state() -> SweepState:
    """Two seeds of four configurations: finished, half finished, stopped, failed."""
    found = SweepState((1, 2))
    results = {
        0.1: [
            Result("finished", 9, 0.2, {"m": 0.2, "n": 0.4}, "run-1"),
            Result("finished", 9, 0.6, {"m": 0.6}, "run-2"),
        ],
        0.2: [Result("finished", 9, 0.3, {"m": 0.3}, curve={3: 0.1, 9: 0.3})],
        0.3: [Result("stopped", 3, 0.9, {"m": 0.9}, reason="slow", curve={3: 0.9})],
        0.4: [Result("failed", reason="died"), Result("failed", reason="died")],
    }
    for tau, of_seeds in results.items():
        for seed, result in enumerate(of_seeds, start=1):
            found.record(Trial({"tau": tau}, seed, is_first_seed=seed == 1), result)
    return found


def test_finished_configurations_rank_before_stopped_ones_whatever_their_scores() -> None:
    found = state()
    assert [configuration.values["tau"] for configuration in found.ranked()] == [0.1, 0.2, 0.3, 0.4]
    best = found.best()
    assert best is not None
    assert (best.values, best.best_seed()) == ({"tau": 0.1}, 2)
    assert SweepState((1,)).best() is None


def test_scores_are_mean_and_sample_deviation_over_seeds() -> None:
    first, half, stopped, failed = state()
    assert first.score is not None
    assert (first.score.mean, first.score.count) == (pytest.approx(0.4), 2)
    assert first.score.spread == pytest.approx(math.sqrt(2 * 0.2**2))  # two values 0.2 from their mean, over n − 1 = 1
    assert str(first.score) == "40.0 ± 28.3"
    assert half.score is not None
    assert (half.score.spread, str(half.score)) == (None, "30.0")
    assert first.metric("n") is not None
    assert (stopped.score is not None, failed.score, stopped.metric("n")) == (True, None, None)


def test_rows_say_what_became_of_each_configuration() -> None:
    rows = {row["values"]["tau"]: row for row in state().as_rows(["m", "n"])}
    assert [rows[tau]["state"] for tau in (0.1, 0.2, 0.3, 0.4)] == ["finished", "unfinished", "stopped", "2 failed"]
    assert rows[0.1]["metrics"] == {"m": pytest.approx(0.4), "n": 0.4}
    assert (rows[0.1]["seeds"], rows[0.1]["runs"]) == ({1: 0.2, 2: 0.6}, {1: "run-1", 2: "run-2"})
    assert (rows[0.3]["epochs"], rows[0.4]["failures"]) == (3, {1: "died", 2: "died"})
    assert rows[0.1]["point"] == configuration_id({"tau": 0.1})


def test_curves_are_those_of_first_seeds_that_did_not_fail() -> None:
    found = state()
    names = {tau: Trial({"tau": tau}, 1).name for tau in (0.1, 0.2, 0.3, 0.4)}
    assert found.curves() == {names[0.1]: {}, names[0.2]: {3: 0.1, 9: 0.3}, names[0.3]: {3: 0.9}}
