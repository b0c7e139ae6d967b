"""Everything that is checked before a worker starts: settings against data, weights, and the run that is resumed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from datasets.protocols.protocols import Protocol
from datasets.shards.dataset import DataError, Dataset, SplitIndex
from datasets.storage.store import Store, StoreError
from methods.method import MethodError, stage_of
from methods.sharded import share
from orchestration import cluster, numerics
from orchestration.addresses import split_stage
from orchestration.config import build
from orchestration.config.epochs import end_epoch, first_epoch
from orchestration.config.load import Experiment
from orchestration.config.meta import build_on_meta, outline, per_class_tensors
from orchestration.config.settings import completed
from orchestration.config.stored import facts_of
from orchestration.engine import checkpoint, weights
from orchestration.engine.restore import load_initial_state, load_method_state, optimizer_states
from orchestration.engine.tensor_file import to_bytes
from orchestration.errors import RequestError
from orchestration.evaluation.cue_study import check_cues
from orchestration.evaluation.evaluate import (
    check_inputs,
    check_method,
    open_for_evaluation,
)
from orchestration.registry.locate import locate
from orchestration.tracking import tracked_run
from orchestration.tracking.run_description import flatten
from orchestration.training.selection import check_candidates, check_selection

EXACT_BELOW_ROWS = 100_000
# Settings that a resumed run may change: the sequence of batches and the mathematics stay the same. `workers` is one of them
# where batch norm is synchronised. `epochs` may grow: see `change_of_length`.
MAY_CHANGE = ("name", "workers", "strategy", "threads", "stream", "resources", "checkpoint", "evaluate", "max_failures",
              "hang_s", "epochs", "until", "batch.recompute", "storage", "register", "select", "data", "weights",
              "init_from")  # fmt: skip


@dataclass(frozen=True)
class Prepared:
    """An experiment whose data and method fit together."""

    experiment: Experiment
    dataset: Dataset
    facts: dict[str, Any]
    num_steps: int


def prepare(experiment: Experiment) -> Prepared:
    """Check everything that can be checked before a worker starts. Raises: RequestError with the fix."""
    numerics.use(experiment.numerics)
    cluster.check_address()
    dataset, protocol = open_for_evaluation(experiment.data)
    index = check_on_data(experiment, dataset, protocol)
    if experiment.select != "last":
        check_selection(experiment)
    try:
        steps = num_steps(experiment, dataset)
    except DataError as error:
        raise RequestError(f"data {experiment.data}: {error}") from error
    return Prepared(experiment, dataset, build.describe_data(dataset, index), steps)


def check_on_data(experiment: Experiment, dataset: Dataset, protocol: Protocol) -> SplitIndex:
    """The training split's index, if the data set has everything that the experiment needs.

    Raises: RequestError listing everything that it lacks.
    """
    try:
        index = dataset.index("train")
    except DataError as error:
        raise RequestError(str(error)) from error
    problems = [f"data {experiment.data}: {text}" for text in lacking(experiment, index)]
    checks: list[Callable[[], None]] = [
        lambda: check_method(experiment.method.name, protocol, experiment.data),
        lambda: check_inputs(experiment, dataset.manifest.label_map, dataset, protocol),
        lambda: check_cues(experiment.evaluate, dataset, protocol),
    ]
    for check in checks:
        try:
            check()
        except RequestError as error:
            problems.append(str(error))
    if problems:
        raise RequestError("\n".join(problems))
    try:
        build_on_meta(experiment, build.data_facts(build.describe_data(dataset, index)))
    except MethodError as error:
        raise RequestError(f"data {experiment.data}: {error}.") from error
    return index


def lacking(experiment: Experiment, index: SplitIndex) -> Iterator[str]:
    """What the training split lacks for the experiment, and what to do."""
    name, needs, batch = experiment.method.name, build.method_needs(experiment), experiment.batch
    if build.needs_parsing(experiment) and not index.has_parsing:
        who = f"method {name!r}" if needs.parsing else "augment.clothes_sampling"
        yield (
            f"{who} needs parsing masks and this data set has none. Convert it with --parsing MASKS --labels …, or make "
            "masks with `redress data parse`."
        )
    if needs.clothes and not index.has_clothes:
        yield (
            f"method {name!r} needs clothes labels, and {index.lacking(index.clothes)} of split 'train' have none. Label "
            "them, or convert with --clothes person."
        )
    if batch.people > index.num_persons:
        yield (
            f"a batch of {batch.people} people × {batch.images} images needs {batch.people} identities; split 'train' has "
            f"{index.num_persons}. Set {' '.join(fitting(experiment, index.num_persons))}."
        )


def fitting(experiment: Experiment, persons: int) -> list[str]:
    """Settings, as words of a command, of the largest batch of at most so many people that workers and lanes divide."""
    workers = min(experiment.group_sizes()[0], persons)
    people = persons // workers * workers
    lanes = max(
        n for n in range(workers, people + 1, workers) if people % n == 0 and n <= max(experiment.batch.lanes, workers)
    )
    new = {"batch.people": people, "batch.lanes": lanes, "workers": workers}
    old = {"batch.lanes": experiment.batch.lanes, "workers": experiment.group_sizes()[0]}
    return [f"{key}={value}" for key, value in new.items() if value != old.get(key)]


def num_steps(experiment: Experiment, dataset: Dataset) -> int:
    """The number of steps of the run; an estimate for large data, whose epochs differ by a few batches. Raises: DataError."""
    stages = outline(experiment).stages
    feed, stream = build.build_feed(experiment, dataset, worker=0, workers=1, stages=stages)
    stream.close()
    epochs = range(first_epoch(experiment, stages), end_epoch(experiment, stages))
    if dataset.split("train").rows <= EXACT_BELOW_ROWS:
        return sum(feed.num_batches(epoch) for epoch in epochs)
    in_stage = Counter(stage_of(stages, epoch).first_epoch for epoch in epochs)
    return sum(feed.num_batches(first) * count for first, count in in_stage.items())


def check_initial_weights(prepared: Prepared, model: str) -> tuple[str, list[str]]:
    """The checkpoint that training is to start from (of a run, at an address, of a registered version) and which of the
    method's tensors it does not set. Raises: RequestError if it does not exist or does not fit the method.
    """
    address, stage = split_stage(model)
    if stage is not None:
        return check_end_of_stage(prepared, address, stage), []
    method = build.build_method(prepared.experiment, prepared.facts, share.NONE)
    per_class = per_class_tensors(prepared.experiment)
    try:
        found = locate(model).checkpoint
        facts_of(found)
        return found.address, load_initial_state(method, found, per_class, prepared.facts["fingerprint"])
    except (RequestError, StoreError, checkpoint.CorruptCheckpointError) as error:
        raise RequestError(f"init_from = {model}: {error}") from error


def check_end_of_stage(prepared: Prepared, run: str, stage: str) -> str:
    """The address of the checkpoint at the end of a run's stage, whose state and data must be those of the experiment.

    Raises: RequestError.
    """
    try:
        found = checkpoint.find_stage_end(locate(run).run, stage)
        if found.facts.get("fingerprint") != prepared.facts["fingerprint"]:
            raise RequestError(
                f"stage {stage!r} was trained on other data than {prepared.experiment.data}: what it learned is of other "
                "people. Train the stage on these data, or start from the run's weights: remove the stage's name."
            )
        method = build.build_method(prepared.experiment, prepared.facts, share.NONE)
        load_method_state(method, found)
        optimizer_states(method, found)
    except (RequestError, StoreError, checkpoint.CorruptCheckpointError) as error:
        raise RequestError(f"init_from = {run}@{stage}: {error}") from error
    return found.address


def fetch_backbone(prepared: Prepared) -> bytes | None:
    """The pre-trained backbone that the experiment names, tried on the method, as safetensors bytes for the workers."""
    experiment = prepared.experiment
    if not experiment.weights:
        return None
    method = build.build_method(experiment, prepared.facts, share.NONE)
    state = weights.fetch(experiment.weights, method.weights_address())
    try:
        method.load_backbone(state)
    except MethodError as error:
        raise RequestError(f"weights = {experiment.weights}: {error}") from error
    return to_bytes(state)


def began_with(store: Store) -> dict[str, Any]:
    """The experiment of a run's newest checkpoint; before the first, the one that it was created with."""
    found = checkpoint.latest(store)
    return completed(found.experiment if found else tracked_run.read_experiment(store))


