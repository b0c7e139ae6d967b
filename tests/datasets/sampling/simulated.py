"""A data set of any size that is not there: labels alone, and images made up when their row group is read.

An image is one pixel whose colour is its row, so that what a stream delivers can be told from what it should deliver.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pyarrow as pa

from datasets.format.index import GroupPlace, SplitIndex
from datasets.format.manifest import Split

GROUP_ROWS, GROUP_BYTES = 1000, 16 << 20  # 16 kB an image, as far as anybody can tell
FINGERPRINT = "5e" * 32
_HEAD = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4s2I5BI", 13, b"IHDR", 1, 1, 8, 2, 0, 0, 0, 0x907753DE)
_TAIL = struct.pack(">I4sI", 0, b"IEND", 0xAE426082)


def simulated_index(
    rows: int, persons: int, outfits: int = 3, group_rows: int = GROUP_ROWS, seed: int = 0
) -> SplitIndex:
    """About `rows` rows of whole persons per row group, with 1 to about 9 × the mean number of images each."""
    rng = np.random.default_rng(seed)
    weight = rng.gamma(2.0, 1.0, persons)
    counts = np.maximum(rng.poisson(weight / weight.sum() * rows), 1)
    person = np.repeat(np.arange(persons), counts)
    first = np.cumsum(counts) - counts
    in_person = np.arange(len(person)) - np.repeat(first, counts)
    clothes = outfits * person + outfits * in_person // np.repeat(counts, counts)
    group_of_person = np.unique((np.cumsum(counts) - 1) // group_rows, return_inverse=True)[1]
    group = np.repeat(group_of_person, counts)
    in_group = np.bincount(group)
    row_in_group = np.arange(len(person)) - np.repeat(np.cumsum(in_group) - in_group, in_group)
    places = tuple(GroupPlace("train/0.parquet", g, 0, GROUP_BYTES, "", n) for g, n in enumerate(in_group.tolist()))
    unknown = np.full(len(person), -1)
    return SplitIndex(
        "train", person, clothes, unknown, unknown, group, row_in_group, [], [], [], [], places, False,
        lambda split, column: pa.chunked_array([[]]),
    )  # fmt: skip


class Simulated:
    """A `Source`. read: the row groups read, in turn."""

    def __init__(self, index: SplitIndex) -> None:
        self._index = index
        self._first = np.concatenate([[0], np.cumsum([place.rows for place in index.groups])])
        self.read: list[int] = []

    def index(self, split: str) -> SplitIndex:
        return self._index

    def split(self, name: str) -> Split:
        return Split(len(self._index), 0, 0, 0, 0, 0, (), (1, 1))

    def read_group(self, split: str, group: int, columns: tuple[str, ...]) -> pa.Table:
        self.read.append(group)
        rows = range(int(self._first[group]), int(self._first[group + 1]))
        return pa.table({"image": pa.array([pixel(row) for row in rows], pa.binary())})


def pixel(row: int) -> bytes:
    """A PNG of one pixel with the colour `row` (24 bits)."""
    data = b"IDAT" + zlib.compress(b"\0" + row.to_bytes(3, "big"), 0)
    return _HEAD + struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data)) + _TAIL


def rows_of(images: np.ndarray) -> np.ndarray:
    """The rows that delivered images [b, 3, 1, 1] show: int64 [b]."""
    return images.reshape(-1, 3).astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
