"""Registered versions to compare: real runs, checkpoints and registry, made in a moment and without training or Ray."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.shards.dataset import Dataset
from datasets.storage.store import open_store
from orchestration.config.load import Experiment, load
from orchestration.engine import checkpoint
from orchestration.evaluation.embed import feature_path
from orchestration.evaluation.evaluate import CACHE_KEY, cache_key, open_for_evaluation
from orchestration.export.model_card import Provenance, write_card
from orchestration.registry.publish import Packed, create_version
from orchestration.registry.versions import CANDIDATE
from orchestration.tracking import mlflow_client, tracked_run
from tests.orchestration.checkpoints import checkpoint_of
from tests.tiny import tiny_dataset

SIZE = (64, 32)
METRICS = {"general/mAP": 0.4, "clothes-changing/mAP": 0.1, "clothes-changing/rank-1": 0.2}
DIMENSIONS = 16


@dataclass(frozen=True)
class Place:
    """data: a data set of 16 test people. runs: where runs lie."""

    data: str
    runs: Path


def make_place(folder: Path, *, persons: int = 16) -> Place:
    data = tiny_dataset(folder / "data", test_persons=persons, size=SIZE, row_group_bytes=64 << 10)
    return Place(data, folder / "runs")


def recipe(place: Place, *overrides: str) -> Experiment:
    sizes = [f"augment.height={SIZE[0]}", f"augment.width={SIZE[1]}", "method.width=0.125"]
    settings = [f"data={place.data}", f"storage={place.runs}", "experiment=reviewed", "resources.cpus=0.5"]
    return load("baseline-demo", [*settings, *sizes, *overrides])


def register_version(
    place: Place,
    name: str,
    noise: float | None,
    *overrides: str,
    seed: int = 1,
    fingerprint: str = "",
    on_test: bool = False,
) -> str:
    """Register a version of `name`, as candidate; returns models:/name/version.

    noise: its stored descriptors are those of people with so much noise; None leaves nothing stored. fingerprint: what its
    tags say of the data, instead of the truth.
    """
    experiment = recipe(place, f"seed={seed}", *overrides)
    truth = Dataset.open(experiment.data).fingerprint
    run = tracked_run.create_run(experiment.resolved(), truth)
    address = checkpoint_of(experiment, run.storage, seed)
    if noise is not None:
        store_descriptors(run.storage, address, experiment, noise, seed)
    run.finish("FINISHED")
    client = mlflow_client.connect()
    experiment_id = client.get_run(run.run_id).info.experiment_id
    logged = client.create_logged_model(experiment_id, name="model", source_run_id=run.run_id)
    provenance = Provenance(
        run_id=run.run_id,
        checkpoint=address,
        experiment=experiment.name,
        settings=experiment.resolved(),
        data_name="tiny 1",
        data_fingerprint=fingerprint or truth,
        licence="drawn for tests",
        metrics=METRICS,
        select_on_test=on_test,
    )
    card = write_card(name, provenance, size=SIZE, dimensions=DIMENSIONS, inputs=("images",))
    packed = Packed(name, provenance, {"card": card.encode()}, (), ("images",), DIMENSIONS, attempt=run.run_id)
    version = create_version(client, packed, logged.model_id).version
    client.set_registered_model_alias(name, CANDIDATE, version)
    return f"models:/{name}/{version}"


def store_descriptors(run: str, model: str, experiment: Experiment, noise: float, seed: int) -> None:
    """What an evaluation leaves: features by row group, and what they are of."""
    dataset, protocol = open_for_evaluation(experiment.data)
    store = open_store(run).sub("evaluation")
    key = cache_key(checkpoint.find(model), dataset, protocol, experiment.evaluate)
    store.write(CACHE_KEY, json.dumps(key, indent=1, sort_keys=True).encode())
    for split in ("query", "gallery"):
        index = dataset.indexes("query", "gallery")[("query", "gallery").index(split)]
        features = people(index.person, noise, seed + len(split))
        for group in range(len(index.groups)):
            rows = np.flatnonzero(index.group == group)
            column = pa.FixedSizeListArray.from_arrays(pa.array(features[rows].numpy().reshape(-1)), DIMENSIONS)
            buffer = io.BytesIO()
            pq.write_table(pa.table({"row": pa.array(rows), "feature": column}), buffer)
            store.write(f"features/{feature_path(split, group)}", buffer.getvalue())


def people(person: np.ndarray, noise: float, seed: int) -> Tensor:
    """float32 [N, DIMENSIONS], L2-normalised: a direction of each person's own, and noise."""
    centres = torch.randn(int(person.max()) + 1, DIMENSIONS, generator=torch.Generator().manual_seed(0))
    blur = torch.randn(len(person), DIMENSIONS, generator=torch.Generator().manual_seed(seed))
    return F.normalize(centres[torch.from_numpy(person)] + noise * blur, dim=1)
