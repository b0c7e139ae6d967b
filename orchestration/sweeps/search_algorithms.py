"""Which points a sweep tries: all of a grid, draws at random, or what Optuna makes of the scores so far.

Each is an object with `next()`, a new point's values or None when there are no more, and `tell(values, score)`, the mean
over the seeds of a point that is complete (None where all failed), whoever proposed it. `known` are the points of the sweep,
those of earlier processes and those that come up meanwhile: none of them is proposed again.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, Protocol

from orchestration.sweeps import space as spaces
from orchestration.sweeps.space import Range, Space, Values, configuration_id
from orchestration.sweeps.state import Configuration

MOST_REPEATS = 100  # of what is known, in a row


class Proposals(Protocol):
    def next(self) -> Values | None: ...

    def tell(self, values: Values, score: float | None) -> None: ...


class Listed:
    """The configurations of a list that are not known."""

    def __init__(self, listed: Iterator[Values], known: Mapping[str, Configuration]) -> None:
        self.remaining = (values for values in listed if configuration_id(values) not in known)

    def next(self) -> Values | None:
        return next(self.remaining, None)

    def tell(self, values: Values, score: float | None) -> None:
        """The list is what it is."""


def grid(space: Space, budget: int | None, seed: int, known: Mapping[str, Configuration]) -> Proposals:
    return Listed(islice(spaces.grid(space), budget), known)


def random(space: Space, budget: int | None, seed: int, known: Mapping[str, Configuration]) -> Proposals:
    return Listed(islice(spaces.draws(space, seed), budget), known)


class Bayesian:
    """Optuna's tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011) through Ray Tune.

    Trials that run meanwhile count as bad ones, so that parallel ones do not all try the same (`constant_liar`). What it
    proposes again is passed over, and is no part of the budget: `points`, those known in this space among them.
    """

    def __init__(self, space: Space, budget: int, seed: int, known: Mapping[str, Configuration]) -> None:
        import optuna
        from optuna.samplers import TPESampler
        from ray.tune.search.optuna import OptunaSearch

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.space, self.seed, self.known = space, seed, known
        self.remaining = budget - sum(self.encode(configuration.values) is not None for configuration in known.values())
        self.distributions = {key: distribution(axis) for key, axis in space.items()}
        sampler = TPESampler(seed=seed + len(known), constant_liar=True, n_startup_trials=min(10, max(3, budget // 4)))
        self.search = OptunaSearch(self.distributions, metric="score", mode="max", sampler=sampler)
        self.names = (f"proposal-{number}" for number in itertools.count())
        self.asked: dict[str, str] = {}  # configuration_id → Optuna's name of it, until its score is told

    def next(self) -> Values | None:
        if self.remaining <= 0:
            return None
        values = self.suggest()
        self.remaining -= values is not None
        return values

    def suggest(self) -> Values | None:
        """What Optuna proposes; where that is known again and again, a point at random; None where all are known."""
        for name in islice(self.names, MOST_REPEATS):
            found: Any = self.search.suggest(name)
            values = {key: self.decode(key, found[key]) for key in self.space}
            if configuration_id(values) not in self.known:
                self.asked[configuration_id(values)] = name
                return values
            self.search.on_trial_complete(name, error=True)  # its score is told already, or will be
        return Listed(spaces.draws(self.space, self.seed), self.known).next()

    def tell(self, values: Values, score: float | None) -> None:
        if name := self.asked.pop(configuration_id(values), None):
            self.search.on_trial_complete(name, None if score is None else {"score": score}, error=score is None)
        elif score is not None and (encoded := self.encode(values)) is not None:
            self.search.add_evaluated_point(encoded, score)

    def encode(self, values: Values) -> dict[str, Any] | None:
        """As Optuna has them; None where they are not of this space."""
        if values.keys() != self.space.keys():
            return None
        encoded = {key: encode(axis, values[key]) for key, axis in self.space.items()}
        return None if None in encoded.values() else encoded

    def decode(self, key: str, value: Any) -> Any:
        axis = self.space[key]
        return json.loads(value) if not isinstance(axis, Range) else value if axis.whole else axis.within(value)


def encode(axis: spaces.Axis, value: Any) -> float | str | None:
    """None where the axis has no such value."""
    if isinstance(axis, Range):
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        fits = is_number and axis.low <= value <= axis.high and (not axis.whole or float(value).is_integer())
        return value if fits else None
    same = (one for one in axis.values if spaces.canonical(one) == spaces.canonical(value))
    return next((json.dumps(one) for one in same), None)


def distribution(axis: spaces.Axis) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if not isinstance(axis, Range):
        return CategoricalDistribution([json.dumps(value) for value in axis.values])
    if axis.whole:
        return IntDistribution(int(axis.low), int(axis.high))
    return FloatDistribution(axis.low, axis.high, log=axis.log)


SEARCHES: dict[str, Callable[[Any, Any, int, Mapping[str, Configuration]], Proposals]] = {
    "grid": grid,
    "random": random,
    "bayes": Bayesian,
}
