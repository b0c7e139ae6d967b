"""Batches read and decoded ahead by threads, in bounded memory.

A scheduler follows the accesses of the batches to row groups, in order. It submits reads ahead, as far as the cache has
room. It submits the images of the next batches to the decoders as soon as their row group is read; these decode into the
batch's own memory. What is cached and evicted follows from the order alone (`eviction`), so a run reads the same bytes
every time.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import pyarrow as pa

from datasets.format.index import SplitIndex
from datasets.format.manifest import Split
from datasets.format.row_group import Encoded, Group
from datasets.images.decode import DecodeError, decode_image, decode_parsing, resize_image, resize_parsing
from datasets.streaming.eviction import Access, access_order, schedule_evictions

BATCHES_AHEAD = 4  # decoded and waiting
BATCHES_PLANNED = 256  # how far ahead of them row groups may be read
TASK_IMAGES = 16  # decoded in one task: one batch keeps several threads busy


class Source(Protocol):
    """The part of a data set that a stream needs."""

    def index(self, split: str) -> SplitIndex: ...
    def split(self, name: str) -> Split: ...
    def read_group(self, split: str, group: int, columns: tuple[str, ...]) -> pa.Table: ...


@dataclass
class StreamStats:
    """Counters since the stream was opened.

    bytes_read, groups_read: bytes and row groups read. groups_reread: reads of a row group that was read before in the
    same epoch. wait_s: seconds that the consumer waited for batches.
    """

    bytes_read: int = 0
    groups_read: int = 0
    groups_reread: int = 0
    wait_s: float = 0.0


@dataclass(frozen=True)
class StreamConfig:
    """What a stream reads and decodes, and with which resources.

    parsing: whether masks are read. size: (height, width) of the delivered images. is_one_size: images are stored in this
    size, else each is resized. threads: the number that decodes; as many read. cache_bytes: the size of the cache.
    """

    dataset: Source
    split: str
    index: SplitIndex
    parsing: bool
    size: tuple[int, int]
    is_one_size: bool
    threads: int
    cache_bytes: int


class Prefetch:
    """The threads of one epoch. `changed` guards all its state, except a batch's memory while it is filled.

    rows: int64 [num_batches, b], the rows of each batch. first_batch: the batch to begin with. cached: the row groups that
    are in memory already. stats: the counters to add to.
    """

    def __init__(
        self, config: StreamConfig, rows: np.ndarray, first_batch: int, cached: dict[int, Group], stats: StreamStats
    ) -> None:
        self.config, self.rows, self.index, self.stats = config, rows, config.index, stats
        self.changed = threading.Condition()
        self.is_closed = False
        self.failure: BaseException | None = None  # of the scheduler itself
        self.taken = first_batch  # batches before it were handed to the consumer
        self.batches: dict[int, PendingBatch] = {}
        self.cached = {group: _CachedGroup(value) for group, value in cached.items()}
        self.claims: Counter[int] = Counter()  # accesses to a row group that are not finished
        self.num_reading = 0
        self.was_read: set[int] = set()
        places = self.index.groups
        self.accesses = schedule_evictions(
            access_order(self.index.group, rows, first_batch),
            [place.length for place in places],
            config.cache_bytes,
            cached,
        )
        self.readers = ThreadPoolExecutor(config.threads, "redress-read")
        self.decoders = ThreadPoolExecutor(config.threads, "redress-decode")
        self.scheduler = threading.Thread(target=self._schedule, name="redress-schedule", daemon=True)
        self.scheduler.start()

    def take(self, number: int) -> tuple[PendingBatch, float]:
        """Waits for a batch; returns it and the seconds waited. Batches are taken in order.

        Raises: what reading or decoding the batch raised; RuntimeError when the stream was closed.
        """
        began = time.perf_counter()
        with self.changed:
            while not (self.failure or self.is_closed) and not self._is_done(number):
                self.changed.wait()
            wait_s = time.perf_counter() - began
            self.stats.wait_s += wait_s
            if self.failure:
                raise self.failure
            if self.is_closed:
                raise RuntimeError("the stream was closed while its batches were in use")
            batch = self.batches.pop(number)
            if batch.failure:
                raise batch.failure
            self.taken = number + 1
            self.changed.notify_all()
        return batch, wait_s

    def close(self) -> None:
        """Stops the threads after the tasks that have begun."""
        with self.changed:
            self.is_closed = True
            self.changed.notify_all()
        if self.scheduler is not threading.current_thread():
            self.scheduler.join()
        self.readers.shutdown(wait=True, cancel_futures=True)
        self.decoders.shutdown(wait=True, cancel_futures=True)
        self.batches.clear()

    def cached_groups(self) -> dict[int, Group]:
        """The row groups that the closed epoch leaves in memory."""
        return {number: cached.group for number, cached in self.cached.items() if cached.group is not None}

    def _is_done(self, number: int) -> bool:
        return number in self.batches and self.batches[number].num_left == 0

    # The scheduler: one thread that decides, under the lock, what is read and decoded next.

    def _schedule(self) -> None:
        try:
            coming = next(self.accesses, None)
            waiting: deque[Access] = deque()  # read or being read, not yet given to the decoders
            with self.changed:
                while not self.is_closed and (coming or waiting):
                    if waiting and waiting[0].batch < self.taken + BATCHES_AHEAD:
                        self._decode(waiting.popleft())
                    elif coming and coming.batch < self.taken + BATCHES_PLANNED and self._claim(coming):
                        waiting.append(coming)
                        coming = next(self.accesses, None)
                    else:
                        self.changed.wait()
        except BaseException as error:
            with self.changed:
                self.failure = error
                self.changed.notify_all()

    def _claim(self, access: Access) -> bool:
        """Claims the row group, and submits its read where needed. False when other accesses must finish first."""
        if not access.is_cached:
            if self.num_reading >= self.config.threads or any(self.claims[group] for group in access.evicted):
                return False
            for group in access.evicted:
                del self.cached[group]
            self.num_reading += 1
            self.cached[access.group] = _CachedGroup()
            self.readers.submit(self._read, access.group, self.cached[access.group])
        self.claims[access.group] += 1
        return True

    def _read(self, number: int, cached: _CachedGroup) -> None:
        config, place = self.config, self.index.groups[number]
        group: Group | None = None
        failure: Exception | None = None
        try:
            columns = ("image", "parsing") if config.parsing else ("image",)
            table = config.dataset.read_group(config.split, number, columns)
            group = Group(Encoded.of(table["image"]), Encoded.of(table["parsing"]) if config.parsing else None)
        except Exception as error:
            error.add_note(f"in split {config.split!r}, shard {place.shard}, row group {place.group}")
            failure = error
        with self.changed:
            cached.group, cached.failure = group, failure
            self.num_reading -= 1
            self.stats.groups_read += 1
            self.stats.groups_reread += number in self.was_read
            self.stats.bytes_read += place.length
            self.was_read.add(number)
            for task in cached.waiting:
                self._submit(task, cached)
            cached.waiting.clear()
            self.changed.notify_all()

    def _decode(self, access: Access) -> None:
        """Submits the batch's images in this row group to the decoders, once it is read."""
        rows = self.rows[access.batch]
        if access.batch not in self.batches:
            self.batches[access.batch] = PendingBatch.empty(len(rows), self.config.size, self.config.parsing)
        cached = self.cached[access.group]
        places = np.flatnonzero(self.index.group[rows] == access.group)
        starts = range(0, len(places), TASK_IMAGES)
        self.claims[access.group] += len(starts) - 1
        for start in starts:
            task = _DecodeTask(self.batches[access.batch], access.group, rows, places[start : start + TASK_IMAGES])
            if cached.group is None and cached.failure is None:
                cached.waiting.append(task)
            else:
                self._submit(task, cached)

    def _submit(self, task: _DecodeTask, cached: _CachedGroup) -> None:
        if not self.is_closed:  # else nobody waits for the batch
            self.decoders.submit(self._fill, task, cached)

    def _fill(self, task: _DecodeTask, cached: _CachedGroup) -> None:
        failure: Exception | None = cached.failure
        try:
            if cached.group is not None:
                for place in task.places.tolist():
                    self._fill_one(task.batch, cached.group, int(task.rows[place]), place)
        except Exception as error:
            failure = error
        with self.changed:
            task.batch.failure = task.batch.failure or failure
            task.batch.num_left -= len(task.places)
            self.claims[task.group] -= 1
            self.changed.notify_all()

    def _fill_one(self, batch: PendingBatch, encoded: Group, row: int, place: int) -> None:
        inside = int(self.index.row_in_group[row])
        data = encoded.image[inside]
        mask_data = encoded.parsing[inside] if encoded.parsing is not None else None
        try:
            if data is None:
                raise DecodeError("an image is missing")
            image = decode_image(data)
            mask = None if mask_data is None else decode_parsing(mask_data)
            if mask is not None and mask.shape != image.shape[1:]:
                raise DecodeError(
                    f"a parsing mask of {list(mask.shape)} pixels for an image of {list(image.shape[1:])}"
                )
            if not self.config.is_one_size:
                image = resize_image(image, self.config.size)
                mask = None if mask is None else resize_parsing(mask, self.config.size)
            if tuple(image.shape[1:]) != self.config.size:
                raise DecodeError(
                    f"an image of {list(image.shape[1:])} pixels, not {list(self.config.size)} as recorded"
                )
        except DecodeError as error:
            group = self.index.groups[int(self.index.group[row])]
            raise DecodeError(
                f"{self.index.keys(np.array([row]))[0]} (split {self.config.split!r}, shard {group.shard}, row group "
                f"{group.group}, row {inside}): {error}"
            ) from error
        batch.images[place] = image.permute(1, 2, 0).numpy()
        if batch.parsing is not None and mask is not None:
            batch.parsing[place] = mask.numpy()


@dataclass
class PendingBatch:
    """A batch that is being filled. images: uint8 [b, h, w, 3]. parsing: uint8 [b, h, w]. num_left: images to decode."""

    images: np.ndarray
    parsing: np.ndarray | None
    num_left: int
    failure: Exception | None = None

    @classmethod
    def empty(cls, num: int, size: tuple[int, int], parsing: bool) -> PendingBatch:
        masks = np.empty((num, *size), np.uint8) if parsing else None
        return cls(np.empty((num, *size, 3), np.uint8), masks, num)


@dataclass(eq=False)
class _DecodeTask:
    """Some images of a batch in one row group. rows: those of the batch. places: which of them."""

    batch: PendingBatch
    group: int
    rows: np.ndarray
    places: np.ndarray


@dataclass(eq=False)
class _CachedGroup:
    """A row group in memory; group and failure are None until it is read. waiting: the tasks that wait for it."""

    group: Group | None = None
    failure: Exception | None = None
    waiting: list[_DecodeTask] = field(default_factory=list)
