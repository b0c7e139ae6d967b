"""Which trial is next, of all points and seeds: a state machine without clock, cluster or files.

What an earlier process began comes first, what it came farther with before the rest, then the other seeds of points that
are under way, then new points. With early stopping, a configuration's first seed runs first, its other seeds after it ended. The proposals hear of each point once, when it is complete.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from orchestration.sweeps.search_algorithms import Proposals
from orchestration.sweeps.state import Configuration, Result, SweepState, Trial


class Turns:
    """`next` gives a trial, or None where there is nothing to do now; `tell` takes what became of one."""

    def __init__(self, sweep_state: SweepState, proposals: Proposals, *, early_stopping: bool) -> None:
        self.sweep_state, self.proposals, self.early_stopping = sweep_state, proposals, early_stopping
        self.seeds: Sequence[int] = sweep_state.seeds
        self.queue: deque[Trial] = deque()
        self.running: dict[str, Trial] = {}
        self.exhausted = False
        for configuration in sweep_state:
            if configuration.is_closed(self.seeds):
                self.proposals.tell(configuration.values, mean(configuration))
        for configuration in sorted(sweep_state, key=lambda configuration: not configuration.results):
            self.queue_rest(configuration)

    def next(self) -> Trial | None:
        if not self.queue and not self.exhausted:
            self.propose()
        if not self.queue:
            return None
        trial = self.queue.popleft()
        self.running[trial.name] = trial
        return trial

    @property
    def finished(self) -> bool:
        """Nothing runs and nothing will."""
        return self.exhausted and not self.queue and not self.running

    def tell(self, trial: Trial, result: Result) -> None:
        self.running.pop(trial.name, None)
        configuration = self.sweep_state.record(trial, result)
        if self.early_stopping and trial.is_first_seed:
            self.queue_rest(configuration)
        if configuration.is_closed(self.seeds):
            self.proposals.tell(configuration.values, mean(configuration))

    def propose(self) -> None:
        values = self.proposals.next()
        if values is None:
            self.exhausted = True
        else:
            self.queue_rest(self.sweep_state.configuration(values))

    def queue_rest(self, configuration: Configuration) -> None:
        """Queue the first seed of a configuration, or all seeds that have no result."""
        if configuration.stopped:
            return
        first, *others = self.seeds
        if self.early_stopping and first not in configuration.results:
            self.queue.append(Trial(configuration.values, first, is_first_seed=True))
            return
        for seed in [first, *others]:
            if seed not in configuration.results:
                self.queue.append(Trial(configuration.values, seed))


def mean(configuration: Configuration) -> float | None:
    return configuration.score.mean if configuration.score else None
