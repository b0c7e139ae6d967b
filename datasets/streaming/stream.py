"""Batches of a data set in the order of a plan, read, verified and decoded ahead (`prefetch`)."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from datasets.errors import DataError
from datasets.format.index import SplitIndex
from datasets.format.row_group import Group
from datasets.sampling.plan import Plan, plan_epoch
from datasets.streaming.prefetch import Filling, Prefetch, Source, StreamStats, Work

__all__ = ["HostBatch", "Plan", "Source", "Stream", "StreamStats", "plan_epoch"]


@dataclass
class HostBatch:
    """A worker's share of a global batch, b = people × images / workers samples, on the host.

    images: uint8 [b, 3, h, w], channels last in memory. parsing: uint8 [b, h, w] or None. person, clothes, camera, rows:
    int64 [b]. Of clips of T frames images are [b, T, 3, h, w], parsing [b, T, h, w] and rows [b, T].
    number: of the batch in its epoch. wait_s: seconds that the consumer waited for it.
    """

    images: Tensor
    parsing: Tensor | None
    person: Tensor
    clothes: Tensor
    camera: Tensor
    rows: Tensor
    number: int
    wait_s: float


class Stream:
    """Batches of a split, in the order of a plan.

    Images of a split whose images are all of one size come at that size; of others each comes resized to `size`
    (height, width), masks with them. threads: that decode; as many again read. cache_bytes: of encoded row groups held,
    at least one; they stay from epoch to epoch.

    index: of the split, where it is at hand. Raises: DataError when parsing is asked of a split without masks.
    """

    def __init__(
        self,
        dataset: Source,
        split: str,
        *,
        parsing: bool,
        size: tuple[int, int],
        threads: int,
        cache_bytes: int,
        index: SplitIndex | None = None,
    ) -> None:
        index = dataset.index(split) if index is None else index
        if parsing and not index.has_parsing:
            raise DataError(
                f"split {split!r} has no parsing mask for every image, which this method needs; add masks with "
                "`redress data parse` or convert with --parsing, or choose a method without"
            )
        stored = dataset.split(split).image_size
        self.work = Work(
            dataset, split, index, parsing, stored or size, stored is not None, max(1, threads), cache_bytes
        )
        self.stats = StreamStats()
        self._held: dict[int, Group] = {}
        self._running: weakref.WeakSet[Prefetch] = weakref.WeakSet()

    def epoch(self, plan: Plan, *, first_batch: int = 0, worker: int = 0, workers: int = 1) -> Iterator[HostBatch]:
        """This worker's share of the batches from `first_batch` on. Threads work while the iterator is in use.

        Raises, here: DataError when the lanes do not divide over the workers. From the iterator, in place of the batch
        that needed it: CorruptData or StoreError as the row group's read raised it, DecodeError naming the image.
        """
        return self._batches(plan.share(worker, workers), first_batch, plan.clip)

    def close(self) -> None:
        """Stops what runs and lets go of the row groups held."""
        for running in list(self._running):
            running.close()
            running.held.clear()
        self._held = {}

    def _batches(self, rows: np.ndarray, first_batch: int, clip: int | None) -> Iterator[HostBatch]:
        running = Prefetch(self.work, rows, first_batch, self._held, self.stats)
        self._held = {}
        self._running.add(running)
        try:
            for number in range(first_batch, len(rows)):
                yield self._labelled(rows[number], clip, number, *running.take(number))
        finally:
            running.close()
            self._held = running.held_groups()

    def _labelled(self, rows: np.ndarray, clip: int | None, number: int, batch: Filling, wait_s: float) -> HostBatch:
        index = self.work.index
        shape = (len(rows),) if clip is None else (-1, clip)  # samples, and their frames
        heads = rows[:: clip or 1]

        def labels(of: np.ndarray) -> Tensor:
            return torch.from_numpy(of[heads].astype(np.int64))

        return HostBatch(
            images=torch.from_numpy(batch.images).permute(0, 3, 1, 2).unflatten(0, shape),
            parsing=None if batch.parsing is None else torch.from_numpy(batch.parsing).unflatten(0, shape),
            person=labels(index.person),
            clothes=labels(index.clothes),
            camera=labels(index.camera),
            rows=torch.from_numpy(rows.astype(np.int64)).reshape(shape),
            number=number,
            wait_s=wait_s,
        )
