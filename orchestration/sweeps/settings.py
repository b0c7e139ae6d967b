"""What a sweep is asked to do, checked as a whole before any trial starts."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from orchestration.config.diagnostics import either
from orchestration.config.load import Experiment, build
from orchestration.config.recipes import put
from orchestration.config.settings import is_model_name
from orchestration.errors import RequestError
from orchestration.evaluation.evaluate import check_inputs, metric_names, open_for_evaluation
from orchestration.evaluation.modes import RERANKED
from orchestration.sweeps import space as spaces
from orchestration.sweeps.early_stopping import RULES, Rule
from orchestration.sweeps.search_algorithms import SEARCH_ALGORITHMS
from orchestration.sweeps.space import Choice, Space, Values
from orchestration.sweeps.unused_settings import inert

OBJECTIVE = "clothes-changing/mAP"
POINTS = 20  # of a search that could go on for ever
MOST_CHECKED = 100  # combinations of a grid that are tried on the schema before anything runs
NONE = "none"


@dataclass(frozen=True)
class SweepSettings:
    """points: None is the whole grid. stop: "none" or a rule of `stopping`. every: epochs between scores; grace: before
    which no trial is stopped. register: the name for the best, None for nobody."""

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
    """A sweep whose parts fit together. seeds: the experiment's and those after it."""

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
        """Raises: RequestError where values that are right each by itself do not go together."""
        return varied(self.experiment, values, {"seed": seed, "register": None})


def plan(experiment: Experiment, settings: SweepSettings) -> Plan:
    """Raises: RequestError with what is wrong and how to mend it."""
    if experiment.select != "last":
        raise RequestError(
            f"select = {experiment.select}: a sweep scores the model that each run ends with. Set select=last"
        )
    if settings.register is not None:
        check_name(settings.register)
    if settings.retries < 0:
        raise RequestError(f"--retries {settings.retries}: expected 0 or more")
    check_objective(experiment, settings.objective)
    space = spaces.read_space(settings.over)
    if not space:
        raise RequestError("a sweep varies something: --over KEY=VALUES, such as --over method.tau='log(1/64, 1/4)'")
    check_values(experiment, space)
    check_reranking(space, settings.objective)
    settings = with_defaults(settings, experiment, space)
    assert settings.grace is not None
    points = spaces.size(space) if settings.points is None else settings.points
    if spaces.is_finite(space):
        points = min(points, spaces.size(space))
        check_combinations(experiment, space)
    rule = None if settings.stop == NONE else RULES[settings.stop](settings.grace, experiment.epochs)
    seeds = tuple(range(experiment.seed, experiment.seed + settings.seeds))
    return Plan(settings, experiment, space, points, seeds, rule)


def check_objective(experiment: Experiment, objective: str) -> None:
    """The validation set is there, and its protocol has the metric."""
    dataset, protocol = open_for_evaluation(experiment.data, validation=True)
    check_inputs(experiment, dataset.manifest.label_map, dataset, protocol)
    names = metric_names(dataset, protocol, reranked=experiment.evaluate.rerank is not None)
    if objective not in names:
        listed = ", ".join(names)
        raise RequestError(
            f"--objective {objective}: an evaluation on {experiment.data} never reports it. It has {listed}."
        )


def check_values(experiment: Experiment, space: Space) -> None:
    """Every key is a setting, takes its values, and matters. Raises: RequestError with every mistake."""
    mistakes = []
    for key, axis in space.items():
        if (reason := settled(key, experiment, space)) is not None:
            mistakes.append(f"--over {key}: {reason}")
            continue
        for value in axis.ends():
            try:
                varied(experiment, {key: value})
            except RequestError as error:
                if not is_combination(experiment, space, key, value):
                    mistakes.append(f"--over {key}: {error}{whole(experiment, key, axis)}")
                    break
    if mistakes:
        raise RequestError("\n".join(mistakes))


def check_reranking(space: Space, objective: str) -> None:
    keys = [key for key in space if f"{key}.".startswith("evaluate.rerank.")]
    if keys and RERANKED not in objective:
        raise RequestError(
            f"--over {keys[0]}: {objective} is of the lists before they are re-ranked. Set --objective to that of a mode's "
            f"re-ranked lists, such as general{RERANKED}/mAP, and evaluate.rerank={{}}."
        )