def check_same_experiment(experiment: Experiment, store: Store) -> None:
    """A resumed run keeps its experiment; only settings that do not change the training may differ."""
    stored = began_with(store)
    began, now = flatten(stored), flatten(experiment.resolved())
    may_change = tuple(key for key in MAY_CHANGE if key != "workers" or experiment.sync_batch_norm)
    changed = [
        f"{key}: began with {began.get(key)}, now {now.get(key)}"
        for key in sorted({*began, *now})
        if began.get(key) != now.get(key) and not key.startswith(may_change)
    ]
    if refusal := change_of_length(stored.get("epochs", experiment.epochs), experiment):
        changed.append(refusal)
    if changed:
        listed = "\n".join(f"  {line}" for line in changed)
        raise RequestError(
            f"run {store.address} began with another experiment:\n{listed}\n"
            "Resume with the same settings, or start a new run with --init-from."
        )
    check_candidates(experiment, store)


def change_of_length(began: int, experiment: Experiment) -> str | None:
    """Why a run of `began` epochs cannot have the experiment's number; None where it can. A run resumed with more epochs is
    the run that began with them only if no learning rate depends on their number."""
    change = f"epochs: began with {began}, now {experiment.epochs}"
    if experiment.epochs < began:
        return f"{change}: a run can be made longer, not shorter"
    schedules = {name: optimizer.schedule for name, optimizer in experiment.optimizers.items()}
    by_length = [name for name, schedule in schedules.items() if schedule and schedule.depends_on_length]
    if experiment.epochs > began and by_length:
        return f"{change}: the schedule of optimizers.{by_length[0]} depends on the number of epochs"
    return None
