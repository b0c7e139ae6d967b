"""A sweep without a cluster: trials that end at once, in any order, with known scores."""

from __future__ import annotations

import random
from typing import Any

from orchestration.sweeps.search_algorithms import SEARCH_ALGORITHMS
from orchestration.sweeps.space import Choice
from orchestration.sweeps.state import Result, SweepState, Trial
from orchestration.tuning.trial_queue import TrialQueue

SPACE = {"a": Choice((1, 2, 3)), "b": Choice(("x", "y"))}


def quality(trial: Trial) -> float:
    return trial.values["a"] / 10 + trial.seed / 1000


def play(
    queue: TrialQueue, concurrent: int, order: random.Random, stopped_below: float = 0, failing: Any = ()
) -> list[Trial]:
    """Run a sweep whose trials end in any order; return its trials in the order in which they started."""
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
