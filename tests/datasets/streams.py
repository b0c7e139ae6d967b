"""Streams over small data sets: their plans, their batches compared, and a data set that watches what is read of it."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from datasets.format.index import SplitIndex
from datasets.format.manifest import Split
from datasets.format.schema import Sample
from datasets.sampling.clips import cut_pieces
from datasets.sampling.plan import Plan, plan_epoch
from datasets.shards.dataset import Dataset, write_dataset
from datasets.storage.store import StoreError
from datasets.streaming.stream import HostBatch, Source, Stream
from tests.tiny import draw_crop, jpeg, png

SIZE = (32, 16)


def plan(dataset: Dataset, **changes: object) -> Plan:
    """clip: (length, stride). appearances is 1 where the sampler needs it."""
    arguments: dict = {
        "sampler": "distinct",
        "people": 8,
        "images": 3,
        "window": "all",
        "lanes": 4,
        "seed": 1,
        "epoch": 0,
    }
    arguments |= changes
    clip = arguments.pop("clip", None)
    arguments["pieces"] = None if clip is None else cut_pieces(dataset.index("train"), *clip)
    arguments["appearances"] = 1 if arguments["sampler"] == "appearance" else None
    return plan_epoch(dataset.index("train"), dataset.fingerprint, **arguments)


def stream(dataset: Source, **changes: object) -> Stream:
    arguments: dict = {"parsing": True, "size": SIZE, "threads": 2, "cache_bytes": 1 << 30}
    return Stream(dataset, "train", **arguments | changes)


def same(ours: list[HostBatch], theirs: list[HostBatch]) -> None:
    assert [batch.number for batch in ours] == [batch.number for batch in theirs]
    for one, other in zip(ours, theirs, strict=True):
        for name in ("images", "parsing", "person", "clothes", "camera", "rows"):
            assert torch.equal(getattr(one, name), getattr(other, name)), (one.number, name)


def threads_of_streams() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("redress-")]


def mixed(sizes: list[tuple[int, int]]) -> Iterator[Sample]:
    for person in range(8):
        for number in range(4):
            rng = np.random.default_rng((person, number))
            image, mask = draw_crop(rng, person, 0, sizes[(person + number) % len(sizes)])
            yield Sample(jpeg(image), png(mask), f"{person}", "0", "A", None, str(number), f"{person}/{number}.jpg")


def write(path: Path, samples: Iterator[Sample], parsing: bool = True) -> Dataset:
    write_dataset(
        str(path), {"train": samples}, name="mixed", version="1", licence="drawn", label_map="lip20" if parsing else None,
        protocol="general", row_group_bytes=10_000,
    )  # fmt: skip
    return Dataset.open(str(path))


class Watched:
    """A data set that counts what is read of it and how much of that is still in memory; slow or broken if asked."""

    def __init__(self, dataset: Dataset, delay_s: float = 0.0, fail_at: int | None = None) -> None:
        self.dataset, self.delay_s, self.fail_at = dataset, delay_s, fail_at
        self.read: list[int] = []
        self.alive = self.most_alive = self.largest = 0
        self._lock = threading.Lock()

    def index(self, split: str) -> SplitIndex:
        return self.dataset.index(split)

    def split(self, name: str) -> Split:
        return self.dataset.split(name)

    def read_group(self, split: str, group: int, columns: tuple[str, ...]) -> pa.Table:
        if self.fail_at is not None and len(self.read) >= self.fail_at:
            raise StoreError("the store is out of reach")
        with self._lock:
            self.read.append(group)
        time.sleep(self.delay_s)
        table = self.dataset.read_group(split, group, columns)
        return pa.table({name: self._watched(table[name].combine_chunks()) for name in columns})

    def _watched(self, column: pa.Array) -> pa.Array:
        _, ends, data = column.buffers()
        copy = np.frombuffer(data, np.uint8).copy()
        with self._lock:
            self.alive += len(copy)
            self.most_alive, self.largest = max(self.most_alive, self.alive), max(self.largest, len(copy))
        weakref.finalize(copy, self._gone, len(copy))
        return pa.Array.from_buffers(column.type, len(column), [None, ends, pa.py_buffer(copy)])

    def _gone(self, num_bytes: int) -> None:
        with self._lock:
            self.alive -= num_bytes
