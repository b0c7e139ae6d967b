"""Scores of a method between its epochs are those of its checkpoints on the people held out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from datasets.conversion.holdout import holdout
from datasets.protocols import protocols
from datasets.storage.store import open_store
from orchestration.config import build
from orchestration.config.load import Experiment, load
from orchestration.engine import checkpoint
from orchestration.engine.strategies.choice import build_strategy
from orchestration.evaluation.embed import Embedder, EmbeddingJob, load_features
from orchestration.evaluation.evaluate import open_for_evaluation
from orchestration.evaluation.modes import rank_modes
from orchestration.training import worker
from orchestration.training.validation import FOLDER, Scores, keep, validate
from tests.orchestration.processes import in_processes
from tests.tiny import tiny_dataset


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    """The baseline on 9 people, with 3 more as validation set."""
    tiny_dataset(tmp_path / "data", persons=12, clothes=2, images=4, test_persons=2)
    holdout(str(tmp_path / "data"), str(tmp_path / "held"), persons=3)
    return load("baseline-demo", [
        f"data={tmp_path / 'held'}", "epochs=2", "workers=1", "batch.people=4", "batch.images=2", "batch.lanes=2",
        "augment.height=32", "augment.width=16", "method.width=0.125", "optimizers.model.schedule=null",
        "checkpoint.keep=null", "sync_batch_norm=false",
    ])  # fmt: skip


def test_the_score_after_an_epoch_is_that_of_its_checkpoint(experiment: Experiment, tmp_path: Path) -> None:
    dataset = build.open_data(experiment)
    facts = build.describe_data(dataset, dataset.index("train"))
    schedule = worker.ValidationSchedule(every=1, waits=False)
    config = worker.WorkerConfig(experiment.resolved(), str(tmp_path / "run"), facts, validation=schedule)
    store = open_store(config.run)
    worker.run(config, store, torch.device("cpu"))
    records = Scores(store).read_new()
    folders = checkpoint.complete_folders(store)
    assert [record["epoch"] for record in records] == [1, 2]
    assert [record["step"] for record in records] == [checkpoint.read(store, at).progress.step for at in folders]
    for record, folder in zip(records, folders, strict=True):
        assert record["metrics"] == pytest.approx(score(store.join(folder), experiment.data, tmp_path / folder[-8:]))
    assert all(path.startswith(f"{FOLDER}/scores/") for path in store.list(FOLDER)), "descriptors are deleted"


@pytest.mark.parametrize("workers", [2, 3])
def test_workers_with_running_statistics_of_their_own_score_the_network_of_rank_0(
    experiment: Experiment, tmp_path: Path, workers: int
) -> None:
    tree = experiment.resolved()
    expected, buffers = scored(tree, str(tmp_path / "alone"))
    everyones = in_processes(workers, scored, tree, str(tmp_path / "together"))
    assert everyones[0][0] == pytest.approx(expected)
    for _, found in everyones:
        assert found.keys() == buffers.keys()
        assert all(torch.equal(found[name], value) for name, value in buffers.items())


def scored(tree: dict[str, Any], run: str) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """The scores of a method whose batch norms saw images of this worker alone, and its buffers afterwards."""
    experiment = Experiment.from_resolved(tree)
    dataset = build.open_data(experiment)
    facts = build.describe_data(dataset, dataset.index("train"))
    method = build.build_method(experiment, facts)
    strategy = build_strategy()
    strategy.prepare(method, {})
    images = torch.randn(8, 3, 32, 16, generator=torch.Generator().manual_seed(strategy.rank))
    for scale in range(1, 6):
        method(images * (strategy.rank + scale))
    metrics = validate(method, experiment, open_store(run), 1, 1, strategy, torch.device("cpu"))
    return metrics, dict(method.named_buffers())


def score(model: str, data: str, scratch: Path) -> dict[str, float]:
    """The metrics of a checkpoint, read from storage, on val_query and val_gallery."""
    dataset, protocol = open_for_evaluation(data, validation=True)
    job = EmbeddingJob(
        model=model, data=data, destination=str(scratch), batch=7, flip=True, clip=None, threads=1, gpu=False
    )
    embedder = Embedder(job)
    found = {}
    indexes = {split: dataset.index(split) for split in ("val_query", "val_gallery")}
    for split, index in indexes.items():
        for group in range(len(index.groups)):
            embedder.embed_group(split, group)
        found[split] = load_features(open_store(str(scratch)), split, protocols.samples(protocol, index))
    metrics = rank_modes(protocol, indexes, found, dataset.manifest).metrics
    return {name: value for name, value in metrics.items() if value is not None}


def test_scores_are_read_once_and_repeated_epochs_are_skipped(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    scores = Scores(store)
    assert scores.read_new() == []
    first, second = ({"epoch": epoch, "step": 3 * epoch, "metrics": {"m": epoch / 10}} for epoch in (1, 2))
    keep(store, first)
    assert scores.read_new() == [first]
    keep(store, first)  # a worker that restarted from the checkpoint before validates again
    keep(store, second)
    assert scores.read_new() == [second]
    assert Scores(store).read_new() == [first, second]
