"""A sweep in MLflow: a parent run, and a child for every point and seed, found by their tags sweep, point and seed.

What a sweep knows of its earlier processes it reads from here, and never from files that Ray pickled.
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
    """The parent run, with what it takes to go on with the sweep in its storage. Raises: RequestError."""
    tags = {"kind": "sweep", "sweep.over": "; ".join(settings["over"])[:TAG_LIMIT], "sweep.search": settings["search"]}
    run = tracked_run.create_run(experiment.resolved(), fingerprint, tags=tags)
    content = json.dumps({"experiment": experiment.resolved(), "settings": dict(settings)}, indent=1)
    run.store.write(SETTINGS, content.encode())
    return run


def read_settings(sweep: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The resolved experiment and the settings that a sweep began with. Raises: RequestError where that run is none."""
    run = tracked_run.open_run(sweep)
    if not run.store.exists(SETTINGS):
        raise RequestError(
            f"run {run.run_id} is no sweep. `redress tune --resume SWEEP` takes a sweep's id, which `redress tune` tells; a "
            "training goes on with `redress train --resume RUN`."
        )
    content = json.loads(run.store.read(SETTINGS))
    return content["experiment"], content["settings"]


def take_up(sweep: str, experiment: Experiment, fingerprint: str, trial: Trial) -> tracked_run.TrackedRun:
    """The child of this point and seed: the one that an earlier attempt began, else a new one."""
    client = mlflow_client.connect()
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
    """The trials of a sweep, the oldest first."""
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
    """What is read back of a trial's end; the score itself is a metric."""
    tags = {"sweep.state": state, "sweep.curve": thinned(curve)}
    return tags | ({"sweep.reason": reason[:TAG_LIMIT]} if reason else {})


def thinned(curve: Mapping[int, float]) -> str:
    """As JSON, in as many of its points as a tag holds."""
    points = sorted(curve.items())
    while len(text := json.dumps({epoch: float(f"{score:.6g}") for epoch, score in points})) > TAG_LIMIT:
        points = points[::-2][::-1]
    return text


def read_back(client: MlflowClient, sweep: str, objective: str, sweep_state: SweepState) -> list[str]:
    """Put what MLflow has of the sweep into the sweep state. Trials that failed or were cut short are to be trained again:
    their points are known, their outcomes are not. Returns the ids of runs that seem to go on."""
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
    """None where the trial did not come to an end of its own."""
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
    """Of trials whose processes are gone: deliver what they left, and say that they ended."""
    for child in children(client, sweep, "attributes.status = 'RUNNING'"):
        if "storage" in child.data.tags:
            tracked = tracked_run.open_run(child.info.run_id)
            tracked.deliver()
            if tracked.is_running():  # what it left does not tell its end
                tracked_run.open_run(child.info.run_id).finish(status)
        else:
            client.set_terminated(child.info.run_id, status)
