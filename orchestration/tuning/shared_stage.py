"""Trains the stage that all points of a sweep share: a run for each seed, before the sweep's trials start."""

from __future__ import annotations

from typing import Any

from datasets.storage.store import open_store
from orchestration.config.build import without_tables
from orchestration.config.load import Experiment
from orchestration.engine import checkpoint, weights
from orchestration.errors import RequestError
from orchestration.progress import Progress
from orchestration.sweeps.settings import Plan
from orchestration.tracking import mlflow_client, tracked_run
from orchestration.training import preparation, train
from orchestration.training.worker import FAILURE, WorkerConfig

KIND = "shared stage"


def train_shared_stage(
    planned: Plan, prepared: preparation.Prepared, sweep: str, stage: str, progress: Progress
) -> dict[int, str]:
    """Seed → `RUN@STAGE`, the end of the stage that a run of its own was trained to; those that are there are taken.

    Raises: TrainingFailedError where a run fails.
    """
    return {seed: f"{train_one(planned, prepared, sweep, stage, seed, progress)}@{stage}" for seed in planned.seeds}


def train_one(
    planned: Plan, prepared: preparation.Prepared, sweep: str, stage: str, seed: int, progress: Progress
) -> str:
    """The address of the storage of the run that was trained from `seed` to the end of the stage."""
    experiment = planned.experiment.model_copy(update={"seed": seed, "until": stage, "register_as": None})
    run = found_or_new(experiment, prepared.dataset.fingerprint, sweep, seed)
    store = open_store(run.storage)
    if has_ended(run.storage, stage):
        return run.storage
    progress.say(f"stage {stage!r} is the same at all points: training it once from seed {seed}, run {run.run_id}")
    store.delete(FAILURE)
    try:
        prepared = preparation.Prepared(
            experiment, prepared.dataset, prepared.facts, preparation.num_steps(experiment, prepared.dataset)
        )
        backbone = preparation.fetch_backbone(prepared)
        config = WorkerConfig(
            experiment=experiment.resolved(),
            run=run.storage,
            facts=without_tables(prepared.facts),
            init_from=experiment.init_from,
            weights=None if backbone is None else weights.keep(store, backbone),
        )
        train.fit(prepared, run, config, progress)
    except BaseException as error:
        run.finish("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    run.finish("FINISHED")
    return run.storage


def has_ended(storage: str, stage: str) -> bool:
    try:
        return bool(checkpoint.find_stage_end(storage, stage))
    except RequestError:
        return False


def found_or_new(experiment: Experiment, fingerprint: str, sweep: str, seed: int) -> tracked_run.TrackedRun:
    client = mlflow_client.connect()
    place = client.get_run(sweep).info.experiment_id
    condition = f"tags.kind = '{KIND}' and tags.`mlflow.parentRunId` = '{sweep}' and tags.seed = '{seed}'"
    for run in client.search_runs([place], condition, order_by=["attributes.start_time ASC"]):
        if "storage" in run.data.tags:
            return tracked_run.resume_run(run.info.run_id, fingerprint)
    tags: dict[str, Any] = {"kind": KIND, "mlflow.parentRunId": sweep}
    return tracked_run.create_run(experiment.resolved(), fingerprint, tags=tags)
