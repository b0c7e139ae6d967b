"""`redress train`: check everything first, train on Ray Train workers, evaluate, keep the run in MLflow, register."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

from datasets.protocols.protocols import Protocol
from datasets.shards.dataset import DataError, Dataset, SplitIndex
from datasets.shards.exclusive import exclusive
from datasets.storage.store import Store, StoreError, open_store
from methods import METHODS
from methods.method import MethodError, stage_of
from orchestration import cluster, lost_cluster, numerics
from orchestration.addresses import split_stage
from orchestration.config import build
from orchestration.config.epochs import end_epoch, first_epoch
from orchestration.config.load import Experiment
from orchestration.config.meta import build_on_meta, per_class_tensors
from orchestration.config.settings import completed
from orchestration.config.stored import facts_of
from orchestration.engine import checkpoint, weights
from orchestration.errors import RequestError, ServiceUnavailableError, cause, origin
from orchestration.evaluation.cue_study import check_cues
from orchestration.evaluation.evaluate import (
    check_inputs,
    check_method,
    evaluate,
    open_for_evaluation,
)
from orchestration.progress import Progress
from orchestration.registry import pending
from orchestration.registry.locate import locate
from orchestration.signals import Interruption, number_of
from orchestration.tracking import mlflow_client, tracked_run
from orchestration.tracking.run_description import flatten
from orchestration.tracking.segments import Record
from orchestration.training import activity, changed_clothes_figure, interrupt
from orchestration.training.selection import check_candidates, check_selection, choose_checkpoint, is_on_test
from orchestration.training.validation import PREFIX, PREFIX_ON_TEST, Scores
from orchestration.training.worker import FAILURE, WorkerConfig, train_worker

CONTROLLER_LOST = "Ray Train's controller ended"
EXACT_BELOW_ROWS = 100_000
# Settings that a resumed run may change: the sequence of batches and the mathematics stay the same. `workers` is one of them
# where batch norm is synchronised. `epochs` may grow: see `change_of_length`.
MAY_CHANGE = ("name", "workers", "threads", "stream", "resources", "checkpoint", "evaluate", "max_failures", "epochs", "until",
              "storage", "register", "select", "data", "weights", "init_from")  # fmt: skip


class TrainingFailedError(RuntimeError):
    """The workers stopped before the last epoch, for the reason given."""


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
    return index


def lacking(experiment: Experiment, index: SplitIndex) -> Iterator[str]:
    """What the training split lacks for the experiment, and what to do."""
    name, method, batch = experiment.method.name, METHODS[experiment.method.name], experiment.batch
    if build.needs_parsing(experiment) and not index.has_parsing:
        who = f"method {name!r}" if method.needs_parsing else "augment.clothes_sampling"
        yield (
            f"{who} needs parsing masks and this data set has none. Convert it with --parsing MASKS --labels …, or make "
            "masks with `redress data parse`."
        )
    if method.needs_clothes and not index.has_clothes:
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
    workers = min(experiment.workers, persons)
    people = persons // workers * workers
    lanes = max(
        n for n in range(workers, people + 1, workers) if people % n == 0 and n <= max(experiment.batch.lanes, workers)
    )
    new = {"batch.people": people, "batch.lanes": lanes, "workers": workers}
    old = {"batch.lanes": experiment.batch.lanes, "workers": experiment.workers}
    return [f"{key}={value}" for key, value in new.items() if value != old.get(key)]


def train(
    experiment: Experiment, *, resume: str | None = None, init_from: str | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """Train, evaluate and (where the experiment says so) register. Returns run_id, run, model, metrics, pictures ….

    resume: the run (its id, or the address of its storage) to resume from its newest checkpoint.
    init_from: a checkpoint or run whose weights training starts from.
    Raises: RequestError before any worker starts; TrainingFailedError afterwards.
    """
    progress = progress or Progress()
    with exclusive(tracked_run.open_run(resume).storage) if resume else nullcontext():
        return train_alone(experiment, resume, init_from, progress)


def train_alone(
    experiment: Experiment, resume: str | None, init_from: str | None, progress: Progress
) -> dict[str, Any]:
    """As `train`, while no other process of this machine trains the run that is to be resumed."""
    prepared = prepare(experiment)
    backbone = fetch_backbone(prepared)
    init_from = init_from or experiment.init_from
    if init_from and not resume:
        init_from, reset = check_initial_weights(prepared, init_from)
        progress.say(f"initial weights: {init_from}; not loaded: {', '.join(reset) or 'none'}")
    if resume:
        check_same_experiment(experiment, tracked_run.open_run(resume).store)
    else:
        mlflow_client.connect()  # what does not answer is reported before Ray starts
    numerics.warn_if_not_able(experiment.numerics, progress.say)
    cluster.connect(progress.say)
    cluster.check_resources(experiment.workers, experiment.resources, progress.say)
    run = tracked_run.start_run(experiment, prepared.dataset.fingerprint, resume=resume)
    with exclusive(run.storage):
        return carry_out(prepared, run, init_from, backbone, progress)


def carry_out(
    prepared: Prepared, run: tracked_run.TrackedRun, init_from: str | None, backbone: bytes | None, progress: Progress
) -> dict[str, Any]:
    """Train, evaluate and register a run that MLflow has, and end it there, however this ends."""
    experiment = prepared.experiment
    try:
        store = open_store(run.storage)
        store.delete(FAILURE)
        interrupt.forget(store)
        for name, data in changed_clothes_figure.draw_changed_clothes(experiment, prepared.dataset).items():
            run.log_picture(data, name)
        config = WorkerConfig(
            experiment=experiment.resolved(),
            run=run.storage,
            facts=prepared.facts,
            init_from=init_from,
            weights=weights.keep(store, backbone) if backbone is not None else None,
        )
        fit(prepared, run, config, progress)
        result = finish(prepared, run, store, progress)
    except KeyboardInterrupt as error:
        run.finish("FAILED" if lost_cluster.is_lost() else "KILLED")
        interruption = Interruption(number_of(error), f"interrupted {how_to_resume(run)}")
        raise lost_cluster.error_of(interruption, f"The run stopped {how_to_resume(run)}") from None
    except BaseException:
        run.finish("FAILED")
        raise
    run.finish("FINISHED")
    return result


def fit(prepared: Prepared, run: tracked_run.TrackedRun, config: WorkerConfig, progress: Progress) -> None:
    """Run the workers to the last epoch while the forwarder delivers their journal. Raises: TrainingFailedError."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from orchestration.training.loopback import LoopbackConfig

    experiment, store = prepared.experiment, open_store(run.storage)
    trainer = TorchTrainer(
        train_worker,  # type: ignore[arg-type]  # what it returns becomes `Result.return_value`
        train_loop_config=asdict(config),
        torch_config=LoopbackConfig() if cluster.is_on_loopback() else TorchConfig(),
        scaling_config=ScalingConfig(
            num_workers=experiment.workers,
            use_gpu=cluster.use_gpu(experiment.workers, experiment.resources),
            resources_per_worker={"CPU": experiment.resources.cpus},
        ),
        run_config=RunConfig(
            name="train",
            storage_path=store.join("ray"),
            failure_config=FailureConfig(max_failures=experiment.max_failures),
        ),
    )
    scores = Scores(store)

    with progress.training_bar(f"training {experiment.name}", prepared.num_steps) as show:

        def on_records(records: Sequence[Record]) -> None:
            show(records)
            log_scores(experiment, run, scores)

        with run.forward(on_records=on_records), activity.said(store, progress.say):
            failure = run_trainer(trainer, store, progress.say)
    log_scores(experiment, run, scores)
    interrupt.forget(store)  # nobody listens any more
    if failure:
        go_on = f" The run stopped {how_to_resume(run)}" if failure["type"] == CONTROLLER_LOST else ""
        raise TrainingFailedError(f"{failure['type']}: {failure['message']}{go_on}")


