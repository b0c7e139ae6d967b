"""Writes a data set: samples → row groups of whole persons → shards, then the index, then the manifest."""

import contextlib
import functools
import hashlib
import io
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datasets.errors import DataError
from datasets.format.index import DICTIONARY_COLUMNS, INDEX_GROUP_ROWS, INDEX_SCHEMA
from datasets.format.manifest import INDEX, MANIFEST, SPLIT_NAME, Index, Manifest, Shard, Split, read_manifest
from datasets.format.schema import Sample
from datasets.format.shard_file import ShardWriter
from datasets.images.decode import image_size
from datasets.images.label_maps import LABEL_MAPS
from datasets.protocols.protocols import PROTOCOLS
from datasets.shards.exclusive import exclusive
from datasets.shards.grouping import payload, row_groups
from datasets.shards.unfinished import Finished, Unfinished, forget, shard_path
from datasets.storage.store import PATIENT, Store, open_store

ROW_GROUP_BYTES = 16 << 20
SHARD_BYTES = 256 << 20
SHARD_NAME = re.compile(r"\d{5,}\.parquet")


@dataclass(frozen=True)
class Resumption:
    """What an interrupted writer of the same samples finished. kept: the finished shards of each split, in order."""

    notes: Unfinished
    kept: Mapping[str, Sequence[Finished]]

    def num_rows(self, split: str) -> int:
        """The number of a split's samples that are written already."""
        return sum(one.shard.rows for one in self.kept.get(split, ()))


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
    resumption: Resumption | None = None,
) -> Manifest:
    """Writes samples to a new data set at `address`; the manifest comes last, so an interrupted writer leaves none.

    splits: the samples of each split, clustered by person, then outfit, then sequence (sort by `grouping.cluster_key`).
    Memory holds one row group and the labels. progress: called with the number of samples written.
    resumption: resumes after finished shards, and notes each shard that is finished. `splits` then has the samples after
    them; the data set is the same, byte for byte, as if it had been written at once.

    Raises: DataError when there is a data set already (unless `overwrite`), another process is writing there, a split is
    empty or misnamed, a label is missing or samples are not clustered; StoreError.
    """
    _check_names(splits, label_map, protocol)
    with exclusive(open_store(address).address):
        clear(open_store(address), splits, overwrite, resumption)
        store = open_store(address, retry=PATIENT)
        index = IndexWriter()
        written: dict[str, Split] = {}

        def num_before(split: str) -> int:
            return sum(done.rows for done in written.values()) + (resumption.num_rows(split) if resumption else 0)

        for split, samples in splits.items():
            writing = _SplitWriter(store, split, index, resumption, row_group_bytes, shard_bytes)
            written[split] = writing.write(_counted(samples, num_before(split), progress))
            if not written[split].shards:
                raise DataError(f"split {split!r} of {name} has no samples; leave it out or check the source")
            index.flush()
        data = index.close()
        store.write(INDEX, data)
        entry = Index(sum(split.rows for split in written.values()), len(data), hashlib.sha256(data).hexdigest())
        plain_captions = None if captions is None else dict(captions)
        manifest = Manifest(
            name, version, licence, label_map, protocol, written, entry, plain_captions, dict(extra or {})
        )
        store.write(MANIFEST, manifest.to_json())
        if resumption is not None:
            forget(store)
        return manifest


def _check_names(splits: Mapping[str, Iterable[Sample]], label_map: str | None, protocol: str) -> None:
    if not splits:
        raise DataError("a data set needs at least one split")
    for split in splits:
        if not SPLIT_NAME.fullmatch(split):
            raise DataError(
                f"{split!r} is no name for a split; expected lower-case letters, digits and _, as in val_query"
            )
    if label_map is not None and label_map not in LABEL_MAPS:
        raise DataError(f"there is no label map {label_map!r}; there are {', '.join(LABEL_MAPS)}")
    if protocol not in PROTOCOLS:
        raise DataError(f"there is no protocol {protocol!r}; there are {', '.join(PROTOCOLS)}")


def clear(store: Store, splits: Iterable[str], overwrite: bool, resumption: Resumption | None = None) -> None:
    """Removes a previous data set, its manifest first: a half-replaced one never looks finished.

    Only shards of these splits and of the previous data set are removed, except those that are resumed; other files at
    the address stay. Raises: DataError when there is a finished data set (unless `overwrite`); StoreError.
    """
    folders = set(splits)
    if store.exists(MANIFEST):
        if not overwrite:
            raise DataError(
                f"{store.address} holds a finished data set; choose another address, or replace it with --overwrite"
            )
        with contextlib.suppress(DataError):
            folders |= set(read_manifest(store.read(MANIFEST), store.join(MANIFEST)).splits)
        store.delete(MANIFEST)
    store.delete(INDEX)
    kept = {one.shard.path for shards in resumption.kept.values() for one in shards} if resumption else set()
    if resumption is None:
        forget(store)
    for file in (INDEX, MANIFEST):
        store.clean_temp(file)
    for folder in sorted(folders):
        store.clean_temp(folder)
        for path in store.list(folder):
            if SHARD_NAME.fullmatch(path.removeprefix(f"{folder}/")) and path not in kept:
                store.delete(path)


