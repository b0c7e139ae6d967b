"""A sweep's points, trials and outcomes: a point is a set of values, a trial one training of it from one seed."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from orchestration.sweeps.space import Values, point_id

State = Literal["finished", "stopped", "failed"]


@dataclass(frozen=True)
class Trial:
    """`is_scout`: the first of its point, the one that may be stopped."""

    values: Values
    seed: int
    is_scout: bool = False

    @property
    def point(self) -> str:
        return point_id(self.values)

    @property
    def name(self) -> str:
        return f"{self.point}-{self.seed}"


@dataclass(frozen=True)
class Outcome:
    """What became of a trial. score: the objective after `epoch` epochs; None where it was never scored."""

    state: State
    epoch: int = 0
    score: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    run_id: str | None = None
    reason: str | None = None
    curve: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Score:
    """Of a point over its seeds: mean, sample standard deviation (None of one seed), how many."""

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
class Point:
    """One set of values and what its seeds came to."""

    values: Values
    outcomes: dict[int, Outcome] = field(default_factory=dict)  # by seed

    @property
    def id(self) -> str:
        return point_id(self.values)

    @property
    def stopped(self) -> bool:
        return any(outcome.state == "stopped" for outcome in self.outcomes.values())

    def of(self, state: State) -> dict[int, Outcome]:
        return {seed: outcome for seed, outcome in sorted(self.outcomes.items()) if outcome.state == state}

    def is_closed(self, seeds: Iterable[int]) -> bool:
        """Nothing of it is left to be trained."""
        return self.stopped or all(seed in self.outcomes for seed in seeds)

    @property
    def score(self) -> Score | None:
        """Of the seeds that were trained to the end; of a point that was stopped, what its scout had reached."""
        counted = self.of("stopped") if self.stopped else self.of("finished")
        return score_of(o.score for o in counted.values() if o.score is not None)

    def metric(self, name: str) -> Score | None:
        counted = self.of("stopped") if self.stopped else self.of("finished")
        return score_of(o.metrics[name] for o in counted.values() if name in o.metrics)

    def best_seed(self) -> int:
        """Of those that were trained to the end."""
        finished = {seed: outcome.score for seed, outcome in self.of("finished").items() if outcome.score is not None}
        return max(finished, key=lambda seed: finished[seed])


class Ledger:
    """Every point of a sweep, in the order in which they came up."""

    def __init__(self, seeds: Iterable[int]) -> None:
        self.seeds = tuple(seeds)
        self.points: dict[str, Point] = {}

    def __iter__(self) -> Iterator[Point]:
        return iter(self.points.values())

    def point(self, values: Values) -> Point:
        return self.points.setdefault(point_id(values), Point(values))

    def record(self, trial: Trial, outcome: Outcome) -> Point:
        point = self.point(trial.values)
        point.outcomes[trial.seed] = outcome
        return point

    def ranked(self) -> list[Point]:
        """The best first: those trained to the end by their means, then those that were stopped, then those without a score."""

        def order(point: Point) -> tuple[bool, bool, float]:
            score = point.score
            return score is None, point.stopped, -(score.mean if score else 0.0)

        return sorted(self, key=order)

    def best(self) -> Point | None:
        """The highest mean among points trained to the end."""
        ranked = [point for point in self.ranked() if point.score and not point.stopped]
        return ranked[0] if ranked else None

    def curves(self) -> dict[str, dict[int, float]]:
        """Of the scouts that are done: trial's name → epoch → score."""
        scout = self.seeds[0]
        return {
            Trial(point.values, scout).name: dict(point.outcomes[scout].curve)
            for point in self
            if scout in point.outcomes and point.outcomes[scout].state != "failed"
        }

    def as_rows(self, names: Iterable[str]) -> list[dict[str, Any]]:
        """A row for each point, the best first, as plain data: fractions."""
        rows = []
        for point in self.ranked():
            score = point.score
            rows.append(
                {
                    "point": point.id,
                    "values": point.values,
                    "state": state_of(point, self.seeds),
                    "score": score and score.mean,
                    "spread": score and score.spread,
                    "seeds": {seed: outcome.score for seed, outcome in sorted(point.outcomes.items())},
                    "epochs": max((outcome.epoch for outcome in point.outcomes.values()), default=0),
                    "metrics": {name: found.mean for name in names if (found := point.metric(name))},
                    "runs": {seed: outcome.run_id for seed, outcome in sorted(point.outcomes.items())},
                    "failures": {seed: outcome.reason for seed, outcome in point.of("failed").items()},
                }
            )
        return rows


def state_of(point: Point, seeds: Iterable[int]) -> str:
    if point.stopped:
        return "stopped"
    failed = len(point.of("failed"))
    if not point.is_closed(seeds):
        return "unfinished"
    return "finished" if not failed else f"{failed} failed"
