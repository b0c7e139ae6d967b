"""`redress train`: check everything first, train on Ray Train workers, evaluate, keep the run in MLflow, register."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

from datasets.shards.exclusive import exclusive
from datasets.storage.store import Store, open_store
from orchestration import cluster, lost_cluster, numerics
from orchestration.config.build import without_tables
from orchestration.config.epochs import end_epoch
from orchestration.config.load import Experiment
from orchestration.config.meta import outline
from orchestration.engine import checkpoint, weights
from orchestration.errors import ServiceUnavailableError
from orchestration.evaluation.evaluate import (
    evaluate,
)
from orchestration.progress import Progress
from orchestration.registry import pending
from orchestration.signals import Interruption, number_of
from orchestration.tracking import groups, mlflow_client, tracked_run
from orchestration.tracking.segments import Record
from orchestration.training import activity, changed_clothes_figure, interrupt, stage_ends
from orchestration.training.endings import Failure
from orchestration.training.preparation import (
    Prepared,
    check_initial_weights,
    check_same_experiment,
    fetch_backbone,
    prepare,
)
from orchestration.training.selection import choose_checkpoint, is_on_test
from orchestration.training.supervisor import Limits, Supervisor, Work
from orchestration.training.validation import PREFIX, PREFIX_ON_TEST, Scores
from orchestration.training.worker import FAILURE, WorkerConfig, train_worker
from orchestration.workers import nodes
from orchestration.workers.hang import Hangs
from orchestration.workers.watch import timeout_s


class TrainingFailedError(RuntimeError):
    """The workers stopped before the last epoch, for the reason given."""


def train(
    experiment: Experiment,
    *,
    resume: str | None = None,
    init_from: str | None = None,
    on_run: Callable[[str], None] = lambda run: None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train, evaluate and (where the experiment says so) register. Returns run_id, run, model, metrics, pictures ….

    resume: the run (its id, or the address of its storage) to resume from its newest checkpoint.
    init_from: a checkpoint or run whose weights training starts from.
    on_run: called with the address of the run's storage, from which it can be resumed, before any worker starts.
    Raises: RequestError before any worker starts; TrainingFailedError afterwards.
    """
    progress = progress or Progress()
    with exclusive(tracked_run.open_run(resume).storage) if resume else nullcontext():
        return train_alone(experiment, resume, init_from, on_run, progress)


def train_alone(
    experiment: Experiment,
    resume: str | None,
    init_from: str | None,
    on_run: Callable[[str], None],
    progress: Progress,
) -> dict[str, Any]:
    """As `train`, while no other process of this machine trains the run that is to be resumed."""
    prepared = prepare(experiment)
    backbone = fetch_backbone(prepared)
    has_begun = resume is not None and checkpoint.latest(tracked_run.open_run(resume).store) is not None
    init_from = None if has_begun else init_from or experiment.init_from
    if init_from:
        init_from, reset = check_initial_weights(prepared, init_from)
        progress.say(f"initial weights: {init_from}; not loaded: {', '.join(reset) or 'none'}")
    if resume:
        check_same_experiment(experiment, tracked_run.open_run(resume).store)
    cluster.check_answers()
    if not resume:
        mlflow_client.connect()  # what does not answer is reported before Ray starts
    numerics.warn_if_not_able(experiment.numerics, progress.say)
    cluster.connect(progress.say)
    cluster.check_resources(experiment.group_sizes()[0], experiment.resources, progress.say)
    run = tracked_run.start_run(experiment, prepared.dataset.fingerprint, resume=resume)
    with exclusive(run.storage):
        return carry_out(prepared, run, init_from, backbone, on_run, progress)


