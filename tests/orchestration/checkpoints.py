"""Checkpoints of models with random weights, written as training writes them."""

from __future__ import annotations

from datasets.shards.dataset import Dataset
from datasets.storage.store import open_store
from orchestration.config import build
from orchestration.config.load import Experiment
from orchestration.engine import checkpoint
from orchestration.engine.loop import TrainingProgress
from orchestration.engine.strategies.strategy import FullState


def checkpoint_of(experiment: Experiment, run: str, seed: int, epoch: int = 1) -> str:
    """The address of a checkpoint below `run`: the experiment's model as `seed` draws it, after so many epochs."""
    dataset = Dataset.open(experiment.data)
    facts = build.describe_data(dataset, dataset.index("train"))
    wanted = experiment.model_copy(update={"seed": seed})
    method = build.build_method(wanted, facts)
    store = open_store(run)
    folder = checkpoint.save(
        store, FullState(method.state_dict(), {}), TrainingProgress(epoch, 0, epoch),
        end_of_epoch=True, experiment=wanted.resolved(), facts=facts,
    )  # fmt: skip
    return store.join(folder)
