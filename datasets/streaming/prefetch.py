"""Batches read and decoded ahead by threads, in bounded memory.

A scheduler walks through the row groups that the batches use, in order. It has them read ahead (as far as the cache
holds them) and has the images of the next batches decoded as soon as their row group is there, into the batch's own
memory. What is held and let go follows from the order alone (`holding`), so a run reads the same bytes every time.
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
from datasets.streaming.eviction import Use, hold, uses

BATCHES_AHEAD = 4  # decoded and waiting
BATCHES_PLANNED = 256  # how far ahead of them row groups may be read
TASK_IMAGES = 16  # decoded in one piece of work: one batch keeps several threads busy


class Source(Protocol):
    """What a stream needs of a data set."""

    def index(self, split: str) -> SplitIndex: ...
    def split(self, name: str) -> Split: ...
    def read_group(self, split: str, group: int, columns: tuple[str, ...]) -> pa.Table: ...


@dataclass
class StreamStats:
    """Since the stream was opened. groups_reread: reads of a row group that was read before in the same epoch."""

    bytes_read: int = 0
    groups_read: int = 0
    groups_reread: int = 0
    wait_s: float = 0.0


@dataclass(frozen=True)
class Work:
    """What is to be read and decoded, and with how much. size: (height, width) in which every image is delivered;
    is_one_size: they are stored in it, else each is resized. threads: that decode, and as many that read."""

    dataset: Source
    split: str
    index: SplitIndex
    parsing: bool
    size: tuple[int, int]
    is_one_size: bool
    threads: int
    cache_bytes: int


class Prefetch:
    """The threads of one epoch. All its state is guarded by `changed`, except a batch's memory while it is filled.

    rows: int64 [batches, b]. first_batch: the one to begin with. held: row groups in memory already. stats: counted on.
    """

    def __init__(
        self, work: Work, rows: np.ndarray, first_batch: int, held: dict[int, Group], stats: StreamStats
    ) -> None:
        self.work, self.rows, self.index, self.stats = work, rows, work.index, stats
        self.changed = threading.Condition()
        self.is_closed = False
        self.failure: BaseException | None = None  # of the scheduler itself
        self.taken = first_batch  # batches before it are with the consumer
        self.batches: dict[int, Filling] = {}
        self.held = {group: _Held(value) for group, value in held.items()}
        self.claims: Counter[int] = Counter()  # uses of a row group that are on their way
        self.num_reading = 0
        self.was_read: set[int] = set()
        places = self.index.groups
        self.uses = hold(
            uses(self.index.group, rows, first_batch),
            [place.length for place in places],
            work.cache_bytes,
            held,
        )
        self.readers = ThreadPoolExecutor(work.threads, "redress-read")
        self.decoders = ThreadPoolExecutor(work.threads, "redress-decode")
        self.scheduler = threading.Thread(target=self._schedule, name="redress-schedule", daemon=True)
        self.scheduler.start()

    def take(self, number: int) -> tuple[Filling, float]:
        """Waits for a batch and hands it out, with the seconds that it took. Batches are taken in order."""
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
            if self.num_reading >= self.work.threads or any(self.claims[group] for group in use.drop):
                return False
            for group in use.drop:
                del self.held[group]
            self.num_reading += 1
            self.held[use.group] = _Held()
            self.readers.submit(self._read, use.group, self.held[use.group])
        self.claims[use.group] += 1
        return True

    def _read(self, number: int, held: _Held) -> None:
        work, place = self.work, self.index.groups[number]
        group: Group | None = None
        failure: Exception | None = None
        try:
            columns = ("image", "parsing") if work.parsing else ("image",)
            table = work.dataset.read_group(work.split, number, columns)
            group = Group(Encoded.of(table["image"]), Encoded.of(table["parsing"]) if work.parsing else None)
        except Exception as error:
            error.add_note(f"in split {work.split!r}, shard {place.shard}, row group {place.group}")
            failure = error
        with self.changed:
            held.group, held.failure = group, failure
            self.num_reading -= 1
            self.stats.groups_read += 1
            self.stats.groups_reread += number in self.was_read
            self.stats.bytes_read += place.length
            self.was_read.add(number)
            for piece in held.waiting:
                self._submit(piece, held)
            held.waiting.clear()
            self.changed.notify_all()

    def _decode(self, use: Use) -> None:
        """Gives the batch's images in this row group to the decoders, once it is read."""
        rows = self.rows[use.batch]
        if use.batch not in self.batches:
            self.batches[use.batch] = Filling.empty(len(rows), self.work.size, self.work.parsing)
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

    def _fill_one(self, batch: Filling, encoded: Group, row: int, place: int) -> None:
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
            if not self.work.is_one_size:
                image = resize_image(image, self.work.size)
                mask = None if mask is None else resize_parsing(mask, self.work.size)
            if tuple(image.shape[1:]) != self.work.size:
                raise DecodeError(f"an image of {list(image.shape[1:])} pixels, not {list(self.work.size)} as recorded")
        except DecodeError as error:
            group = self.index.groups[int(self.index.group[row])]
            raise DecodeError(
                f"{self.index.keys(np.array([row]))[0]} (split {self.work.split!r}, shard {group.shard}, row group "
                f"{group.group}, row {inside}): {error}"
            ) from error
        batch.images[place] = image.permute(1, 2, 0).numpy()
        if batch.parsing is not None and mask is not None:
            batch.parsing[place] = mask.numpy()


@dataclass
class Filling:
    """A batch's memory while its images come in: images uint8 [b, h, w, 3], parsing uint8 [b, h, w]."""

    images: np.ndarray
    parsing: np.ndarray | None
    num_left: int
    failure: Exception | None = None

    @classmethod
    def empty(cls, num: int, size: tuple[int, int], parsing: bool) -> Filling:
        masks = np.empty((num, *size), np.uint8) if parsing else None
        return cls(np.empty((num, *size, 3), np.uint8), masks, num)


@dataclass(eq=False)
class _Piece:
    """Places of a batch whose images lie in one row group. rows: the batch's."""

    batch: Filling
    group: int
    rows: np.ndarray
    places: np.ndarray


@dataclass(eq=False)
class _Held:
    """A row group in memory, or on its way there: then neither it nor what failed is set. waiting: to be decoded."""

    group: Group | None = None
    failure: Exception | None = None
    waiting: list[_Piece] = field(default_factory=list)
