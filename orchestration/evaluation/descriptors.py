"""Descriptors of a model on a data set: read from an earlier evaluation in the run's storage, or else computed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

import torch
import torch.nn.functional as F

from datasets.protocols import protocols
from datasets.protocols.protocols import Protocol
from datasets.shards.dataset import Dataset, SplitIndex
from datasets.storage.store import Store, open_store
from orchestration.config.stored import experiment_of
from orchestration.evaluation.embed import Descriptors, load_features
from orchestration.evaluation.evaluate import CACHE_KEY, cache_key, evaluate
from orchestration.evaluation.score import evaluation_folder
from orchestration.progress import Progress
from orchestration.registry.locate import Located

CHANCE_DIMENSIONS = 64
AFTER_TRAINING = "evaluation"


def cached_descriptors(
    located: Located,
    data: str,
    dataset: Dataset,
    protocol: Protocol,
    indexes: Mapping[str, SplitIndex],
    progress: Progress,
) -> dict[str, Descriptors]:
    """The model's descriptors of the protocol's splits.

    Descriptors that an earlier evaluation of this model on these data left complete are read.
    Raises: RequestError where the model cannot be evaluated on the data.
    """
    experiment = experiment_of(located.checkpoint, [f"data={data}"])
    key = cache_key(located.checkpoint, dataset, protocol, experiment.evaluate)
    run = open_store(located.run)
    folder = evaluation_folder(key)
    for name in (AFTER_TRAINING, folder):
        if found := stored(run.sub(name), key, protocol, indexes):
            return found
    with progress.bar(f"embedding with run {PurePosixPath(located.run).name}", "images") as bar:
        evaluate(
            located.checkpoint.address,
            experiment,
            run.join(folder),
            details=False,
            progress=bar,
            say=progress.say,
        )
    found = stored(run.sub(folder), key, protocol, indexes)
    assert found is not None, "an evaluation leaves the descriptors of every row"
    return found


def stored(
    store: Store, key: Mapping[str, Any], protocol: Protocol, indexes: Mapping[str, SplitIndex]
) -> dict[str, Descriptors] | None:
    """The descriptors of some splits in an evaluation's folder; None unless they are complete and have the cache key `key`."""
    if not store.exists(CACHE_KEY) or json.loads(store.read(CACHE_KEY)) != json.loads(json.dumps(key)):
        return None
    try:
        return {
            split: load_features(store.sub("features"), split, protocols.samples(protocol, index))
            for split, index in indexes.items()
        }
    except RuntimeError:  # an evaluation that was interrupted
        return None


def random_order(protocol: Protocol, indexes: Mapping[str, SplitIndex]) -> dict[str, Descriptors]:
    """Random descriptors, which rank the gallery in random order for each query; the same at every call."""
    generator = torch.Generator().manual_seed(0)
    found = {}
    for split, index in sorted(indexes.items()):
        rows = protocols.samples(protocol, index)
        found[split] = Descriptors(
            rows, F.normalize(torch.randn(len(rows), CHANCE_DIMENSIONS, generator=generator), dim=1)
        )
    return found