def carry_out(
    prepared: Prepared,
    run: tracked_run.TrackedRun,
    init_from: str | None,
    backbone: bytes | None,
    on_run: Callable[[str], None],
    progress: Progress,
) -> dict[str, Any]:
    """Train, evaluate and register a run that MLflow has, and end it there, however this ends."""
    experiment = prepared.experiment
    try:
        on_run(run.storage)
        store = open_store(run.storage)
        store.delete(FAILURE)
        interrupt.forget(store)
        for name, data in changed_clothes_figure.draw_changed_clothes(experiment, prepared.dataset).items():
            run.log_picture(data, name)
        config = WorkerConfig(
            experiment=experiment.resolved(),
            run=run.storage,
            facts=without_tables(prepared.facts),
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
    """Run groups of workers to the last epoch while the forwarder delivers their journal. Raises: TrainingFailedError."""
    experiment, store = prepared.experiment, open_store(run.storage)
    limits, hangs = limits_of(experiment), Hangs(store)
    supervisor = Supervisor(
        limits,
        store,
        nodes,
        lambda size: trainer(size, limits.needs, config, store),
        hangs=hangs,
        say=progress.say,
        on_group=lambda found: run.set_tags(groups.tags(found)),
    )
    scores = Scores(store)

    with progress.training_bar(f"training {experiment.name}", prepared.num_steps) as show:

        def on_records(records: Sequence[Record]) -> None:
            show(records)
            log_scores(experiment, run, scores)
            stage_ends.report(run, records, progress.say)

        with run.forward(on_records=on_records), activity.said(store, progress.say):
            failure = supervise(supervisor, store, progress.say)
    log_scores(experiment, run, scores)
    interrupt.forget(store)  # nobody listens any more
    if hangs.messages:
        run.set_tags({"hangs": len(hangs.messages), "last_hang": hangs.messages[-1]})
    if failure:
        go_on = f" The run stopped {how_to_resume(run)}" if failure.may_resume else ""
        raise TrainingFailedError(f"{failure.type}: {failure.message}{go_on}")


def limits_of(experiment: Experiment) -> Limits:
    sizes, resources = experiment.group_sizes(), experiment.resources
    gpu = {"GPU": 1.0} if cluster.use_gpu(sizes[0], resources) else {}
    return Limits(
        sizes=sizes,
        needs={"CPU": resources.cpus} | gpu,
        max_failures=experiment.max_failures,
        wait_s=resources.wait_s,
        grow_s=resources.grow_s,
        end=end_epoch(experiment, outline(experiment).stages),
        may_grow=cluster.is_remote(),
    )


def trainer(size: int, needs: Mapping[str, float], config: WorkerConfig, store: Store) -> Work:
    """What runs one group of `size` workers. Ray Train restarts none: the supervisor does."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from orchestration.workers.group import GroupConfig
    from orchestration.workers.loopback import LoopbackConfig

    experiment = Experiment.from_resolved(config.experiment)
    alone: Any = FailureConfig  # the arguments of its second version, which mypy does not see
    found: Any = TorchTrainer(
        train_worker,  # type: ignore[arg-type]  # what it returns becomes `Result.return_value`
        train_loop_config=asdict(config),
        torch_config=(LoopbackConfig if cluster.is_on_loopback() else GroupConfig)(
            timeout_s=timeout_s(experiment.hang_s), interface=experiment.resources.network_interface
        ),
        scaling_config=ScalingConfig(
            num_workers=size, use_gpu="GPU" in needs, resources_per_worker={"CPU": needs["CPU"]}
        ),
        run_config=RunConfig(
            name="train",
            storage_path=store.join("ray"),
            failure_config=alone(max_failures=0, controller_failure_limit=0, max_preemption_failures=0),
        ),
    )
    return lambda: found.fit().return_value or {}


def log_scores(experiment: Experiment, run: tracked_run.TrackedRun, scores: Scores) -> None:
    """Log what the candidates of `select` were scored since the last call. (A sweep logs the scores of its trials itself.)"""
    if experiment.select == "last":
        return
    prefix = PREFIX_ON_TEST if is_on_test(experiment) else PREFIX
    for record in scores.read_new():
        run.log_evaluation({f"{prefix}{name}": value for name, value in record["metrics"].items()}, step=record["step"])


def supervise(supervisor: Supervisor, store: Store, say: Callable[[str], None]) -> Failure | None:
    """Run the supervisor on a thread of its own. Returns the failure, if any. Raises: Interruption after a signal."""
    failures: list[Failure | None] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            failures.append(supervisor.run())
        except BaseException as error:
            errors.append(error)

    interrupt.run_interruptibly(work, store, say)
    if errors:
        raise errors[0]
    return failures[0]


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
