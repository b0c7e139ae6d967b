"""Descriptors of a model on a data set: those that an evaluation has left in the run's storage, or else made now."""

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
from orchestration.config.load import override
from orchestration.evaluation.embed import Descriptors, load_features
from orchestration.evaluation.evaluate import EMBEDDING, embedding, evaluate
from orchestration.evaluation.score import evaluation_folder
from orchestration.progress import Progress
from orchestration.registry.locate import Located

CHANCE_DIMENSIONS = 64
AFTER_TRAINING = "evaluation"


def descriptors_of(
    located: Located,
    data: str,
    dataset: Dataset,
    protocol: Protocol,
    indexes: Mapping[str, SplitIndex],
    progress: Progress,
) -> dict[str, Descriptors]:
    """The model's descriptors of the protocol's splits.

    Nothing is embedded again, and no Ray is started, where an evaluation of this model on these data left all of them.
    Raises: RequestError where the model cannot be evaluated on the data.
    """
    experiment = override(located.checkpoint.experiment, [f"data={data}"], source="the run")
    wanted = embedding(located.checkpoint, dataset, protocol, experiment.evaluate)
    run = open_store(located.run)
    folder = evaluation_folder(wanted)
    for name in (AFTER_TRAINING, folder):
        if found := stored(run.sub(name), wanted, protocol, indexes):
            return found
    with progress.bar(f"embedding by {PurePosixPath(located.run).name}", "images") as bar:
        evaluate(located.checkpoint.address, experiment, run.join(folder), draw_pictures=False, progress=bar)
    found = stored(run.sub(folder), wanted, protocol, indexes)
    assert found is not None, "an evaluation leaves the descriptors of every row"
    return found


def stored(
    store: Store, wanted: Mapping[str, Any], protocol: Protocol, indexes: Mapping[str, SplitIndex]
) -> dict[str, Descriptors] | None:
    """Descriptors of splits in an evaluation's folder; None unless they are what is wanted (`embedding.json`), and complete."""
    if not store.exists(EMBEDDING) or json.loads(store.read(EMBEDDING)) != json.loads(json.dumps(wanted)):
        return None
    try:
        return {
            split: load_features(store.sub("features"), split, protocols.samples(protocol, index))
            for split, index in indexes.items()
        }
    except RuntimeError:  # an evaluation that was interrupted
        return None


def random_order(protocol: Protocol, indexes: Mapping[str, SplitIndex]) -> dict[str, Descriptors]:
    """Descriptors that know nothing: a gallery in random order for each query, the same at every call."""
    generator = torch.Generator().manual_seed(0)
    found = {}
    for split, index in sorted(indexes.items()):
        rows = protocols.samples(protocol, index)
        found[split] = Descriptors(
            rows, F.normalize(torch.randn(len(rows), CHANCE_DIMENSIONS, generator=generator), dim=1)
        )
    return found
