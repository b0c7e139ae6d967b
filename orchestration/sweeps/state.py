"""What a sweep knows: configurations (points of the space), trials (one configuration, one seed) and their results."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from orchestration.sweeps.space import Values, configuration_id

State = Literal["finished", "stopped", "failed"]


@dataclass(frozen=True)
class Trial:
    """The training of one configuration from one seed. Where trials stop early, only the first seed may be stopped."""

    values: Values
    seed: int
    is_first_seed: bool = False

    @property
    def configuration_id(self) -> str:
        return configuration_id(self.values)

    @property
    def name(self) -> str:
        return f"{self.configuration_id}-{self.seed}"


@dataclass(frozen=True)
class Result:
    """How a trial ended. score: the objective after `epoch` epochs, None if the trial was never scored."""

    state: State
    epoch: int = 0
    score: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    run_id: str | None = None
    reason: str | None = None
    curve: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Score:
    """Mean and sample standard deviation (None for one seed) over `count` seeds of a configuration."""

    mean: float
    spread: float | None
    count: int

    def __str__(self) -> str:
        """In percent."""
        return f"{100 * self.mean:.1f}" + (f" ± {100 * self.spread:.1f}" if self.spread is not None else "")


def score_of(numbers: Iterable[float]) -> Score | None:
    found = list(numbers)
    if not found:
        return None
    return Score(statistics.fmean(found), statistics.stdev(found) if len(found) > 1 else None, len(found))


@dataclass
class Configuration:
    """One set of values and the results of its seeds."""

    values: Values
    results: dict[int, Result] = field(default_factory=dict)  # by seed

    @property
    def id(self) -> str:
        return configuration_id(self.values)

    @property
    def stopped(self) -> bool:
        return any(result.state == "stopped" for result in self.results.values())

    def of(self, state: State) -> dict[int, Result]:
        return {seed: result for seed, result in sorted(self.results.items()) if result.state == state}

    def is_closed(self, seeds: Iterable[int]) -> bool:
        """Whether no seed is left to train."""
        return self.stopped or all(seed in self.results for seed in seeds)

    @property
    def score(self) -> Score | None:
        """Over the seeds that finished; for a stopped configuration, the score that its first seed reached."""
        counted = self.of("stopped") if self.stopped else self.of("finished")
        return score_of(o.score for o in counted.values() if o.score is not None)

    def metric(self, name: str) -> Score | None:
        counted = self.of("stopped") if self.stopped else self.of("finished")
        return score_of(o.metrics[name] for o in counted.values() if name in o.metrics)

    def best_seed(self) -> int:
        """The seed with the highest score among those that finished."""
        finished = {seed: result.score for seed, result in self.of("finished").items() if result.score is not None}
        return max(finished, key=lambda seed: finished[seed])


class SweepState:
    """The configurations of a sweep, in the order in which they were proposed."""

    def __init__(self, seeds: Iterable[int]) -> None:
        self.seeds = tuple(seeds)
        self.configurations: dict[str, Configuration] = {}

    def __iter__(self) -> Iterator[Configuration]:
        return iter(self.configurations.values())

    def configuration(self, values: Values) -> Configuration:
        return self.configurations.setdefault(configuration_id(values), Configuration(values))

    def record(self, trial: Trial, result: Result) -> Configuration:
        configuration = self.configuration(trial.values)
        configuration.results[trial.seed] = result
        return configuration

    def ranked(self) -> list[Configuration]:
        """Finished configurations by descending mean, then stopped ones, then those without a score."""

        def order(configuration: Configuration) -> tuple[bool, bool, float]:
            score = configuration.score
            return score is None, configuration.stopped, -(score.mean if score else 0.0)

        return sorted(self, key=order)

    def best(self) -> Configuration | None:
        """The finished configuration with the highest mean."""
        ranked = [configuration for configuration in self.ranked() if configuration.score and not configuration.stopped]
        return ranked[0] if ranked else None

    def curves(self) -> dict[str, dict[int, float]]:
        """Curves of the first seeds that ended without failure: trial's name → epoch → score."""
        first = self.seeds[0]
        return {
            Trial(configuration.values, first).name: dict(configuration.results[first].curve)
            for configuration in self
            if first in configuration.results and configuration.results[first].state != "failed"
        }

    def as_rows(self, names: Iterable[str]) -> list[dict[str, Any]]:
        """One row per configuration, best first, as plain JSON. Scores are fractions."""
        rows = []
        for configuration in self.ranked():
            score = configuration.score
            rows.append(
                {
                    "point": configuration.id,
                    "values": configuration.values,
                    "state": state_of(configuration, self.seeds),
                    "score": score and score.mean,
                    "spread": score and score.spread,
                    "seeds": {seed: result.score for seed, result in sorted(configuration.results.items())},
                    "epochs": max((result.epoch for result in configuration.results.values()), default=0),
                    "metrics": {name: found.mean for name in names if (found := configuration.metric(name))},
                    "runs": {seed: result.run_id for seed, result in sorted(configuration.results.items())},
                    "failures": {seed: result.reason for seed, result in configuration.of("failed").items()},
                }
            )
        return rows


def state_of(configuration: Configuration, seeds: Iterable[int]) -> str:
    if configuration.stopped:
        return "stopped"
    failed = len(configuration.of("failed"))
    if not configuration.is_closed(seeds):
        return "unfinished"
    return "finished" if not failed else f"{failed} failed"
