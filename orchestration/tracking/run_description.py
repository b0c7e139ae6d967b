"""The description of a run in MLflow: tags, parameters and its data set, without secrets of addresses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag

from orchestration.errors import without_secret
from orchestration.tracking import provenance

VALUE_LIMIT = 6000  # characters of a parameter's value; the whole experiment is logged as a file too
DIGEST_LIMIT = 36


def describe(experiment: Mapping[str, Any], fingerprint: str) -> dict[str, str]:
    """The tags of a run, for search and comparison."""
    tags = {
        "data.address": experiment.get("data"),
        "data.fingerprint": fingerprint,
        "source.digest": provenance.source_digest(),
        "source.commit": provenance.commit(),
        "mlflow.source.git.commit": provenance.commit(),
        "seed": experiment.get("seed"),
        "threads": experiment.get("threads"),
        "workers": of_workers(experiment.get("workers")),
        "select": experiment.get("select"),
        "select_on_test": str(bool(experiment.get("select_on_test"))).lower(),
        "experiment": experiment.get("name"),
    }
    return {key: without_secret(str(value)) for key, value in tags.items() if value is not None}


def of_workers(setting: Any) -> Any:
    return f"{setting['min']} to {setting['max']}" if isinstance(setting, Mapping) else setting


def dataset_input(experiment: Mapping[str, Any], fingerprint: str) -> DatasetInput:
    address = without_secret(str(experiment.get("data") or ""))
    name = address.rstrip("/").rpartition("/")[2] or "data"
    source = json.dumps({"uri": address})
    dataset = Dataset(name=name, digest=fingerprint[:DIGEST_LIMIT], source_type="redress", source=source)
    return DatasetInput(dataset, tags=[InputTag("mlflow.data.context", "training")])


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Dotted names → text within MLflow's limits, without secrets of addresses."""
    flat: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value)
            flat[f"{prefix}{key}"] = without_secret(text)[:VALUE_LIMIT]
    return flat


def redact(tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return {key: redact(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [redact(value) for value in tree]
    return without_secret(tree) if isinstance(tree, str) else tree
