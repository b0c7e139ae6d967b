"""The order of trials, over configurations and seeds, without a cluster."""

from __future__ import annotations

import random
import statistics
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestration.sweeps.space import grid
from orchestration.sweeps.state import Result, SweepState, Trial
from orchestration.tuning.trial_queue import TrialQueue
from tests.orchestration.sweeps.simulation import SPACE, play, quality, queue_of


@given(st.sampled_from(["grid", "random"]), st.integers(1, 3), st.integers(1, 4), st.integers(0, 9))
def test_every_configuration_is_trained_from_every_seed_once(
    search: str, seeds: int, concurrent: int, order: int
) -> None:
    queue = queue_of(search, None, seeds, early_stopping=False)
    begun = play(queue, concurrent, random.Random(order))
    assert sorted(t.name for t in begun) == sorted(
        Trial(values, seed).name for values in grid(SPACE) for seed in range(1, seeds + 1)
    )
    for configuration in queue.sweep_state:
        scores = [quality(Trial(configuration.values, seed)) for seed in range(1, seeds + 1)]
        assert configuration.score is not None
        assert configuration.score.mean == pytest.approx(statistics.fmean(scores))
        assert configuration.score.spread == (pytest.approx(statistics.stdev(scores)) if seeds > 1 else None)


@given(st.integers(2, 3), st.integers(1, 4), st.integers(0, 9))
def test_other_seeds_are_trained_after_the_first_seed_ends_and_are_never_stopped(
    seeds: int, concurrent: int, order: int
) -> None:
    queue = queue_of("grid", None, seeds, early_stopping=True)
    begun = play(queue, concurrent, random.Random(order), stopped_below=0.2)
    for configuration in queue.sweep_state:
        trials = [trial for trial in begun if trial.configuration_id == configuration.id]
        assert [trial.is_first_seed for trial in trials] == [True] + [False] * (len(trials) - 1)
        assert len(trials) == (1 if configuration.values["a"] == 1 else seeds)
    best = queue.sweep_state.best()
    assert best is not None
    assert best.values["a"] == 3
    assert all(configuration.stopped for configuration in queue.sweep_state.ranked()[-2:])


@given(st.integers(0, 12), st.booleans(), st.integers(0, 9))
def test_a_resumed_sweep_trains_what_is_missing_and_nothing_else(done: int, early_stopping: bool, order: int) -> None:
    first = queue_of("grid", None, 2, early_stopping)
    begun = play(first, 1, random.Random(order))[:done]
    sweep_state = SweepState((1, 2))
    for trial in begun:
        sweep_state.record(trial, Result("finished", 9, quality(trial), {}))
    again = play(queue_of("grid", None, 2, early_stopping, sweep_state), 3, random.Random(order))
    assert sorted(t.name for t in [*begun, *again]) == sorted(
        Trial(values, seed).name for values in grid(SPACE) for seed in (1, 2)
    )
    begun_configurations = {
        trial.configuration_id
        for trial in begun
        if sum(t.configuration_id == trial.configuration_id for t in begun) == 1
    }
    assert {trial.configuration_id for trial in again[: len(begun_configurations)]} == begun_configurations


class Told:
    """A search algorithm without proposals that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Mapping[str, Any], float | None]] = []

    def ask(self) -> None:
        return None

    def tell(self, values: Mapping[str, Any], score: float | None) -> None:
        self.told.append((values, score))


def test_a_resumed_sweep_reports_complete_configurations_and_first_finishes_those_that_lack_seeds() -> None:
    sweep_state = SweepState((1, 2))
    untouched, half, whole = ({"a": a, "b": "x"} for a in (1, 2, 3))
    sweep_state.configuration(untouched)
    for values, seeds in ((half, (1,)), (whole, (1, 2))):
        for seed in seeds:
            trial = Trial(values, seed)
            sweep_state.record(trial, Result("finished", 9, quality(trial), {}))
    algorithm = Told()
    queue = TrialQueue(sweep_state, algorithm, early_stopping=False)
    assert algorithm.told == [(whole, pytest.approx(0.3015))]
    begun = play(queue, 1, random.Random(0))
    assert [(t.values, t.seed) for t in begun] == [(half, 2), (untouched, 1), (untouched, 2)]
    assert algorithm.told[1:] == [(half, pytest.approx(0.2015)), (untouched, pytest.approx(0.1015))]
