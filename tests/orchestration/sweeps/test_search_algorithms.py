"""What Optuna is told and proposes, over several processes of a sweep."""

from __future__ import annotations

import random
import statistics
from collections.abc import Mapping
from typing import Any

import pytest

from orchestration.sweeps import search_algorithms
from orchestration.sweeps.space import Choice, Range, grid
from orchestration.sweeps.state import Result, SweepState, Trial
from orchestration.tuning.trial_queue import TrialQueue
from tests.orchestration.sweeps.simulation import SPACE, play, quality


def test_optuna_learns_from_means_and_from_what_earlier_processes_found() -> None:
    space = {"a": Range(0.01, 1.0, log=True), "b": Choice(("x", "y"))}

    def score(values: Mapping[str, Any]) -> float:
        return -abs(values["a"] - 0.3) + (0.2 if values["b"] == "y" else 0)

    def run(budget: int, sweep_state: SweepState) -> None:
        queue = TrialQueue(
            sweep_state, search_algorithms.Bayesian(space, budget, 1, sweep_state.configurations), early_stopping=False
        )
        while (trial := queue.pop()) is not None:
            queue.complete(trial, Result("finished", 1, score(trial.values), {}))

    sweep_state = SweepState((1, 2))
    run(12, sweep_state)
    assert len(sweep_state.configurations) == 12
    run(36, sweep_state)
    assert len(sweep_state.configurations) == 36
    later = list(sweep_state.configurations.values())[12:]
    drawn = [next(iter([p])) for p in list(sweep_state.configurations.values())[:5]]
    assert statistics.fmean(score(p.values) for p in later[-12:]) > statistics.fmean(score(p.values) for p in drawn)
    assert all(0.01 <= configuration.values["a"] <= 1 for configuration in sweep_state)


def scores_of(search: search_algorithms.Bayesian) -> list[tuple[dict[str, Any], float]]:
    """What Optuna knows."""
    return [(one.params, one.value) for one in search.search._ot_study.trials if one.state.name == "COMPLETE"]


def test_optuna_is_told_each_complete_configuration_of_its_space_whoever_proposed_it() -> None:
    sweep_state = SweepState((1, 2))
    fits, lacks_a_seed = {"a": 2, "b": "x", "c": 0.5}, {"a": 1.0, "b": "y", "c": 1}
    elsewhere = [{"a": 9, "b": "x", "c": 0.5}, {"a": 2, "b": "x", "c": 7.0}, {"a": 2, "b": "x"}]
    for values in (fits, lacks_a_seed, *elsewhere):
        for seed in (1, 2) if values is not lacks_a_seed else (1,):
            sweep_state.record(Trial(values, seed), Result("finished", 9, quality(Trial(values, seed)), {}))
    search = search_algorithms.Bayesian({**SPACE, "c": Range(0.1, 1.0)}, 5, 0, sweep_state.configurations)
    queue = TrialQueue(sweep_state, search, early_stopping=False)
    assert scores_of(search) == [({"a": "2", "b": '"x"', "c": 0.5}, pytest.approx(0.2015))]
    begun = play(queue, 1, random.Random(0))
    assert begun[0].values == lacks_a_seed
    assert scores_of(search)[1] == ({"a": "1", "b": '"y"', "c": 1}, pytest.approx(0.1015))
    assert len({trial.configuration_id for trial in begun}) == 1 + 3, "five configurations of this space in all"


@pytest.mark.parametrize("known", [0, 4])
def test_repeated_proposals_are_not_trained_again_and_do_not_use_up_the_budget(known: int) -> None:
    sweep_state = SweepState((1,))
    for values in list(grid(SPACE))[:known]:
        sweep_state.record(Trial(values, 1), Result("finished", 9, quality(Trial(values, 1)), {}))
    search = search_algorithms.Bayesian(SPACE, 6, 0, sweep_state.configurations)
    begun = play(TrialQueue(sweep_state, search, early_stopping=False), 2, random.Random(0))
    assert len(begun) == 6 - known
    assert len(sweep_state.configurations) == 6
    assert len(scores_of(search)) == 6
