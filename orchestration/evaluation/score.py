"""`redress evaluate`: evaluate the model of an earlier run again, on its own data or on others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from datasets.errors import DataError
from datasets.shards.exclusive import exclusive
from datasets.storage.store import open_store
from orchestration.config.stored import experiment_of
from orchestration.errors import RequestError
from orchestration.evaluation.evaluate import cache_key, evaluate, open_for_evaluation
from orchestration.progress import Progress
from orchestration.registry.locate import Located, locate
from orchestration.tracking import tracked_run
from orchestration.tracking.segments import SegmentTakenError


def score(model: str, overrides: Sequence[str] = (), *, progress: Progress | None = None) -> dict[str, Any]:
    """Evaluate `model` by the experiment of its training with `key=value` overrides (data, evaluate.batch …).

    Features, results and pictures go to `<run>/evaluations/…`, one folder per cache key (model, data set, way of
    embedding). The pictures are also logged to the MLflow run, below the same name.
    Raises: RequestError before work starts.
    """
    progress = progress or Progress()
    located = locate(model)
    experiment = experiment_of(located.checkpoint, overrides)
    dataset, protocol = open_for_evaluation(experiment.data)
    key = cache_key(located.checkpoint, dataset, protocol, experiment.evaluate)
    folder = evaluation_folder(key)
    destination = open_store(located.run).join(folder)
    with exclusive(destination), progress.bar("evaluating") as bar:
        open_store(destination).clean_temp()  # an earlier evaluation may have been killed while it wrote there
        result = evaluate(located.checkpoint.address, experiment, destination, progress=bar, say=progress.say)
    log_pictures(located, result.pictures, folder, progress)
    return {
        "run_id": located.run_id,
        "run": located.run,
        "model": model,
        "checkpoint": located.checkpoint.address,
        "data": experiment.data,
        "metrics": result.metrics,
        "pictures": [f"{destination}/{name}" for name in result.pictures],
    }


def evaluation_folder(key: Mapping[str, Any]) -> str:
    """The folder of an evaluation below its run. key: the cache key of its descriptors (`evaluate.cache_key`)."""
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return f"{tracked_run.EVALUATIONS}/{digest[:16]}"


def log_pictures(located: Located, pictures: Mapping[str, bytes], folder: str, progress: Progress) -> None:
    """Log the pictures to the run in MLflow. Reports it where that is impossible: the evaluation's folder has them."""
    if located.run_id is None:
        return
    try:
        with exclusive(located.run):
            run = tracked_run.open_run(located.run)
            if run.is_running():  # its own process, on another machine, writes its records
                raise RequestError(f"run {run.run_id} is still running. Evaluate again after its end")
            run.store.clean_temp(spare=tracked_run.EVALUATIONS)
            for name, data in pictures.items():
                run.log_picture(data, f"{folder}/{name}")
            run.deliver()
    except (RequestError, DataError, SegmentTakenError) as error:
        why = "another evaluation wrote at the same time" if isinstance(error, SegmentTakenError) else error
        progress.say(f"the pictures are in {folder} of the run's storage and not in MLflow: {why}")
