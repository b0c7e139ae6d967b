"""Points, seeds and stopping, without a cluster: what is trained, in which order, and what its score is."""

from __future__ import annotations

import random
import statistics
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestration.sweeps import search_algorithms
from orchestration.sweeps.early_stopping import asha, average_to, median
from orchestration.sweeps.search_algorithms import SEARCH_ALGORITHMS
from orchestration.sweeps.space import Choice, Range, grid
from orchestration.sweeps.state import Result, SweepState, Trial
from orchestration.training.milestones import milestones, remaining
from orchestration.tuning.trial_queue import TrialQueue

SPACE = {"a": Choice((1, 2, 3)), "b": Choice(("x", "y"))}


def quality(trial: Trial) -> float:
    return trial.values["a"] / 10 + trial.seed / 1000


def play(
    queue: TrialQueue, concurrent: int, order: random.Random, stopped_below: float = 0, failing: Any = ()
) -> list[Trial]:
    """Runs a sweep whose trials end in any order; returns them as they began."""
    begun: list[Trial] = []
    live: list[Trial] = []
    while not queue.finished:
        while len(live) < concurrent and (trial := queue.pop()) is not None:
            begun.append(trial)
            live.append(trial)
        if not live:
            assert queue.finished
            break
        trial = live.pop(order.randrange(len(live)))
        score = quality(trial)
        if (trial.values["a"], trial.seed) in failing:
            queue.complete(trial, Result("failed", reason="told"))
        elif trial.is_first_seed and score < stopped_below:
            queue.complete(trial, Result("stopped", 2, score, {"m": score}))
        else:
            queue.complete(trial, Result("finished", 9, score, {"m": score}))
    return begun


def queue_of(
    search: str, budget: int | None, seeds: int, early_stopping: bool, sweep_state: SweepState | None = None
) -> TrialQueue:
    sweep_state = sweep_state or SweepState(range(1, seeds + 1))
    return TrialQueue(
        sweep_state,
        SEARCH_ALGORITHMS[search](SPACE, budget, 0, sweep_state.configurations),
        early_stopping=early_stopping,
    )


@given(st.sampled_from(["grid", "random"]), st.integers(1, 3), st.integers(1, 4), st.integers(0, 9))
def test_every_point_is_trained_from_every_seed_once(search: str, seeds: int, concurrent: int, order: int) -> None:
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


def test_a_point_that_lost_a_seed_has_the_mean_of_the_others() -> None:
    queue = queue_of("grid", None, 2, early_stopping=True)
    play(queue, 2, random.Random(0), failing={(3, 1), (2, 1), (2, 2)})
    by_value = {configuration.values["a"]: configuration for configuration in queue.sweep_state}
    assert by_value[3].score is not None
    assert (by_value[3].score.mean, by_value[3].score.count) == (0.302, 1)
    assert by_value[2].score is None
    assert [configuration.values["a"] for configuration in queue.sweep_state.ranked()] == [3, 3, 1, 1, 2, 2]


@given(st.integers(0, 12), st.booleans(), st.integers(0, 9))
def test_a_sweep_that_goes_on_trains_what_is_missing_and_nothing_else(
    done: int, early_stopping: bool, order: int
) -> None:
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


class Told:
    """A search algorithm without proposals that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Mapping[str, Any], float | None]] = []

    def ask(self) -> None:
        return None

    def tell(self, values: Mapping[str, Any], score: float | None) -> None:
        self.told.append((values, score))


def test_a_sweep_that_goes_on_tells_what_is_complete_and_finishes_what_lacks_seeds_before_anything_else() -> None:
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


def scores_of(search: search_algorithms.Bayesian) -> list[tuple[dict[str, Any], float]]:
    """What Optuna knows."""
    return [(one.params, one.value) for one in search.search._ot_study.trials if one.state.name == "COMPLETE"]


def test_optuna_hears_of_each_complete_point_of_its_space_whoever_proposed_it() -> None:
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
    assert len({trial.configuration_id for trial in begun}) == 1 + 3, "five points of this space in all"


@pytest.mark.parametrize("known", [0, 4])
def test_what_optuna_proposes_again_is_not_trained_again_and_takes_no_other_points_place(known: int) -> None:
    sweep_state = SweepState((1,))
    for values in list(grid(SPACE))[:known]:
        sweep_state.record(Trial(values, 1), Result("finished", 9, quality(Trial(values, 1)), {}))
    search = search_algorithms.Bayesian(SPACE, 6, 0, sweep_state.configurations)
    begun = play(TrialQueue(sweep_state, search, early_stopping=False), 2, random.Random(0))
    assert len(begun) == 6 - known
    assert len(sweep_state.configurations) == 6
    assert len(scores_of(search)) == 6


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


@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 30), st.integers(0, 1))
def test_a_trial_is_scored_at_its_end_and_as_often_as_said(epochs: int, every: int, epoch: int, batch: int) -> None:
    found = milestones(epochs, every)
    assert found[-1] == epochs
    assert all(at % every == 0 or at == epochs for at in found)
    left = remaining(found, epoch, batch)
    assert left == [at for at in found if at > epoch or (at == epoch and not batch)]
