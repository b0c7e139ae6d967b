"""Which points a sweep tries: all of a grid, draws at random, or what Optuna makes of the scores so far.

Each is an object with `next(name)`, a point's values or None when there are no more, and `tell(name, values, score)`, the
mean over the point's seeds (None where all failed). `known` are points of an earlier process of the same sweep.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, Protocol

from orchestration import space as spaces
from orchestration.points import Point
from orchestration.space import Range, Space, Values, point_id


class Proposals(Protocol):
    def next(self, name: str) -> Values | None: ...

    def tell(self, name: str, score: float | None) -> None: ...


class Listed:
    """Points of a list, but for those that are known."""

    def __init__(self, points: Iterator[Values], known: Mapping[str, Point]) -> None:
        self.points = (values for values in points if point_id(values) not in known)

    def next(self, name: str) -> Values | None:
        return next(self.points, None)

    def tell(self, name: str, score: float | None) -> None:
        """The list is what it is."""


def grid(space: Space, points: int | None, seed: int, known: Mapping[str, Point]) -> Proposals:
    return Listed(islice(spaces.grid(space), points), known)


def random(space: Space, points: int | None, seed: int, known: Mapping[str, Point]) -> Proposals:
    return Listed(islice(spaces.draws(space, seed), points), known)


class Bayesian:
    """Optuna's tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011) through Ray Tune.

    Trials that run meanwhile count as bad ones, so that parallel ones do not all try the same (`constant_liar`).
    """

    def __init__(self, space: Space, points: int, seed: int, known: Mapping[str, Point]) -> None:
        import optuna
        from optuna.samplers import TPESampler
        from ray.tune.search.optuna import OptunaSearch

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.space, self.remaining = space, points - len(known)
        self.distributions = {key: distribution(axis) for key, axis in space.items()}
        sampler = TPESampler(seed=seed + len(known), constant_liar=True, n_startup_trials=min(10, max(3, points // 4)))
        self.search = OptunaSearch(self.distributions, metric="score", mode="max", sampler=sampler)
        for point in known.values():
            if point.score is not None:
                self.search.add_evaluated_point(self.encode(point.values), point.score.mean)

    def next(self, name: str) -> Values | None:
        if self.remaining <= 0:
            return None
        self.remaining -= 1
        found: Any = self.search.suggest(name)
        return {key: self.decode(key, found[key]) for key in self.space}

    def tell(self, name: str, score: float | None) -> None:
        if name in self.search._ot_trials:  # not those that were begun by an earlier process
            self.search.on_trial_complete(name, None if score is None else {"score": score}, error=score is None)

    def encode(self, values: Values) -> dict[str, Any]:
        return {
            key: value if isinstance(self.space[key], Range) else json.dumps(value) for key, value in values.items()
        }

    def decode(self, key: str, value: Any) -> Any:
        axis = self.space[key]
        return json.loads(value) if not isinstance(axis, Range) else value if axis.whole else axis.within(value)


def distribution(axis: spaces.Axis) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if not isinstance(axis, Range):
        return CategoricalDistribution([json.dumps(value) for value in axis.values])
    if axis.whole:
        return IntDistribution(int(axis.low), int(axis.high))
    return FloatDistribution(axis.low, axis.high, log=axis.log)


SEARCHES: dict[str, Callable[[Any, Any, int, Mapping[str, Point]], Proposals]] = {
    "grid": grid,
    "random": random,
    "bayes": Bayesian,
}
