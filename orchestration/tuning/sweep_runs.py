"""A sweep in MLflow: a parent run, and a child per configuration and seed, found by their tags sweep, point and seed.

A resumed sweep reads its earlier trials from here, never from files that Ray pickled.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, cast

from mlflow import MlflowClient
from mlflow.entities import Run

from orchestration.config.load import Experiment
from orchestration.errors import RequestError
from orchestration.sweeps.state import Result, State, SweepState, Trial
from orchestration.tracking import mlflow_client, tracked_run
from orchestration.training.validation import PREFIX

SETTINGS = "sweep.json"
TAG_LIMIT = 4000  # characters: MLflow takes 8000
PAGE = 500


def start_sweep(experiment: Experiment, fingerprint: str, settings: Mapping[str, Any]) -> tracked_run.TrackedRun:
    """Create the parent run; its storage holds all that resuming the sweep needs. Raises: RequestError."""
    tags = {"kind": "sweep", "sweep.over": "; ".join(settings["over"])[:TAG_LIMIT], "sweep.search": settings["search"]}
    run = tracked_run.create_run(experiment.resolved(), fingerprint, tags=tags)
    content = json.dumps({"experiment": experiment.resolved(), "settings": dict(settings)}, indent=1)
    run.store.write(SETTINGS, content.encode())
    return run


def read_settings(sweep: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The resolved experiment and the settings that a sweep started with. Raises: RequestError if the run is not a sweep."""
    run = tracked_run.open_run(sweep)
    if not run.store.exists(SETTINGS):
        raise RequestError(
            f"run {run.run_id} is not a sweep. `redress tune --resume SWEEP` takes the id that `redress tune` printed; to "
            "resume a training run, use `redress train --resume RUN`."
        )
    content = json.loads(run.store.read(SETTINGS))
    return content["experiment"], content["settings"]


def create_or_resume(sweep: str, experiment: Experiment, fingerprint: str, trial: Trial) -> tracked_run.TrackedRun:
    """The child run of a trial: that of an earlier attempt, else a new one."""
    client = mlflow_client.connect(create=False)
    for child in children(client, sweep, f"tags.point = '{trial.configuration_id}' and tags.seed = '{trial.seed}'"):
        if "storage" in child.data.tags:
            return tracked_run.resume_run(child.info.run_id, fingerprint)
    tags = {
        "kind": "trial",
        "mlflow.parentRunId": sweep,
        "sweep": sweep,
        "point": trial.configuration_id,
        "sweep.values": json.dumps(trial.values),
    }
    return tracked_run.create_run(experiment.resolved(), fingerprint, tags=tags)


def children(client: MlflowClient, sweep: str, condition: str = "") -> Iterator[Run]:
    """The trials of a sweep, oldest first."""
    experiment = client.get_run(sweep).info.experiment_id
    wanted = f"tags.sweep = '{sweep}'" + (f" and {condition}" if condition else "")
    token = None
    while True:
        page = client.search_runs(
            [experiment], wanted, max_results=PAGE, order_by=["attributes.start_time ASC"], page_token=token
        )
        yield from page
        token = page.token
        if not token:
            return


def end_tags(state: str, curve: Mapping[int, float], reason: str | None) -> dict[str, str]:
    """The tags from which a trial's result is read back; the score itself is a metric."""
    tags = {"sweep.state": state, "sweep.curve": thinned(curve)}
    return tags | ({"sweep.reason": reason[:TAG_LIMIT]} if reason else {})


def thinned(curve: Mapping[int, float]) -> str:
    """The curve as JSON, with as many epochs as a tag can hold."""
    points = sorted(curve.items())
    while len(text := json.dumps({epoch: float(f"{score:.6g}") for epoch, score in points})) > TAG_LIMIT:
        points = points[::-2][::-1]
    return text


def read_back(client: MlflowClient, sweep: str, objective: str, sweep_state: SweepState) -> list[str]:
    """Read a sweep's trials from MLflow into the sweep state. Failed and interrupted trials are trained again: only their
    configurations are recorded. Returns the ids of runs that MLflow shows as running."""
    open_runs = []
    for child in children(client, sweep):
        tags = child.data.tags
        trial = Trial(json.loads(tags["sweep.values"]), int(tags["seed"]))
        result = result_of(child, objective)
        if result is not None and result.state != "failed":
            sweep_state.record(trial, result)
        else:
            sweep_state.configuration(trial.values)
        if child.info.status == "RUNNING":
            open_runs.append(child.info.run_id)
    return open_runs


def result_of(child: Run, objective: str) -> Result | None:
    """The result of a trial; None if it was interrupted."""
    tags = child.data.tags
    if "sweep.state" not in tags or child.info.status == "RUNNING":
        return None
    curve = {int(epoch): score for epoch, score in json.loads(tags.get("sweep.curve", "{}")).items()}
    metrics = {n.removeprefix(PREFIX): v for n, v in child.data.metrics.items() if n.startswith(PREFIX)}
    return Result(
        state=cast("State", tags["sweep.state"]),
        epoch=max(curve, default=0),
        score=metrics.get(objective),
        metrics=metrics,
        run_id=child.info.run_id,
        reason=tags.get("sweep.reason"),
        curve=curve,
    )


def close_open_runs(client: MlflowClient, sweep: str, status: str) -> None:
    """Deliver what trials left whose processes have ended, and close their runs."""
    for child in children(client, sweep, "attributes.status = 'RUNNING'"):
        if "storage" in child.data.tags:
            tracked = tracked_run.open_run(child.info.run_id)
            tracked.deliver()
            if tracked.is_running():  # what it left does not contain its end
                tracked_run.open_run(child.info.run_id).finish(status)
        else:
            client.set_terminated(child.info.run_id, status)
