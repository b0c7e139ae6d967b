"""Checkpoints of models with random weights, written as training writes them."""

from __future__ import annotations

from datasets.shards.dataset import Dataset
from datasets.storage.store import open_store
from orchestration import assembly, checkpoint
from orchestration.experiment import Experiment
from orchestration.loop import Position


def checkpoint_of(experiment: Experiment, run: str, seed: int, epoch: int = 1) -> str:
    """The address of a checkpoint below `run`: the experiment's model as `seed` draws it, after so many epochs."""
    dataset = Dataset.open(experiment.data)
    facts = assembly.describe_data(dataset.index("train"), dataset.manifest.label_map)
    wanted = experiment.model_copy(update={"seed": seed})
    method = assembly.build_method(wanted, facts)
    store = open_store(run)
    folder = checkpoint.save(
        store, method, assembly.build_optimization(wanted, method).optimizers, Position(epoch, 0, epoch),
        end_of_epoch=True, experiment=wanted.resolved(), facts=facts,
    )  # fmt: skip
    return store.join(folder)