def log_scores(experiment: Experiment, run: tracked_run.TrackedRun, scores: Scores) -> None:
    """Log what the candidates of `select` were scored since the last call. (A sweep logs the scores of its trials itself.)"""
    if experiment.select == "last":
        return
    prefix = PREFIX_ON_TEST if is_on_test(experiment) else PREFIX
    for record in scores.read_new():
        run.log_evaluation({f"{prefix}{name}": value for name, value in record["metrics"].items()}, step=record["step"])


def num_steps(experiment: Experiment, dataset: Dataset) -> int:
    """The number of steps of the run; an estimate for large data, whose epochs differ by a few batches. Raises: DataError."""
    stages = build_on_meta(experiment).stages()
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
    method = build.build_method(prepared.experiment, prepared.facts)
    per_class = per_class_tensors(prepared.experiment)
    try:
        found = locate(model).checkpoint
        facts_of(found)
        return found.address, checkpoint.load_initial_state(method, found, per_class, prepared.facts["fingerprint"])
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
        method = build.build_method(prepared.experiment, prepared.facts)
        checkpoint.restore(found, method, build.build_optimization(prepared.experiment, method).optimizers)
    except (RequestError, StoreError, checkpoint.CorruptCheckpointError) as error:
        raise RequestError(f"init_from = {run}@{stage}: {error}") from error
    return found.address