@dataclass
class _Counts:
    """Counts rows, masks and distinct labels. sizes: the distinct (height, width) of images, two at most."""

    rows: int = 0
    masks: int = 0
    persons: set[str] = field(default_factory=set)
    clothes: set[tuple[str, str]] = field(default_factory=set)
    cameras: set[str] = field(default_factory=set)
    sequences: set[str] = field(default_factory=set)
    sizes: set[tuple[int, int] | None] = field(default_factory=set)

    def add(self, samples: Iterable[Sample]) -> None:
        for sample in samples:
            self.masks += sample.parsing is not None
            if len(self.sizes) < 2:
                self.sizes.add(image_size(sample.image))

    def add_rows(self, rows: pa.Table) -> None:
        """Adds the labels of a shard, from its rows of the index."""
        self.rows += len(rows)
        self.persons.update(pc.unique(rows["person"]).to_pylist())
        pairs = rows.select(["person", "clothes"]).group_by(["person", "clothes"]).aggregate([]).to_pylist()
        self.clothes.update((pair["person"], pair["clothes"]) for pair in pairs if pair["clothes"] is not None)
        self.cameras.update(pc.unique(rows["camera"].drop_null()).to_pylist())
        self.sequences.update(pc.unique(rows["sequence"].drop_null()).to_pylist())

    def split(self, shards: Sequence[Shard]) -> Split:
        return Split(
            self.rows,
            len(self.persons),
            len(self.clothes),
            len(self.cameras),
            len(self.sequences),
            self.masks,
            tuple(shards),
            next(iter(self.sizes)) if len(self.sizes) == 1 else None,
        )


def _counted(samples: Iterable[Sample], before: int, progress: Callable[[int], None] | None) -> Iterator[Sample]:
    for number, sample in enumerate(samples, start=before + 1):
        yield sample
        if progress is not None:
            progress(number)


class _SplitWriter:
    """Writes row groups to shards of at most shard_bytes, but one group at least; one is filled while another is stored."""

    def __init__(
        self,
        store: Store,
        split: str,
        index: "IndexWriter",
        resumption: Resumption | None,
        row_group_bytes: int,
        shard_bytes: int,
    ) -> None:
        self.store, self.split, self.index, self.resumption = store, split, index, resumption
        self.row_group_bytes, self.shard_bytes = row_group_bytes, shard_bytes
        self.counts = _Counts()
        self.shards: list[Shard] = []

    def write(self, samples: Iterable[Sample]) -> Split:
        """The split's entry in the manifest, once its last shard is in the store."""
        groups = row_groups(samples, self.row_group_bytes, after=self._resume())
        with ThreadPoolExecutor(1) as pool:
            storing: Future[None] | None = None
            for finish in self._fill(groups):
                if storing is not None:
                    storing.result()
                storing = pool.submit(finish)
            if storing is not None:
                storing.result()
        return self.counts.split(self.shards)

    def _resume(self) -> str | None:
        """Counts the finished shards; returns the last person in them."""
        kept = self.resumption.kept.get(self.split, ()) if self.resumption else ()
        for one in kept:
            assert self.resumption is not None
            self._add(one, self.resumption.notes.rows(one))
        return kept[-1].last_person if kept else None

    def _fill(self, groups: Iterator[list[Sample]]) -> Iterator[Callable[[], None]]:
        """Fills one shard after another; yields for each the function that stores it."""
        group = next(groups, None)
        while group is not None:
            path = shard_path(self.split, len(self.shards))
            opened = self.store.create(path)
            counts = _Counts()
            writer: ShardWriter | None = None
            file = opened.__enter__()
            try:
                writer = ShardWriter(self.split, path, file)
                while group and (
                    not writer.num_rows or writer.num_bytes + sum(map(payload, group)) <= self.shard_bytes
                ):
                    writer.write(group)
                    counts.add(group)
                    last_person = group[-1].person
                    group = next(groups, None)
                shard, rows = writer.close()
            except BaseException:
                if writer is not None:
                    writer.abandon()
                opened.__exit__(*sys.exc_info())
                raise
            finished = Finished(shard, last_person, counts.masks, tuple(counts.sizes))
            self._add(finished, rows)
            yield functools.partial(self._finish, opened, finished, rows)

    def _finish(self, opened: AbstractContextManager[BinaryIO], finished: Finished, rows: pa.Table) -> None:
        opened.__exit__(None, None, None)
        if self.resumption is not None:
            self.resumption.notes.keep(finished, rows)

    def _add(self, finished: Finished, rows: pa.Table) -> None:
        self.shards.append(finished.shard)
        self.index.add(rows)
        self.counts.add_rows(rows)
        self.counts.masks += finished.masks
        self.counts.sizes |= set(finished.sizes)


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
