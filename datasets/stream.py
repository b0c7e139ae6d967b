"""Batches from shards, read, verified and decoded ahead by threads, in bounded memory.

A scheduler walks through the row groups that the plan's batches use, in order. It has them read ahead (as far as the
cache holds them) and has the images of the next batches decoded as soon as their row group is there, into the batch's
own memory. What is held and let go follows from the plan alone (`holding`), so a run reads the same bytes every time.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from datasets.decode import DecodeError, decode_image, decode_parsing, resize_image, resize_parsing
from datasets.errors import DataError
from datasets.holding import Use, hold, uses
from datasets.index import SplitIndex
from datasets.manifest import Split
from datasets.plan import Plan, plan_epoch

__all__ = ["HostBatch", "Plan", "Stream", "StreamStats", "plan_epoch"]

BATCHES_AHEAD = 4  # decoded and waiting
BATCHES_PLANNED = 256  # how far ahead of them row groups may be read
TASK_IMAGES = 16  # decoded in one piece of work: one batch keeps several threads busy


class Source(Protocol):
    """What a stream needs of a data set."""

    def index(self, split: str) -> SplitIndex: ...
    def split(self, name: str) -> Split: ...
    def read_group(self, split: str, group: int, columns: tuple[str, ...]) -> pa.Table: ...


@dataclass
class HostBatch:
    """A worker's share of a global batch, b = people × images / workers rows, on the host.

    images: uint8 [b, 3, h, w], channels last in memory. parsing: uint8 [b, h, w] or None. person, clothes, camera, rows:
    int64 [b]. number: of the batch in its epoch. wait_s: seconds that the consumer waited for it.
    """

    images: Tensor
    parsing: Tensor | None
    person: Tensor
    clothes: Tensor
    camera: Tensor
    rows: Tensor
    number: int
    wait_s: float


@dataclass
class StreamStats:
    """Since the stream was opened. groups_reread: reads of a row group that was read before in the same epoch."""

    bytes_read: int = 0
    groups_read: int = 0
    groups_reread: int = 0
    wait_s: float = 0.0


class Stream:
    """Batches of a split, in the order of a plan.

    Images of a split whose images are all of one size come at that size; of others each comes resized to `size`
    (height, width), masks with them. threads: that decode; as many again read. cache_bytes: of encoded row groups held,
    at least one; they stay from epoch to epoch.

    Raises: DataError when parsing is asked of a split without masks.
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
        self.dataset, self.name, self.parsing, self.threads, self.cache_bytes = (
            dataset,
            split,
            parsing,
            max(1, threads),
            cache_bytes,
        )
        self.index = dataset.index(split) if index is None else index
        if parsing and not self.index.has_parsing:
            raise DataError(
                f"split {split!r} has no parsing mask for every image, which this method needs; add masks with "
                "`redress data parse` or convert with --parsing, or choose a method without"
            )
        stored = dataset.split(split).image_size
        self.size = size if stored is None else stored
        self.is_one_size = stored is not None
        self.stats = StreamStats()
        self._held: dict[int, Group] = {}
        self._running: weakref.WeakSet[_Epoch] = weakref.WeakSet()

    def epoch(self, plan: Plan, *, first_batch: int = 0, worker: int = 0, workers: int = 1) -> Iterator[HostBatch]:
        """This worker's share of the batches from `first_batch` on. Threads work while the iterator is in use.

        Raises, here: DataError when the lanes do not divide over the workers. From the iterator, in place of the batch
        that needed it: CorruptData or StoreError as the row group's read raised it, DecodeError naming the image.
        """
        return self._batches(plan.share(worker, workers), first_batch)

    def close(self) -> None:
        """Stops what runs and lets go of the row groups held."""
        for running in list(self._running):
            running.close()
            running.held.clear()
        self._held = {}

    def _batches(self, rows: np.ndarray, first_batch: int) -> Iterator[HostBatch]:
        running = _Epoch(self, rows, first_batch, self._held)
        self._held = {}
        self._running.add(running)
        try:
            for number in range(first_batch, len(rows)):
                yield running.take(number)
        finally:
            running.close()
            self._held = running.held_groups()


@dataclass(frozen=True)
class Group:
    """A row group's encoded files: for each column the bytes of all rows, and where each row's begin and end."""

    image: Encoded
    parsing: Encoded | None


