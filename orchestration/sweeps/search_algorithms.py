"""Search algorithms, which choose the configurations of a sweep: grid, random samples, or Optuna.

`known` holds the configurations of the sweep by id, including those of earlier processes; the caller adds new ones to it.
None of them is proposed again. `budget` is the number of configurations.
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

MAX_REPEATS = 100  # proposals of known configurations in a row


class SearchAlgorithm(Protocol):
    def ask(self) -> Values | None:
        """The values of a new configuration; None when there are no more."""

    def tell(self, values: Values, score: float | None) -> None:
        """Report a complete configuration, whoever proposed it. score: the mean over its seeds, None if all failed."""


class Listed:
    """The configurations of a list that are not known."""

    def __init__(self, listed: Iterator[Values], known: Mapping[str, Configuration]) -> None:
        self.remaining = (values for values in listed if configuration_id(values) not in known)

    def ask(self) -> Values | None:
        return next(self.remaining, None)

    def tell(self, values: Values, score: float | None) -> None:
        """Scores do not change the list."""


def grid(space: Space, budget: int | None, seed: int, known: Mapping[str, Configuration]) -> SearchAlgorithm:
    return Listed(islice(spaces.grid(space), budget), known)


def random(space: Space, budget: int | None, seed: int, known: Mapping[str, Configuration]) -> SearchAlgorithm:
    return Listed(islice(spaces.samples(space, seed), budget), known)


class Bayesian:
    """Optuna's tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011) through Ray Tune.

    Running trials count as bad ones, so that parallel trials do not all try the same region (`constant_liar`). Repeated
    proposals are skipped and do not count; configurations of `known` that lie in this space do.
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
        self.asked: dict[str, str] = {}  # configuration_id → Optuna's name of it, until its score is reported

    def ask(self) -> Values | None:
        if self.remaining <= 0:
            return None
        values = self.suggest()
        self.remaining -= values is not None
        return values

    def suggest(self) -> Values | None:
        """A proposal of Optuna; a random sample after MAX_REPEATS known ones; None if all configurations are known."""
        for name in islice(self.names, MAX_REPEATS):
            found: Any = self.search.suggest(name)
            values = {key: self.decode(key, found[key]) for key in self.space}
            if configuration_id(values) not in self.known:
                self.asked[configuration_id(values)] = name
                return values
            self.search.on_trial_complete(name, error=True)  # its score was reported, or will be
        return Listed(spaces.samples(self.space, self.seed), self.known).ask()

    def tell(self, values: Values, score: float | None) -> None:
        if name := self.asked.pop(configuration_id(values), None):
            self.search.on_trial_complete(name, None if score is None else {"score": score}, error=score is None)
        elif score is not None and (encoded := self.encode(values)) is not None:
            self.search.add_evaluated_point(encoded, score)

    def encode(self, values: Values) -> dict[str, Any] | None:
        """In Optuna's types; None if the values lie outside this space."""
        if values.keys() != self.space.keys():
            return None
        encoded = {key: encode(axis, values[key]) for key, axis in self.space.items()}
        return None if None in encoded.values() else encoded

    def decode(self, key: str, value: Any) -> Any:
        axis = self.space[key]
        return json.loads(value) if not isinstance(axis, Range) else value if axis.whole else axis.within(value)


def encode(axis: spaces.Axis, value: Any) -> float | str | None:
    """The value in Optuna's type; None if it lies outside the axis."""
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


SEARCH_ALGORITHMS: dict[str, Callable[[Any, Any, int, Mapping[str, Configuration]], SearchAlgorithm]] = {
    "grid": grid,
    "random": random,
    "bayes": Bayesian,
}
