"""`redress runs list | show`: the runs in MLflow, as plain data."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run, ViewType

from orchestration.errors import RequestError
from orchestration.measures import DISTANCES, MEASURES
from orchestration.tracking import mlflow_client, tracked_run
from orchestration.tracking.journal import MEASURED

PAGE = 500


def list_runs(
    experiment: str | None = None, *, limit: int = 50, tracking_uri: str | None = None
) -> list[dict[str, Any]]:
    """The newest `limit` runs of redress, of one MLflow experiment or of all: id, name, status, data, evaluation, storage.

    Raises: RequestError.
    """
    client = mlflow_client.connect(tracking_uri, create=False)
    experiments = {e.experiment_id: e.name for e in client.search_experiments(view_type=ViewType.ACTIVE_ONLY)}
    chosen = [key for key, name in experiments.items() if experiment in (None, name)]
    if experiment is not None and not chosen:
        raise RequestError(
            f"no MLflow experiment {experiment!r}. Expected one of {', '.join(sorted(experiments.values()))}."
        )
    if limit < 1:
        raise RequestError(f"--limit {limit}: expected a whole number of at least 1.")
    found: list[Run] = []
    page = None
    while len(found) < limit:  # a page of the server has a maximum length
        of_redress = "tags.storage LIKE '%'"
        newest_first = ["attributes.start_time DESC"]
        runs = client.search_runs(
            chosen, of_redress, max_results=min(PAGE, limit - len(found)), order_by=newest_first, page_token=page
        )
        found += runs
        if not (page := runs.token):
            break
    return [summary(run, experiments[run.info.experiment_id]) for run in found]


def show_run(run: str, *, tracking_uri: str | None = None) -> dict[str, Any]:
    """All that MLflow holds on one run (its id, or its storage's address): settings, metrics, tags, files, models."""
    tracked = tracked_run.open_run(run, tracking_uri=tracking_uri)
    client = MlflowClient(tracked.tracking_uri)
    found = client.get_run(tracked.run_id)
    name = client.get_experiment(found.info.experiment_id).name
    versions = client.search_model_versions(f"run_id='{tracked.run_id}'")
    return summary(found, name) | {
        "settings": dict(sorted(found.data.params.items())),
        "numbers": dict(sorted(found.data.metrics.items())),
        "tags": {k: v for k, v in sorted(found.data.tags.items()) if not k.startswith("mlflow.")},
        "files": files(client, tracked.run_id),
        "models": [f"models:/{v.name}/{v.version}" for v in versions],
    }


def summary(run: Run, experiment: str) -> dict[str, Any]:
    ended = run.info.end_time
    tags = run.data.tags
    return {
        "run_id": run.info.run_id,
        "name": run.info.run_name,
        "experiment": experiment,
        "status": run.info.status,
        "started": datetime.fromtimestamp(run.info.start_time / 1000, UTC).isoformat(timespec="seconds"),
        "seconds": round((ended - run.info.start_time) / 1000, 1) if ended else None,
        "data": tags.get("data.address"),
        "storage": tags.get("storage"),
        "metrics": {k: v for k, v in sorted(run.data.metrics.items()) if is_evaluation(k)},
    }


def is_evaluation(metric: str) -> bool:
    """Evaluations are `<mode>/<measure>`, and distances of pairs."""
    is_measure = not metric.startswith((*MEASURED, "system/")) and metric.rpartition("/")[2] in MEASURES
    return is_measure or metric in DISTANCES


def files(client: MlflowClient, run_id: str, folder: str | None = None) -> list[str]:
    found: list[str] = []
    for item in client.list_artifacts(run_id, folder):
        found += files(client, run_id, item.path) if item.is_dir else [item.path]
    return found