@dataclass(frozen=True)
class Encoded:
    """Rows of a binary column. data: uint8 [n]; row i is data[ends[i] : ends[i + 1]], None where is_null."""

    data: np.ndarray
    ends: np.ndarray
    is_null: np.ndarray | None

    @classmethod
    def of(cls, column: pa.ChunkedArray) -> Encoded:
        array = column.combine_chunks()
        array = pa.concat_arrays(array.chunks) if isinstance(array, pa.ChunkedArray) else array
        _, ends, data = array.buffers()
        width = np.dtype(np.int64 if pa.types.is_large_binary(array.type) else np.int32)
        return cls(
            np.frombuffer(data or b"", np.uint8),
            np.frombuffer(ends, width)[array.offset : array.offset + len(array) + 1],
            array.is_null().to_numpy(zero_copy_only=False) if array.null_count else None,
        )

    def __getitem__(self, row: int) -> np.ndarray | None:
        if self.is_null is not None and self.is_null[row]:
            return None
        return self.data[self.ends[row] : self.ends[row + 1]]


class _Epoch:
    """The threads of one epoch. All its state is guarded by `changed`, except a batch's memory while it is filled."""

    def __init__(self, stream: Stream, rows: np.ndarray, first_batch: int, held: dict[int, Group]) -> None:
        self.stream, self.rows, self.index = stream, rows, stream.index
        self.changed = threading.Condition()
        self.is_closed = False
        self.failure: BaseException | None = None  # of the scheduler itself
        self.taken = first_batch  # batches before it are with the consumer
        self.batches: dict[int, _Filling] = {}
        self.held = {group: _Held(value) for group, value in held.items()}
        self.claims: Counter[int] = Counter()  # uses of a row group that are on their way
        self.num_reading = 0
        self.was_read: set[int] = set()
        places = self.index.groups
        self.uses = hold(
            uses(self.index.group, rows, first_batch),
            [place.length for place in places],
            stream.cache_bytes,
            held,
        )
        self.readers = ThreadPoolExecutor(stream.threads, "redress-read")
        self.decoders = ThreadPoolExecutor(stream.threads, "redress-decode")
        self.scheduler = threading.Thread(target=self._schedule, name="redress-schedule", daemon=True)
        self.scheduler.start()

    def take(self, number: int) -> HostBatch:
        """Waits for a batch and hands it out."""
        began = time.perf_counter()
        with self.changed:
            while not (self.failure or self.is_closed) and not self._is_done(number):
                self.changed.wait()
            wait_s = time.perf_counter() - began
            self.stream.stats.wait_s += wait_s
            if self.failure:
                raise self.failure
            if self.is_closed:
                raise RuntimeError("the stream was closed while its batches were in use")
            batch = self.batches.pop(number)
            if batch.failure:
                raise batch.failure
            self.taken = number + 1
            self.changed.notify_all()
        return self._labelled(batch, number, wait_s)

    def close(self) -> None:
        """Stops the threads; work under way is finished first."""
        with self.changed:
            self.is_closed = True
            self.changed.notify_all()
        if self.scheduler is not threading.current_thread():
            self.scheduler.join()
        self.readers.shutdown(wait=True, cancel_futures=True)
        self.decoders.shutdown(wait=True, cancel_futures=True)
        self.batches.clear()

    def held_groups(self) -> dict[int, Group]:
        """What the closed epoch leaves in memory."""
        return {number: held.group for number, held in self.held.items() if held.group is not None}

    def _is_done(self, number: int) -> bool:
        return number in self.batches and self.batches[number].num_left == 0

    def _labelled(self, batch: _Filling, number: int, wait_s: float) -> HostBatch:
        rows = self.rows[number]

        def labels(of: np.ndarray) -> Tensor:
            return torch.from_numpy(of[rows].astype(np.int64))

        return HostBatch(
            images=torch.from_numpy(batch.images).permute(0, 3, 1, 2),
            parsing=None if batch.parsing is None else torch.from_numpy(batch.parsing),
            person=labels(self.index.person),
            clothes=labels(self.index.clothes),
            camera=labels(self.index.camera),
            rows=torch.from_numpy(rows.astype(np.int64)),
            number=number,
            wait_s=wait_s,
        )

    # The scheduler: one thread that decides, under the lock, what is read and decoded next.

    def _schedule(self) -> None:
        try:
            coming = next(self.uses, None)
            waiting: deque[Use] = deque()  # read or being read, not yet given to the decoders
            with self.changed:
                while not self.is_closed and (coming or waiting):
                    if waiting and waiting[0].batch < self.taken + BATCHES_AHEAD:
                        self._decode(waiting.popleft())
                    elif coming and coming.batch < self.taken + BATCHES_PLANNED and self._hold(coming):
                        waiting.append(coming)
                        coming = next(self.uses, None)
                    else:
                        self.changed.wait()
        except BaseException as error:
            with self.changed:
                self.failure = error
                self.changed.notify_all()

    def _hold(self, use: Use) -> bool:
        """Claims the use's row group, reading it where needed. False when that must wait for others to finish."""
        if not use.is_held:
            if self.num_reading >= self.stream.threads or any(self.claims[group] for group in use.drop):
                return False
            for group in use.drop:
                del self.held[group]
            self.num_reading += 1
            self.held[use.group] = _Held()
            self.readers.submit(self._read, use.group, self.held[use.group])
        self.claims[use.group] += 1
        return True

    def _read(self, number: int, held: _Held) -> None:
        stream, place = self.stream, self.index.groups[number]
        group: Group | None = None
        failure: Exception | None = None
        try:
            columns = ("image", "parsing") if stream.parsing else ("image",)
            table = stream.dataset.read_group(stream.name, number, columns)
            group = Group(Encoded.of(table["image"]), Encoded.of(table["parsing"]) if stream.parsing else None)
        except Exception as error:
            error.add_note(f"in split {stream.name!r}, shard {place.shard}, row group {place.group}")
            failure = error
        with self.changed:
            held.group, held.failure = group, failure
            self.num_reading -= 1
            stream.stats.groups_read += 1
            stream.stats.groups_reread += number in self.was_read
            stream.stats.bytes_read += place.length
            self.was_read.add(number)
            for piece in held.waiting:
                self._submit(piece, held)
            held.waiting.clear()
            self.changed.notify_all()

    def _decode(self, use: Use) -> None:
        """Gives the batch's images in this row group to the decoders, once it is read."""
        rows = self.rows[use.batch]
        if use.batch not in self.batches:
            self.batches[use.batch] = _Filling.empty(len(rows), self.stream.size, self.stream.parsing)
        held = self.held[use.group]
        places = np.flatnonzero(self.index.group[rows] == use.group)
        starts = range(0, len(places), TASK_IMAGES)
        self.claims[use.group] += len(starts) - 1
        for start in starts:
            piece = _Piece(self.batches[use.batch], use.group, rows, places[start : start + TASK_IMAGES])
            if held.group is None and held.failure is None:
                held.waiting.append(piece)
            else:
                self._submit(piece, held)

    def _submit(self, piece: _Piece, held: _Held) -> None:
        if not self.is_closed:  # nobody waits for the batch then
            self.decoders.submit(self._fill, piece, held)

    def _fill(self, piece: _Piece, held: _Held) -> None:
        failure: Exception | None = held.failure
        try:
            if held.group is not None:
                for place in piece.places.tolist():
                    self._fill_one(piece.batch, held.group, int(piece.rows[place]), place)
        except Exception as error:
            failure = error
        with self.changed:
            piece.batch.failure = piece.batch.failure or failure
            piece.batch.num_left -= len(piece.places)
            self.claims[piece.group] -= 1
            self.changed.notify_all()

    def _fill_one(self, batch: _Filling, encoded: Group, row: int, place: int) -> None:
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
            if not self.stream.is_one_size:
                image = resize_image(image, self.stream.size)
                mask = None if mask is None else resize_parsing(mask, self.stream.size)
            if tuple(image.shape[1:]) != self.stream.size:
                raise DecodeError(
                    f"an image of {list(image.shape[1:])} pixels, not {list(self.stream.size)} as recorded"
                )
        except DecodeError as error:
            group = self.index.groups[int(self.index.group[row])]
            raise DecodeError(
                f"{self.index.keys(np.array([row]))[0]} (split {self.stream.name!r}, shard {group.shard}, row group "
                f"{group.group}, row {inside}): {error}"
            ) from error
        batch.images[place] = image.permute(1, 2, 0).numpy()
        if batch.parsing is not None and mask is not None:
            batch.parsing[place] = mask.numpy()


@dataclass
class _Filling:
    """A batch's memory while its images come in: images uint8 [b, h, w, 3], parsing uint8 [b, h, w]."""

    images: np.ndarray
    parsing: np.ndarray | None
    num_left: int
    failure: Exception | None = None

    @classmethod
    def empty(cls, num: int, size: tuple[int, int], parsing: bool) -> _Filling:
        masks = np.empty((num, *size), np.uint8) if parsing else None
        return cls(np.empty((num, *size, 3), np.uint8), masks, num)


@dataclass(eq=False)
class _Piece:
    """Places of a batch whose images lie in one row group. rows: the batch's."""

    batch: _Filling
    group: int
    rows: np.ndarray
    places: np.ndarray


@dataclass(eq=False)
class _Held:
    """A row group in memory, or on its way there: then neither it nor what failed is set. waiting: to be decoded."""

    group: Group | None = None
    failure: Exception | None = None
    waiting: list[_Piece] = field(default_factory=list)
