"""Writes a data set: samples → row groups of whole persons → shards, then the index, then the manifest."""

import contextlib
import hashlib
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from datasets.decode import image_size
from datasets.errors import DataError
from datasets.grouping import payload, row_groups
from datasets.index import DICTIONARY_COLUMNS, INDEX_GROUP_ROWS, INDEX_SCHEMA
from datasets.manifest import INDEX, MANIFEST, Index, Manifest, Shard, Split, read_manifest
from datasets.protocols import PROTOCOLS
from datasets.schema import LABEL_MAPS, Sample
from datasets.shard_file import ShardWriter
from datasets.store import Store, open_store

ROW_GROUP_BYTES = 16 << 20
SHARD_BYTES = 256 << 20
_SPLIT_NAME = re.compile(r"[a-z][a-z0-9_]*")
SHARD_NAME = re.compile(r"\d{5,}\.parquet")


def write_dataset(
    address: str,
    splits: Mapping[str, Iterable[Sample]],
    *,
    name: str,
    version: str,
    licence: str,
    label_map: str | None,
    protocol: str,
    captions: Mapping[str, Any] | None = None,
    extra: Mapping[str, Any] | None = None,
    row_group_bytes: int = ROW_GROUP_BYTES,
    shard_bytes: int = SHARD_BYTES,
    progress: Callable[[int], None] | None = None,
    overwrite: bool = False,
) -> Manifest:
    """Writes samples to a new data set at `address`; the manifest comes last, so an interrupted writing leaves none.

    splits: samples of each split, a person's in a row, within it an outfit's, within that a sequence's (sort by
    `grouping.cluster_key`). Memory holds one row group and the labels. progress: called with the samples written.

    Raises: DataError when a data set is there already (unless `overwrite`), a split is empty or misnamed, a label is
    missing or samples are not clustered; StoreError.
    """
    _check_names(splits, label_map, protocol)
    store = open_store(address)
    clear(store, splits, overwrite)
    index = IndexWriter()
    written: dict[str, Split] = {}
    for split, samples in splits.items():
        counts = _Counts(progress, sum(done.rows for done in written.values()))
        shards = tuple(_write_shards(store, split, counts.watch(samples), index, row_group_bytes, shard_bytes))
        if not shards:
            raise DataError(f"split {split!r} of {name} has no samples; leave it out or look at the source")
        index.flush()
        written[split] = counts.split(shards)
    data = index.close()
    store.write(INDEX, data)
    entry = Index(sum(split.rows for split in written.values()), len(data), hashlib.sha256(data).hexdigest())
    plain_captions = None if captions is None else dict(captions)
    manifest = Manifest(name, version, licence, label_map, protocol, written, entry, plain_captions, dict(extra or {}))
    store.write(MANIFEST, manifest.to_json())
    return manifest


def _check_names(splits: Mapping[str, Iterable[Sample]], label_map: str | None, protocol: str) -> None:
    if not splits:
        raise DataError("a data set needs at least one split")
    for split in splits:
        if not _SPLIT_NAME.fullmatch(split):
            raise DataError(f"{split!r} is no name for a split; expected small letters, digits and _, as in val_query")
    if label_map is not None and label_map not in LABEL_MAPS:
        raise DataError(f"there is no label map {label_map!r}; there are {', '.join(LABEL_MAPS)}")
    if protocol not in PROTOCOLS:
        raise DataError(f"there is no protocol {protocol!r}; there are {', '.join(PROTOCOLS)}")


def clear(store: Store, splits: Iterable[str], overwrite: bool) -> None:
    """Makes room: the manifest goes first, so that what is half replaced never looks finished.

    Only shards of these splits and of the data set that stood here are removed, whatever else lies at the address.
    """
    folders = set(splits)
    if store.exists(MANIFEST):
        if not overwrite:
            raise DataError(f"{store.address} holds a finished data set; choose another address or ask to overwrite it")
        with contextlib.suppress(DataError):
            folders |= set(read_manifest(store.read(MANIFEST), store.join(MANIFEST)).splits)
        store.delete(MANIFEST)
    store.delete(INDEX)
    for folder in sorted(folders):
        store.sweep(folder)
        for path in store.list(folder):
            if SHARD_NAME.fullmatch(path.removeprefix(f"{folder}/")):
                store.delete(path)


@dataclass
class _Counts:
    """Counts a split's distinct labels as its samples go by."""

    progress: Callable[[int], None] | None
    before: int
    rows: int = 0
    masks: int = 0
    persons: set[str] = field(default_factory=set)
    clothes: set[tuple[str, str]] = field(default_factory=set)
    cameras: set[str] = field(default_factory=set)
    sequences: set[str] = field(default_factory=set)
    sizes: set[tuple[int, int] | None] = field(default_factory=set)

    def watch(self, samples: Iterable[Sample]) -> Iterator[Sample]:
        for sample in samples:
            self.rows += 1
            self.masks += sample.parsing is not None
            if len(self.sizes) < 2:
                self.sizes.add(image_size(sample.image))
            self.persons.add(sample.person)
            if sample.clothes is not None:
                self.clothes.add((sample.person, sample.clothes))
            if sample.camera is not None:
                self.cameras.add(sample.camera)
            if sample.sequence is not None:
                self.sequences.add(sample.sequence)
            yield sample
            if self.progress is not None:
                self.progress(self.before + self.rows)

    def split(self, shards: tuple[Shard, ...]) -> Split:
        return Split(
            self.rows,
            len(self.persons),
            len(self.clothes),
            len(self.cameras),
            len(self.sequences),
            self.masks,
            shards,
            next(iter(self.sizes)) if len(self.sizes) == 1 else None,
        )


def _write_shards(
    store: Store, split: str, samples: Iterable[Sample], index: "IndexWriter", row_group_bytes: int, shard_bytes: int
) -> Iterator[Shard]:
    """Row groups into shards of at most shard_bytes (one group at least); yields each when it is in the store."""
    groups = row_groups(samples, row_group_bytes)
    group = next(groups, None)
    number = 0
    while group is not None:
        path = f"{split}/{number:05d}.parquet"
        with store.create(path) as file:
            writer = ShardWriter(split, path, file)
            try:
                while group and (not writer.num_rows or writer.num_bytes + sum(map(payload, group)) <= shard_bytes):
                    writer.write(group)
                    group = next(groups, None)
                shard, rows = writer.close()
            except BaseException:
                writer.abandon()
                raise
        index.add(rows)
        yield shard
        number += 1


class IndexWriter:
    """index.parquet in memory, compressed; its row groups never mix splits, so that a split is read alone."""

    def __init__(self) -> None:
        self._data = io.BytesIO()
        self._pending: list[pa.Table] = []
        self._parquet = pq.ParquetWriter(
            self._data,
            INDEX_SCHEMA,
            compression="ZSTD",
            use_dictionary=list(DICTIONARY_COLUMNS),
            write_statistics=False,
        )

    def add(self, rows: pa.Table) -> None:
        self._pending.append(rows)
        if sum(map(len, self._pending)) >= INDEX_GROUP_ROWS:
            self.flush()

    def flush(self) -> None:
        if self._pending:
            rows = pa.concat_tables(self._pending).combine_chunks()
            self._parquet.write_table(rows, row_group_size=INDEX_GROUP_ROWS)
            self._pending = []

    def close(self) -> bytes:
        self.flush()
        self._parquet.close()
        return self._data.getvalue()
