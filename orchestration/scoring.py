"""`redress evaluate`: the model of an earlier run, scored again, on its own data or others."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datasets.store import StoreError, open_store
from orchestration import checkpoint, mlflow_connection, tracking
from orchestration.checkpoint import Checkpoint
from orchestration.errors import RequestError
from orchestration.evaluate import embedding, evaluate, open_for_evaluation
from orchestration.experiment import override
from orchestration.progress import Progress
from orchestration.segments import SegmentTakenError


@dataclass(frozen=True)
class Located:
    """A model's checkpoint and the run that it is of: storage's address and id (None where nothing tells)."""

    checkpoint: Checkpoint
    run: str
    run_id: str | None


def locate(model: str) -> Located:
    """The checkpoint of a run (id or storage), at an address, or that a registered version was made of (models:/…).

    Raises: RequestError where there is none, or where a version's is no longer the one that was registered.
    """
    if model.startswith("models:/"):
        return locate_version(model)
    try:
        address = model
        if re.fullmatch(r"[0-9a-f]{32}", model):
            address = tracking.open_run(model).storage
        found = checkpoint.find(tracking.absolute(address))
        run = found.address.rpartition(f"/{checkpoint.FOLDER}/")[0] or found.address
        store = open_store(run)
        described = json.loads(store.read(tracking.DESCRIPTION)) if store.exists(tracking.DESCRIPTION) else {}
    except StoreError as error:
        raise RequestError(str(error)) from error
    return Located(found, run, described.get("run_id"))


def locate_version(model: str) -> Located:
    """The checkpoint of a registered version: what is scored is the network itself, at full speed and for every protocol,
    and its stored descriptors are of use. That the served graph gives the same features was checked when it was made; that
    the checkpoint is still the one that it was made of is checked here, by its digest.
    """
    from orchestration import registry

    version = registry.find_version(mlflow_connection.connect(), model)
    address = version.tags.get("checkpoint") or tracking.open_run(version.run_id or "").storage
    try:
        located = locate(address)
    except RequestError as error:
        raise RequestError(
            f"{model} was made of the checkpoint {address}, which cannot be used: {error} The registered graph needs none: "
            "mlflow.pyfunc.load_model."
        ) from error
    registered, there = version.tags.get(registry.WEIGHTS), located.checkpoint.digests[checkpoint.FILES[0]]
    if registered and registered != there:
        raise RequestError(
            f"{model} was made of weights with SHA-256 {registered[:12]}…, and those at {address} have {there[:12]}…: the "
            "checkpoint was written again. Register it as a new version, or name the checkpoint itself."
        )
    return located


def score(model: str, overrides: Sequence[str] = (), *, progress: Progress | None = None) -> dict[str, Any]:
    """Evaluate `model` by the experiment that it was trained with and `key=value` overrides (data, evaluate.batch …).

    Features, results and pictures go to `<run>/evaluations/…`, one folder for each model, data set and way of embedding;
    in MLflow the run gets the pictures too, below the same name.
    Raises: RequestError before work starts.
    """
    progress = progress or Progress()
    located = locate(model)
    experiment = override(located.checkpoint.experiment, overrides, source="the run")
    dataset, protocol = open_for_evaluation(experiment.data)
    told_apart = embedding(located.checkpoint, dataset, protocol, experiment.evaluate)
    folder = evaluation_folder(told_apart)
    destination = open_store(located.run).join(folder)
    with progress.bar("evaluating") as bar:
        result = evaluate(located.checkpoint.address, experiment, destination, progress=bar)
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


def evaluation_folder(told_apart: Mapping[str, Any]) -> str:
    """Where below its run an evaluation lies; `told_apart` is what its descriptors depend on (`evaluate.embedding`)."""
    digest = hashlib.sha256(json.dumps(told_apart, sort_keys=True).encode()).hexdigest()
    return f"evaluations/{digest[:16]}"


def log_pictures(located: Located, pictures: Mapping[str, bytes], folder: str, progress: Progress) -> None:
    """Give the pictures to the run in MLflow. Where it cannot have them, that is said: the evaluation has them."""
    if located.run_id is None:
        return
    try:
        run = tracking.open_run(located.run)
        if run.is_going_on():  # its own process writes what it has to say
            raise RequestError(f"run {run.run_id} is still going on; evaluate again when it has ended")
    except RequestError as error:
        progress.say(f"the pictures are in {folder} of the run's storage and not in MLflow: {error}")
        return
    try:
        for name, data in pictures.items():
            run.log_picture(data, f"{folder}/{name}")
        run.deliver()
    except SegmentTakenError:
        progress.say(
            f"the pictures are in {folder} of the run's storage and not in MLflow: another evaluation of it ended now"
        )
