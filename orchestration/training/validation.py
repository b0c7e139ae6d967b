"""Validation during training: the workers that train a method score it on val_query and val_gallery.

A run that selects its model on the test set, as published code does, is scored on that set in the same way.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from datasets.protocols import protocols
from datasets.storage.store import Store
from methods.method import Method
from orchestration.config.load import Experiment
from orchestration.engine.strategies.strategy import Strategy
from orchestration.evaluation.embed import Embedder, EmbeddingJob, load_features, split_into_tasks
from orchestration.evaluation.evaluate import clip, open_for_evaluation
from orchestration.evaluation.modes import rank_modes
from orchestration.measures import DURING_TRAINING
from orchestration.tracking.segments import Record, SegmentReader, SegmentWriter
from orchestration.workers.watch import Watch, watch_of

FOLDER = "validation"
PREFIX, PREFIX_ON_TEST = DURING_TRAINING


def validate(
    method: Method,
    experiment: Experiment,
    store: Store,
    epoch: int,
    step: int,
    strategy: Strategy,
    device: torch.device,
    *,
    on_test: bool = False,
    watch: Watch | None = None,
) -> dict[str, float]:
    """The protocol's metrics on the validation set (on_test: on the test set). Rank 0 returns them and adds them to the
    run's storage.

    epoch: how many the method was trained for. Row groups are shared out over the workers, so all of them embed with rank
    0's buffers, which are those of the checkpoint. What a batch of training draws does not change by it.
    """
    watch = watch or watch_of(store, None)
    dataset, protocol = open_for_evaluation(experiment.data, validation=not on_test)
    settings = experiment.evaluate
    scratch = store.sub(f"{FOLDER}/{epoch:06d}")
    job = EmbeddingJob(
        model="",
        data=experiment.data,
        destination=scratch.address,
        batch=settings.batch,
        flip=settings.flip,
        clip=clip(protocol, settings),
        threads=experiment.threads,
        gpu=device.type == "cuda",
    )
    splits = sorted({split for mode in protocol.modes for split in (mode.query, mode.gallery)})
    if strategy.rank == 0:
        scratch.delete_tree("")  # of an interrupted attempt
    strategy.share_buffers()
    wait_for_all()
    embedder = Embedder(job, (experiment, method))
    indexes = dict(zip(splits, dataset.indexes(*splits), strict=True))
    items = [(split, group) for split in splits for group in split_into_tasks(indexes[split], job.clip).images]
    with strategy.whole(), watch.during("embedding for validation"):
        for split, group in items[strategy.rank :: strategy.workers]:
            embedder.embed_group(split, group)
            watch.progress()
    method.train()
    wait_for_all()
    watch.progress()
    if strategy.rank != 0:
        return {}
    with watch.during("ranking for validation", is_long=True):
        found = {
            split: load_features(scratch, split, protocols.samples(protocol, index)) for split, index in indexes.items()
        }
        result = rank_modes(protocol, indexes, found, dataset.manifest, reranking=settings.rerank)
    scratch.delete_tree("")
    metrics = {name: float(value) for name, value in result.metrics.items() if value is not None}
    keep(store, {"epoch": epoch, "step": step, "metrics": metrics})
    return metrics


def wait_for_all() -> None:
    if dist.is_initialized():
        dist.barrier()


def keep(store: Store, record: Record) -> None:
    writer = SegmentWriter(store, f"{FOLDER}/scores", {})
    writer.append(record)
    writer.close()


class Scores:
    """The validation scores of a run so far, each epoch once."""

    def __init__(self, store: Store) -> None:
        self.reader = SegmentReader(store, f"{FOLDER}/scores")
        self.last = 0

    def read_new(self) -> list[dict[str, Any]]:
        """Records (epoch, step, metrics) of epochs that were not read before."""
        new = []
        for _, record in self.reader.read_new():
            if record["epoch"] > self.last:
                self.last = record["epoch"]
                new.append(record)
        return new