def fetch_backbone(prepared: Prepared) -> bytes | None:
    """The pre-trained backbone that the experiment names, tried on the method, as safetensors bytes for the workers."""
    experiment = prepared.experiment
    if not experiment.weights:
        return None
    method = build.build_method(experiment, prepared.facts)
    state = weights.fetch(experiment.weights, method.weights_address())
    try:
        method.load_backbone(state)
    except MethodError as error:
        raise RequestError(f"weights = {experiment.weights}: {error}") from error
    return checkpoint.to_bytes(state)


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


def run_trainer(trainer: Any, store: Store, say: Callable[[str], None]) -> dict[str, str] | None:
    """Run Ray Train. Returns the failure, if any: one that a worker recorded as final comes before Ray's.

    Raises: Interruption after a signal.
    """
    from ray.exceptions import RayActorError

    returned: dict[str, Any] = {}
    errors: list[BaseException] = []

    def fit() -> None:
        try:
            returned.update(trainer.fit().return_value or {})
        except BaseException as error:  # Ray Train's own handlers exit
            errors.append(error)

    interrupt.run_interruptibly(fit, store, say)
    if errors and store.exists(FAILURE):
        return json.loads(store.read(FAILURE))
    if errors and isinstance(errors[0], RayActorError):
        return {"type": CONTROLLER_LOST, "message": "it was killed, or the machine had no memory left."}
    if errors:
        return {"type": type(origin(errors[0])).__name__, "message": cause(errors[0])}
    return returned.get("failure")


def how_to_resume(run: tracked_run.TrackedRun) -> str:
    found = checkpoint.latest(open_store(run.storage))
    at = f"at step {found.progress.step}" if found else "before the first checkpoint"
    return f"{at}. `redress train --resume {run.run_id}` continues the run."


def finish(prepared: Prepared, run: tracked_run.TrackedRun, store: Store, progress: Progress) -> dict[str, Any]:
    """Choose the checkpoint, evaluate it, log what people look at, register where asked."""
    experiment = prepared.experiment
    chosen = choose_checkpoint(experiment, store, progress)
    if chosen is None:
        raise TrainingFailedError(f"{store.address}: training ended without a checkpoint")
    with progress.bar("evaluating") as bar:
        result = evaluate(chosen.address, experiment, store.join("evaluation"), progress=bar, say=progress.say)
    run.log_evaluation(result.metrics, step=chosen.progress.step)
    for name, data in result.pictures.items():
        run.log_picture(data, name)
    run.log_training_curves()
    answer: dict[str, Any] = {
        "run_id": run.run_id,
        "run": run.storage,
        "checkpoint": chosen.address,
        "metrics": result.metrics,
        "pictures": [store.join("evaluation", name) for name in result.pictures],
        "model": None,
    }
    if experiment.register_as:
        progress.say(f"registering {experiment.register_as}")
        try:
            answer["model"] = pending.register_idempotent(
                store, run.run_id, experiment.register_as, chosen.address, result.metrics
            )
        except ServiceUnavailableError as error:
            progress.say(
                f"{error}\nThe registration is pending. `redress runs sync {run.storage}` completes it when MLflow is "
                "available."
            )
    return answer
