"""A data set opened for reading: checked when it is opened, labels as arrays, row groups verified on every read."""

import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from datasets.errors import CorruptData, DataError
from datasets.format import index_arrays
from datasets.format.index import (
    CLASS_COLUMNS,
    PLACE_COLUMNS,
    GroupPlace,
    SplitIndex,
    check_places,
    group_places,
    number_classes,
    number_pairs,
    open_index,
    read_columns,
)
from datasets.format.manifest import INDEX, MANIFEST, Manifest, Split, read_manifest
from datasets.format.schema import SHARD_SCHEMA, Sample
from datasets.format.shard_file import UnreadableRows, read_rows
from datasets.shards.verification import problems
from datasets.shards.writer import write_dataset
from datasets.storage.disk_cache import DiskCache
from datasets.storage.retry import Retry
from datasets.storage.shared_arrays import SharedArrays
from datasets.storage.store import PATIENT, Store, open_store

__all__ = ["CorruptData", "DataError", "Dataset", "GroupPlace", "Manifest", "SplitIndex", "write_dataset"]

# Of a split: its row groups in stored order, each row's group (int64 [N]), the footer of each shard.
Places = tuple[Sequence[GroupPlace], np.ndarray, Mapping[str, bytes]]


class Dataset:
    """A finished data set. Safe to read from several threads.

    Its pickle is small: address and manifest. The index is read and checked again where it is needed.
    shared: where processes of this node share the indexes; None where each process has its own.
    """

    def __init__(
        self,
        store: Store,
        manifest: Manifest,
        disk_cache: DiskCache | None = None,
        shared: SharedArrays | None = None,
    ) -> None:
        self.store = store
        self.manifest = manifest
        self.disk_cache = disk_cache
        self.shared = shared
        self._lock = threading.Lock()
        self._index_file: pq.ParquetFile | None = None
        self._places: dict[str, Places] = {}
        self._mapped: dict[tuple[str, ...], tuple[SplitIndex, ...]] = {}

    @classmethod
    def open(
        cls,
        address: str,
        *,
        disk_cache: DiskCache | None = None,
        shared: SharedArrays | None = None,
        share_from_rows: int = 0,
        retry: Retry = PATIENT,
    ) -> "Dataset":
        """The data set at a path or object-store address.

        disk_cache: this node's cache for row groups of a remote store. shared: where processes of this node share the
        indexes of a data set of at least `share_from_rows` rows. retry: for reads after it is opened.
        Checks the manifest, the size of every shard and the digest of the index; of a shared index where it is made.
        Raises: DataError when one of them is missing, unfinished, of the wrong size or altered; StoreError when the store
        cannot be reached.
        """
        store = open_store(address)  # few retries: a mistyped endpoint should not take minutes
        if not store.exists(MANIFEST):
            raise DataError(_no_manifest(store))
        manifest = store.read_as(MANIFEST, lambda data: read_manifest(data, store.join(MANIFEST)))
        is_large = manifest.index.rows >= share_from_rows
        dataset = cls(store, manifest, disk_cache, shared if is_large else None)
        dataset._check_sizes()
        try:
            if dataset.shared is None:
                dataset._index()
        except CorruptData as error:
            raise DataError(str(error)) from error
        dataset.store = open_store(address, retry=retry)
        return dataset

    @property
    def address(self) -> str:
        return self.store.address

    @property
    def fingerprint(self) -> str:
        """Hex SHA-256 of the manifest's content, which contains the digests of everything else."""
        return self.manifest.fingerprint

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.manifest.splits)

    def index(self, split: str) -> SplitIndex:
        """The labels of one split, classes numbered within it: train's are 0 … N-1.

        Raises: DataError when there is no such split; CorruptData when the index is damaged.
        """
        return self.indexes(split)[0]

    def indexes(self, *splits: str) -> tuple[SplitIndex, ...]:
        """The labels of several splits with one numbering over all of them, as query and gallery need.

        Raises: DataError when there is no such split; CorruptData when the index is damaged.
        """
        if self.shared is None:
            return self._own_indexes(splits)
        if splits not in self._mapped:
            self._mapped[splits] = self._shared_indexes(self.shared, splits)
        return self._mapped[splits]

    def _own_indexes(self, splits: tuple[str, ...]) -> tuple[SplitIndex, ...]:
        tables = [self._columns(split, CLASS_COLUMNS) for split in splits]
        classes = {name: number_classes([table[name] for table in tables]) for name in CLASS_COLUMNS}
        pairs = number_pairs(classes["person"], classes["clothes"])
        return tuple(self._split_index(split, at, classes, pairs) for at, split in enumerate(splits))

    def _shared_indexes(self, shared: SharedArrays, splits: tuple[str, ...]) -> tuple[SplitIndex, ...]:
        """The indexes, mapped; made where no process of the node has made them. What making them needed is let go."""
        entries = {split: self.split(split) for split in splits}

        def make() -> dict[str, np.ndarray]:
            own = Dataset(self.store, self.manifest)
            indexes = own._own_indexes(splits)
            return index_arrays.to_arrays(indexes, [own._split_places(split)[2] for split in splits])

        name = f"index {index_arrays.VERSION} of {self.fingerprint}: {json.dumps(splits)}"
        arrays = shared.fetch(name, make)
        pa.default_memory_pool().release_unused()
        indexes, footers = index_arrays.from_arrays(arrays, entries, self._text)
        for index, of_shards in zip(indexes, footers, strict=True):
            self._places[index.split] = (index.groups, index.group, of_shards)
        return indexes

    def read_group(self, split: str, group: int, columns: Sequence[str] = ("image", "parsing")) -> pa.Table:
        """The columns of a row group (numbered over the split), from one range read.

        Raises: CorruptData, before anything is decoded, when the bytes differ from their digest; StoreError.
        """
        places, _, footers = self._split_places(split)
        place = places[group]
        try:
            return read_rows(self._verified(place), place, footers[place.shard], list(columns))
        except UnreadableRows as error:
            raise CorruptData(f"shard {self.store.join(place.shard)}: {error}; convert the data set again") from error

    def samples(self, split: str, rows: np.ndarray | None = None) -> Iterator[Sample]:
        """The rows of a split in stored order, with one row group in memory.

        rows: int64, ascending; None for all. Raises: CorruptData, StoreError.
        """
        places, group_of_row, _ = self._split_places(split)
        wanted = np.arange(len(group_of_row)) if rows is None else np.asarray(rows, dtype=np.int64)
        firsts = np.cumsum([0] + [place.rows for place in places])
        for group in np.unique(group_of_row[wanted]).tolist():
            table = self.read_group(split, group, SHARD_SCHEMA.names[:-1])
            inside = wanted[group_of_row[wanted] == group] - firsts[group]
            yield from (Sample(**row) for row in table.take(pa.array(inside)).to_pylist())

    def verify(self, progress: Callable[[int, int], None] | None = None) -> list[str]:
        """Reads everything and returns every problem with its file and place.

        progress: called with the bytes done and their total.
        """
        return problems(self.store, self.manifest, self._columns, progress)

    def split(self, name: str) -> Split:
        """A split's entry in the manifest. Raises: DataError listing the splits."""
        if name not in self.manifest.splits:
            raise DataError(f"{self.address} has no split {name!r}; it has {', '.join(self.splits)}")
        return self.manifest.splits[name]

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("store", "manifest", "disk_cache", "shared")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def _check_sizes(self) -> None:
        sizes = {path: size for split in self.manifest.splits for path, size in self.store.sizes(split).items()}
        for shard in (shard for split in self.manifest.splits.values() for shard in split.shards):
            found = sizes.get(shard.path)
            if found != shard.bytes:
                is_there = "is missing" if found is None else f"has {found} bytes"
                raise DataError(
                    f"shard {self.store.join(shard.path)} {is_there}, expected {shard.bytes} bytes; "
                    "copy it again from an undamaged data set, or convert the data set again"
                )

    def _index(self) -> pq.ParquetFile:
        """index.parquet in memory, compressed, its digest checked."""
        with self._lock:
            if self._index_file is None:
                data = self.store.read_as(INDEX, self._whole_index)
                try:
                    self._index_file = open_index(data, self.manifest)
                except ValueError as error:
                    raise CorruptData(f"{self.store.join(INDEX)} {error}; convert the data set again") from error
            return self._index_file

    def _whole_index(self, data: bytes) -> bytes:
        expected = self.manifest.index
        if len(data) != expected.bytes or hashlib.sha256(data).hexdigest() != expected.sha256:
            raise CorruptData(
                f"{self.store.join(INDEX)} differs from its digest in the manifest ({len(data)} bytes, "
                f"expected {expected.bytes}); copy it again from an undamaged data set, or convert again"
            )
        return data

    def _columns(self, split: str, columns: Sequence[str]) -> pa.Table:
        """Columns of a split's rows in the index."""
        self.split(split)
        file = self._index()
        try:
            with self._lock:
                return read_columns(file, self.manifest, split, columns)
        except ValueError as error:
            raise CorruptData(f"{self.store.join(INDEX)} {error}; convert the data set again") from error

    def _split_places(self, split: str) -> Places:
        if split not in self._places and self.shared is not None:
            self.index(split)
        if split not in self._places:
            found = group_places(self._columns(split, PLACE_COLUMNS))
            if problem := check_places(found[0], found[2], self.split(split).shards):
                raise CorruptData(f"{self.store.join(INDEX)} is inconsistent: {problem}; convert the data set again")
            self._places[split] = found
        return self._places[split]

    def _split_index(self, split: str, at: int, classes: dict[str, Any], pairs: Any) -> SplitIndex:
        places, group, _ = self._split_places(split)
        firsts = np.cumsum([0] + [place.rows for place in places])
        entry = self.split(split)
        return SplitIndex(
            split=split,
            person=classes["person"].codes[at],
            clothes=pairs.codes[at],
            camera=classes["camera"].codes[at],
            sequence=classes["sequence"].codes[at],
            group=group,
            row_in_group=np.arange(len(group)) - firsts[group],
            person_names=classes["person"].names,
            clothes_names=pairs.names,
            camera_names=classes["camera"].names,
            sequence_names=classes["sequence"].names,
            groups=places,
            has_parsing=entry.masks == entry.rows,
            _texts=self._text,
        )

    def _text(self, split: str, column: str) -> pa.ChunkedArray:
        return self._columns(split, [column])[column]

    def _verified(self, place: GroupPlace) -> bytes:
        def whole(data: bytes) -> bytes:
            if len(data) != place.length or hashlib.sha256(data).hexdigest() != place.sha256:
                found = f"only {len(data)} of {place.length} bytes" if len(data) != place.length else "altered bytes"
                raise CorruptData(
                    f"shard {self.store.join(place.shard)}, row group {place.group} at offset {place.offset}: {found}, "
                    f"not those of digest {place.sha256[:12]}…. None of it was used; restore the shard, then run "
                    f"`redress data verify {self.address}`"
                )
            return data

        def read() -> bytes:
            return self.store.read_as(place.shard, whole, place.offset, place.length)

        if self.disk_cache is None or self.store.is_local:
            return read()
        return self.disk_cache.fetch(place.sha256, read)


def _no_manifest(store: Store) -> str:
    """Why there is no data set: the address is empty, or something else is there, which is listed."""
    found = store.children()
    if not found:
        return f"there is no data set at {store.address}: nothing is there; check the address"
    some = ", ".join(found[:8]) + (f" and {len(found) - 8} more" if len(found) > 8 else "")
    return (
        f"{store.address} has no {MANIFEST}, which is written last: its conversion was interrupted, or the address is "
        f"wrong. Convert it again or correct the address. It contains {some}"
    )