def check_name(name: str) -> None:
    try:
        is_model_name(name)
    except ValueError as error:
        raise RequestError(f"--register {name}: {error}. Give another, or --no-register.") from error


def settled(key: str, experiment: Experiment, space: Space) -> str | None:
    """Why the key has no effect, whatever value the others of the space take; None where it has."""
    reason = inert(key, experiment)
    if reason is None:
        return None
    for other in others(experiment, space, key):
        if inert(key, other) is None:
            return None
    return reason


def others(experiment: Experiment, space: Space, key: str) -> Iterator[Experiment]:
    """The experiment with each value of each other key."""
    for name, axis in space.items():
        for value in axis.ends() if name != key else ():
            try:
                yield varied(experiment, {name: value})
            except RequestError:
                continue


def is_combination(experiment: Experiment, space: Space, key: str, value: Any) -> bool:
    """Whether the value is right beside some value of another key: then only combinations are wrong."""
    for name, axis in space.items():
        for other in axis.ends() if name != key else ():
            try:
                varied(experiment, {name: other, key: value})
            except RequestError:
                continue
            return True
    return False


def whole(experiment: Experiment, key: str, axis: spaces.Axis) -> str:
    """The mend where a range is of whole numbers alone."""
    if isinstance(axis, Choice) or not all(float(end).is_integer() for end in (axis.low, axis.high)):
        return ""
    try:
        for end in (axis.low, axis.high):
            varied(experiment, {key: int(end)})
    except RequestError:
        return ""
    return f"\n  of whole numbers: --over {key}='int({axis.low:g}, {axis.high:g})'"


def check_combinations(experiment: Experiment, space: Space) -> None:
    """Values that are right each by itself and not together are told before anything runs."""
    if len(space) == 1:
        return
    wrong: list[str] = []
    count = 0
    for values in islice(spaces.grid(space), MOST_CHECKED):
        count += 1
        try:
            varied(experiment, values)
        except RequestError as error:
            wrong.append(f"{spaces.shown(values)}: {error}")
    if wrong:
        raise RequestError(
            f"{len(wrong)} of the {count} combinations cannot be trained. Vary what goes together; the first:\n{wrong[0]}"
        )


def varied(experiment: Experiment, values: Values, more: Mapping[str, Any] | None = None) -> Experiment:
    """The experiment with these settings. Raises: RequestError with all mistakes."""
    tree = copy.deepcopy(experiment.resolved())
    for key, value in {**values, **(more or {})}.items():
        if obstacle := put(tree, key, value):
            raise RequestError(f"{key}: {obstacle}")
    return build(tree, "--over", [])


def with_defaults(settings: SweepSettings, experiment: Experiment, space: Space) -> SweepSettings:
    """The search, the numbers of points and epochs that were left open. Raises: RequestError."""
    finite = spaces.is_finite(space)
    search = settings.search or ("grid" if finite else "bayes")
    if search not in SEARCH_ALGORITHMS:
        raise RequestError(f"--search {search}: expected {either(list(SEARCH_ALGORITHMS))}")
    if search == "grid" and not finite:
        open_keys = [key for key, axis in space.items() if spaces.listed(axis) is None]
        raise RequestError(
            f"a grid has so many values of each key, and {either(open_keys)} is a range. Say how many, as in "
            "log(1/64, 1/4, 5), or take --search random or --search bayes."
        )
    if settings.stop not in (NONE, *RULES):
        raise RequestError(f"--stop {settings.stop}: expected {either([NONE, *RULES])}")
    stopping = settings.stop != NONE
    epochs = experiment.epochs
    every = settings.every or (max(1, epochs // 20) if stopping else epochs)
    grace = settings.grace or max(every, epochs // 9)
    for name, value in (("--every", every), ("--grace", grace)):
        if value > epochs:
            raise RequestError(f"{name} {value}: a run has {epochs} epochs. Set it to at most that.")
    if stopping and grace >= epochs:
        raise RequestError(
            f"--stop {settings.stop}: nothing can be stopped before the end of runs of {epochs} epochs with --grace {grace}. "
            "Set --grace lower, epochs higher, or leave --stop out."
        )
    points = settings.points if settings.points is not None or search == "grid" else None
    if points is None and search != "grid":
        points = min(POINTS, spaces.size(space)) if finite else POINTS
    return replace(settings, search=search, every=every, grace=grace, points=points)
