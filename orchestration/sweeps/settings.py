"""The settings of a sweep, checked as a whole before any trial starts."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from orchestration.config.diagnostics import either
from orchestration.config.epochs import scored_epochs
from orchestration.config.load import Experiment, build
from orchestration.config.meta import build_on_meta
from orchestration.config.recipes import put
from orchestration.config.settings import is_model_name
from orchestration.errors import RequestError
from orchestration.evaluation.evaluate import check_inputs, metric_names, open_for_evaluation
from orchestration.evaluation.modes import RERANKED
from orchestration.sweeps import space as spaces
from orchestration.sweeps.early_stopping import RULES, Rule
from orchestration.sweeps.search_algorithms import SEARCH_ALGORITHMS
from orchestration.sweeps.space import Choice, Space, Values
from orchestration.sweeps.unused_settings import why_without_effect

OBJECTIVE = "clothes-changing/mAP"
POINTS = 20  # default budget of a search over an infinite space
MAX_CHECKED = 100  # combinations of a grid that are validated before anything runs
NONE = "none"


@dataclass(frozen=True)
class SweepSettings:
    """points: number of configurations, None for the whole grid. stop: "none" or a rule of `early_stopping`. every: epochs
    between validations. grace: epochs before the first stop. register: the name of the best model, None to register none."""

    over: tuple[str, ...]
    search: str | None = None
    points: int | None = None
    seeds: int = 1
    objective: str = OBJECTIVE
    stop: str = NONE
    every: int | None = None
    grace: int | None = None
    retries: int = 1
    concurrent: int | None = None
    register: str | None = None

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> SweepSettings:
        return cls(**{**plain, "over": tuple(plain["over"])})


@dataclass(frozen=True)
class Plan:
    """A validated sweep. seeds: consecutive, from the experiment's seed on."""

    settings: SweepSettings
    experiment: Experiment
    space: dict[str, spaces.Axis]
    points: int
    seeds: tuple[int, ...]
    rule: Rule | None

    @property
    def num_trials(self) -> int:
        return self.points * len(self.seeds)

    def trial_experiment(self, values: Values, seed: int) -> Experiment:
        """Raises: RequestError if the combination of values cannot be trained."""
        return varied(self.experiment, values, {"seed": seed, "register": None})


def plan(experiment: Experiment, settings: SweepSettings) -> Plan:
    """Validate a sweep and fill in its defaults. Raises: RequestError naming the error and its fix."""
    if experiment.select != "last":
        raise RequestError(f"select = {experiment.select}: a sweep scores the last epoch of each run. Set select=last")
    if experiment.until is not None:
        raise RequestError(f"until = {experiment.until}: a sweep compares runs of all their stages. Set until=null")
    if not isinstance(experiment.workers, int):
        sizes = either([str(size) for size in experiment.group_sizes()])
        raise RequestError(
            f"workers is a range: trials share the cluster with one size of group. Set workers to {sizes}"
        )
    if settings.register is not None:
        check_name(settings.register)
    if settings.retries < 0:
        raise RequestError(f"--retries {settings.retries}: expected 0 or more")
    check_objective(experiment, settings.objective)
    space = spaces.read_space(settings.over)
    if not space:
        raise RequestError("a sweep needs at least one --over KEY=VALUES, such as --over method.tau='log(1/64, 1/4)'")
    check_values(experiment, space)
    check_reranking(space, settings.objective)
    settings = with_defaults(settings, experiment, space)
    assert settings.grace is not None
    points = spaces.size(space) if settings.points is None else settings.points
    if spaces.is_finite(space):
        points = min(points, spaces.size(space))
        check_combinations(experiment, space)
    unscored = experiment.epochs - num_scored(experiment)
    rule = None if settings.stop == NONE else RULES[settings.stop](settings.grace, experiment.epochs, unscored)
    seeds = tuple(range(experiment.seed, experiment.seed + settings.seeds))
    return Plan(settings, experiment, space, points, seeds, rule)


def check_objective(experiment: Experiment, objective: str) -> None:
    """The data set has a validation set, and its protocol reports the metric."""
    dataset, protocol = open_for_evaluation(experiment.data, validation=True)
    check_inputs(experiment, dataset.manifest.label_map, dataset, protocol)
    names = metric_names(dataset, protocol, reranked=experiment.evaluate.rerank is not None)
    if objective not in names:
        listed = ", ".join(names)
        raise RequestError(
            f"--objective {objective}: evaluation on {experiment.data} does not report it. It reports {listed}."
        )


def check_values(experiment: Experiment, space: Space) -> None:
    """Every key is a setting that accepts its values and has an effect. Raises: RequestError listing every error."""
    errors = []
    for key, axis in space.items():
        if (reason := always_without_effect(key, experiment, space)) is not None:
            errors.append(f"--over {key}: {reason}")
            continue
        for value in axis.ends():
            try:
                varied(experiment, {key: value})
            except RequestError as error:
                if not works_in_combination(experiment, space, key, value):
                    errors.append(f"--over {key}: {error}{suggest_int(experiment, key, axis)}")
                    break
    if errors:
        raise RequestError("\n".join(errors))


