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
from datasets.streaming.prefetch import PendingBatch, Prefetch, Source, StreamConfig, StreamStats

__all__ = ["HostBatch", "Plan", "Source", "Stream", "StreamStats", "plan_epoch"]


@dataclass
class HostBatch:
    """A worker's share of a global batch, b = people × images / workers samples, on the host.

    images: uint8 [b, 3, h, w], channels last in memory; empty where only rows are drawn. parsing: uint8 [b, h, w] or None.
    person, clothes, camera, rows: int64 [b]; rows index the split. Where samples are clips of T frames, images are
    [b, T, 3, h, w], parsing [b, T, h, w] and rows [b, T]. number: the batch's number in its epoch. wait_s: seconds that the
    consumer waited for it.
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

    parsing: whether masks are read. size: (height, width) that images and masks are resized to; a split whose images all
    have one size is delivered in that size. threads: the number that decodes; as many read. cache_bytes: the encoded row
    groups in memory, at least one; they stay from epoch to epoch. index: the split's index, where the caller has it.

    Raises: DataError when `parsing` is set and the split does not have all masks.
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
                f"split {split!r} does not have a parsing mask for every image, and this method needs them; add masks with "
                "`redress data parse`, convert with --parsing, or choose a method that needs none"
            )
        stored = dataset.split(split).image_size
        self.config = StreamConfig(
            dataset, split, index, parsing, stored or size, stored is not None, max(1, threads), cache_bytes
        )
        self.stats = StreamStats()
        self._cached: dict[int, Group] = {}
        self._running: weakref.WeakSet[Prefetch] = weakref.WeakSet()

    def epoch(self, plan: Plan, *, first_batch: int = 0, worker: int = 0, workers: int = 1) -> Iterator[HostBatch]:
        """This worker's share of the batches from `first_batch` on. Threads run while the iterator is in use.

        Raises: DataError when the workers cannot share the lanes. The iterator raises, instead of the batch concerned:
        CorruptData or StoreError from reading a row group, DecodeError naming the image.
        """
        return self._batches(plan.share(worker, workers), first_batch, plan.clip)

    def labels(self, plan: Plan, *, first_batch: int = 0, worker: int = 0, workers: int = 1) -> Iterator[HostBatch]:
        """As `epoch`, with rows and labels alone: images are empty, and nothing is read."""
        rows = plan.share(worker, workers)
        nothing = PendingBatch.empty(0, self.config.size, parsing=False)
        for number in range(first_batch, len(rows)):
            yield self._labelled(rows[number], None, number, nothing, 0.0)

    def survey(self, images: int, *, worker: int = 0, workers: int = 1) -> Iterator[HostBatch]:
        """Every row of the split once, in the order of the index: this worker's contiguous share, `images` at a time.

        Shares are whole row groups. Raises: as `epoch`.
        """
        rows = survey_rows(self.config.index.group, worker, workers)
        whole = len(rows) // images * images
        for part in (rows[:whole].reshape(-1, images), rows[None, whole:]):
            if part.size:
                yield from self._batches(part, 0, None)

    def close(self) -> None:
        """Stops the running epochs and empties the cache."""
        for running in list(self._running):
            running.close()
            running.cached.clear()
        self._cached = {}

    def _batches(self, rows: np.ndarray, first_batch: int, clip: int | None) -> Iterator[HostBatch]:
        running = Prefetch(self.config, rows, first_batch, self._cached, self.stats)
        self._cached = {}
        self._running.add(running)
        try:
            for number in range(first_batch, len(rows)):
                yield self._labelled(rows[number], clip, number, *running.take(number))
        finally:
            running.close()
            self._cached = running.cached_groups()

    def _labelled(
        self, rows: np.ndarray, clip: int | None, number: int, batch: PendingBatch, wait_s: float
    ) -> HostBatch:
        index = self.config.index
        shape = (len(rows),) if clip is None else (-1, clip)  # samples, and their frames
        heads = rows[:: clip or 1]

        def labels(of: np.ndarray) -> Tensor:
            return torch.from_numpy(of[heads].astype(np.int64))

        images = torch.from_numpy(batch.images).permute(0, 3, 1, 2)
        return HostBatch(
            images=images.unflatten(0, shape) if len(images) else images,
            parsing=None if batch.parsing is None else torch.from_numpy(batch.parsing).unflatten(0, shape),
            person=labels(index.person),
            clothes=labels(index.clothes),
            camera=labels(index.camera),
            rows=torch.from_numpy(rows.astype(np.int64)).reshape(shape),
            number=number,
            wait_s=wait_s,
        )


def survey_rows(group: np.ndarray, worker: int, workers: int) -> np.ndarray:
    """A worker's rows: int64, ascending, of whole row groups. group: int64 [N], each row's, ascending."""
    begins = np.flatnonzero(np.diff(group, prepend=-1, append=-1))
    start, end = (begins[np.searchsorted(begins, len(group) * part // workers)] for part in (worker, worker + 1))
    return np.arange(start, end)
