"""The order of a sweep's trials, over all configurations and seeds: a state machine without clock, cluster or files.

Trials that an earlier process started come first, those of configurations with results before the others. Then follow the
other seeds of started configurations, then new configurations. With early stopping the first seed of a configuration runs
alone; its other seeds are queued once it has ended. The search algorithm receives a configuration once, when it is complete.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from orchestration.sweeps.search_algorithms import SearchAlgorithm
from orchestration.sweeps.state import Configuration, Result, SweepState, Trial


class TrialQueue:
    """`pop` returns the next trial, or None while there is none to start; `complete` records how a trial ended."""

    def __init__(self, sweep_state: SweepState, search_algorithm: SearchAlgorithm, *, early_stopping: bool) -> None:
        self.sweep_state, self.search_algorithm, self.early_stopping = sweep_state, search_algorithm, early_stopping
        self.seeds: Sequence[int] = sweep_state.seeds
        self.queue: deque[Trial] = deque()
        self.running: dict[str, Trial] = {}
        self.exhausted = False
        for configuration in sweep_state:
            if configuration.is_closed(self.seeds):
                self.search_algorithm.tell(configuration.values, mean(configuration))
        for configuration in sorted(sweep_state, key=lambda configuration: not configuration.results):
            self.queue_rest(configuration)

    def pop(self) -> Trial | None:
        if not self.queue and not self.exhausted:
            self.propose()
        if not self.queue:
            return None
        trial = self.queue.popleft()
        self.running[trial.name] = trial
        return trial

    @property
    def finished(self) -> bool:
        """Whether no trial is running and none is left to start."""
        return self.exhausted and not self.queue and not self.running

    def complete(self, trial: Trial, result: Result) -> None:
        self.running.pop(trial.name, None)
        configuration = self.sweep_state.record(trial, result)
        if self.early_stopping and trial.is_first_seed:
            self.queue_rest(configuration)
        if configuration.is_closed(self.seeds):
            self.search_algorithm.tell(configuration.values, mean(configuration))

    def propose(self) -> None:
        values = self.search_algorithm.ask()
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