def check_reranking(space: Space, objective: str) -> None:
    keys = [key for key in space if f"{key}.".startswith("evaluate.rerank.")]
    if keys and RERANKED not in objective:
        raise RequestError(
            f"--over {keys[0]}: has no effect on {objective}, which is measured before re-ranking. Set --objective to a "
            f"re-ranked metric, such as general{RERANKED}/mAP, and evaluate.rerank={{}}."
        )


def check_name(name: str) -> None:
    try:
        is_model_name(name)
    except ValueError as error:
        raise RequestError(f"--register {name}: {error}. Choose another name, or use --no-register.") from error


def always_without_effect(key: str, experiment: Experiment, space: Space) -> str | None:
    """Why the key has no effect for every value of the other keys; None if it has an effect for some."""
    reason = why_without_effect(key, experiment)
    if reason is None:
        return None
    for other in variants(experiment, space, key):
        if why_without_effect(key, other) is None:
            return None
    return reason


def variants(experiment: Experiment, space: Space, key: str) -> Iterator[Experiment]:
    """The experiment with each value of each key other than `key`."""
    for name, axis in space.items():
        for value in axis.ends() if name != key else ():
            try:
                yield varied(experiment, {name: value})
            except RequestError:
                continue


def works_in_combination(experiment: Experiment, space: Space, key: str, value: Any) -> bool:
    """Whether the value is valid together with some value of another key."""
    for name, axis in space.items():
        for other in axis.ends() if name != key else ():
            try:
                varied(experiment, {name: other, key: value})
            except RequestError:
                continue
            return True
    return False


def suggest_int(experiment: Experiment, key: str, axis: spaces.Axis) -> str:
    """The fix for a range of a setting that takes only whole numbers."""
    if isinstance(axis, Choice) or not all(float(end).is_integer() for end in (axis.low, axis.high)):
        return ""
    try:
        for end in (axis.low, axis.high):
            varied(experiment, {key: int(end)})
    except RequestError:
        return ""
    return f"\n  For whole numbers: --over {key}='int({axis.low:g}, {axis.high:g})'"


def check_combinations(experiment: Experiment, space: Space) -> None:
    """Raises: RequestError if combinations of valid values cannot be trained."""
    if len(space) == 1:
        return
    wrong: list[str] = []
    count = 0
    for values in islice(spaces.grid(space), MAX_CHECKED):
        count += 1
        try:
            varied(experiment, values)
        except RequestError as error:
            wrong.append(f"{spaces.shown(values)}: {error}")
    if wrong:
        raise RequestError(
            f"{len(wrong)} of the {count} combinations cannot be trained. Restrict the values. The first of them:\n{wrong[0]}"
        )


def varied(experiment: Experiment, values: Values, more: Mapping[str, Any] | None = None) -> Experiment:
    """The experiment with these settings. Raises: RequestError listing every error."""
    tree = copy.deepcopy(experiment.resolved())
    for key, value in {**values, **(more or {})}.items():
        if obstacle := put(tree, key, value):
            raise RequestError(f"{key}: {obstacle}")
    return build(tree, "--over", [])


def num_scored(experiment: Experiment) -> int:
    """The number of a run's epochs that change what it is scored by; those before them do not count for a sweep."""
    return len(scored_epochs(build_on_meta(experiment).stages(), 0, experiment.epochs))


def with_defaults(settings: SweepSettings, experiment: Experiment, space: Space) -> SweepSettings:
    """Fill in the search algorithm and the numbers of configurations and epochs. Raises: RequestError."""
    finite = spaces.is_finite(space)
    search = settings.search or ("grid" if finite else "bayes")
    if search not in SEARCH_ALGORITHMS:
        raise RequestError(f"--search {search}: expected {either(list(SEARCH_ALGORITHMS))}")
    if search == "grid" and not finite:
        open_keys = [key for key, axis in space.items() if spaces.listed(axis) is None]
        raise RequestError(
            f"--search grid: {' and '.join(open_keys)} {'is a range' if len(open_keys) == 1 else 'are ranges'}, and a grid "
            "needs lists. Give the number of values, as in log(1/64, 1/4, 5), or use --search random or --search bayes."
        )
    if settings.stop not in (NONE, *RULES):
        raise RequestError(f"--stop {settings.stop}: expected {either([NONE, *RULES])}")
    stopping = settings.stop != NONE
    epochs = num_scored(experiment)
    every = settings.every or (max(1, epochs // 20) if stopping else epochs)
    grace = settings.grace or max(every, epochs // 9)
    for name, value in (("--every", every), ("--grace", grace)):
        if value > epochs:
            raise RequestError(
                f"{name} {value}: a run has {epochs} epochs that change a score. Set it to at most {epochs}."
            )
    if stopping and grace >= epochs:
        raise RequestError(
            f"--stop {settings.stop}: no run of {epochs} epochs can stop early with --grace {grace}. "
            "Decrease --grace, increase epochs, or remove --stop."
        )
    points = settings.points if settings.points is not None or search == "grid" else None
    if points is None and search != "grid":
        points = min(POINTS, spaces.size(space)) if finite else POINTS
    return replace(settings, search=search, every=every, grace=grace, points=points)
