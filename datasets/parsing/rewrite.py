"""Rewrites a data set with masks: a shard from some row groups at a time, then the index, then the manifest.

A finished shard has a part, `unfinished/<split>/<number>.part`: its rows of the index and a record of its inputs. The parts
are removed once the manifest is written.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from datasets.errors import DataError
from datasets.format.index import INDEX_SCHEMA
from datasets.format.manifest import INDEX, MANIFEST, Index, Manifest, Shard
from datasets.format.schema import SHARD_SCHEMA, Sample
from datasets.format.shard_file import ShardWriter
from datasets.shards.dataset import Dataset
from datasets.shards.writer import SHARD_NAME, IndexWriter, clear
from datasets.storage.store import Store

GROUPS_PER_SHARD = 4  # some thousand images: a worker's task, and what a killed job loses
UNFINISHED = "unfinished"
_FACTS = b"redress"

Masks = Callable[[list[Sample]], Sequence[bytes]]
Record = Mapping[str, Any]


@dataclass(frozen=True)
class Piece:
    """Consecutive row groups of a split that become one shard.

    number: the shard's, in the split. groups: the row groups' numbers in the split. rows: their number of rows. source: hex
    SHA-256 over the digests of the row groups, so that only their bytes decide whether a finished shard is kept.
    """

    split: str
    number: int
    groups: tuple[int, ...]
    rows: int
    source: str

    @property
    def shard(self) -> str:
        return f"{self.split}/{self.number:05d}.parquet"

    @property
    def part(self) -> str:
        return f"{UNFINISHED}/{self.split}/{self.number:05d}.part"


def pieces(dataset: Dataset) -> list[Piece]:
    """All row groups of a data set in stored order, GROUPS_PER_SHARD to a piece; no piece has two splits."""
    found = []
    for split in dataset.splits:
        places = dataset.index(split).groups
        for number, first in enumerate(range(0, len(places), GROUPS_PER_SHARD)):
            groups = range(first, min(first + GROUPS_PER_SHARD, len(places)))
            digests = "".join(places[group].sha256 for group in groups)
            source = hashlib.sha256(digests.encode()).hexdigest()
            found.append(Piece(split, number, tuple(groups), sum(places[group].rows for group in groups), source))
    return found


def check(dataset: Dataset, store: Store, *, overwrite: bool, overwrite_masks: bool) -> None:
    """Checks that a data set can be rewritten to `store`.

    Raises: DataError when the source has masks (unless `overwrite_masks`), is the destination, or the destination has a
    finished data set (unless `overwrite`); StoreError.
    """
    if store.address == dataset.address:
        raise DataError(
            f"{dataset.address} cannot be parsed into itself; choose another address for the data set with masks"
        )
    masks = sum(split.masks for split in dataset.manifest.splits.values())
    if masks and not overwrite_masks:
        raise DataError(
            f"{dataset.address} has {masks} masks already ({dataset.manifest.label_map}); use it as it is, or replace them "
            "in the new data set with --overwrite-masks"
        )
    if store.exists(MANIFEST) and not overwrite:
        raise DataError(
            f"{store.address} holds a finished data set; choose another address, or replace it with --overwrite"
        )


def clear_destination(dataset: Dataset, store: Store) -> None:
    """Removes a finished data set from the destination; finished shards of an interrupted job stay. Raises: StoreError."""
    if store.exists(MANIFEST):
        clear(store, dataset.splits, overwrite=True)
    for place in (*dataset.splits, INDEX, MANIFEST, UNFINISHED):
        store.clean_temp(place)


def write_piece(dataset: Dataset, piece: Piece, store: Store, record: Record, masks: Masks) -> Shard:
    """Writes the shard, then its part. One row group is in memory.

    record: plain data on which the masks depend. masks: maps the samples of a row group to their masks, 8-bit PNG.
    Raises: CorruptData, StoreError, and what `masks` raises.
    """
    with store.create(piece.shard) as file:
        writer = ShardWriter(piece.split, piece.shard, file)
        try:
            for group in piece.groups:
                table = dataset.read_group(piece.split, group, SHARD_SCHEMA.names[:-1])
                samples = [Sample(**row) for row in table.to_pylist()]
                made = zip(samples, masks(samples), strict=True)
                writer.write([replace(sample, parsing=mask) for sample, mask in made])
            shard, rows = writer.close()
        except BaseException:
            writer.abandon()
            raise
    facts = {"source": piece.source, "record": record, "shard": asdict(shard)}
    part = io.BytesIO()
    pq.write_table(rows.replace_schema_metadata({_FACTS: json.dumps(facts)}), part, compression="ZSTD")
    store.write(piece.part, part.getvalue())
    return shard


def is_finished(piece: Piece, store: Store, record: Record) -> bool:
    """Whether the shard was made from these row groups with this record, and every byte is as it was written.

    Raises: StoreError.
    """
    found = read_part(piece, store)
    if found is None or (found.source, found.record) != (piece.source, record):
        return False
    shard = found.shard
    if store.size(shard.path) != shard.bytes:
        return False
    return hashlib.sha256(store.read(shard.path)).hexdigest() == shard.sha256


@dataclass(frozen=True)
class Part:
    """A finished piece. source, record: its inputs. rows: the shard's rows of the index."""

    source: str
    record: dict[str, Any]
    shard: Shard
    rows: pa.Table


def read_part(piece: Piece, store: Store) -> Part | None:
    """The part of a piece, None where there is none, or it cannot be read. Raises: StoreError."""
    if not store.exists(piece.part):
        return None
    try:
        table = pq.read_table(io.BytesIO(store.read(piece.part)))
        facts = json.loads(table.schema.metadata[_FACTS])
        rows = table.replace_schema_metadata(None).cast(INDEX_SCHEMA)
        return Part(facts["source"], facts["record"], Shard(**facts["shard"]), rows)
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError):
        return None


def finish(dataset: Dataset, store: Store, label_map: str, record: Record) -> Manifest:
    """Writes index and manifest once all pieces are finished, and removes the parts and surplus shards.

    Rows, labels, order, row groups and captions are the source's. record: as given to `write_piece`, with "sha256" of the
    model. Raises: DataError when a part is missing; StoreError.
    """
    for split in dataset.splits:
        store.clean_temp(split)  # a worker may have been killed while it wrote
    index = IndexWriter()
    shards: dict[str, list[Shard]] = {split: [] for split in dataset.splits}
    for piece in pieces(dataset):
        part = read_part(piece, store)
        if part is None:
            raise DataError(f"{store.join(piece.part)} is missing; parse again: finished shards are kept")
        if piece.number == 0:
            index.flush()  # its row groups never mix splits
        shards[piece.split].append(part.shard)
        index.add(part.rows)
    data = index.close()
    store.write(INDEX, data)
    old = dataset.manifest
    manifest = replace(
        old,
        version=f"{old.version}+parsing.{label_map}.{record['sha256'][:8]}",
        label_map=label_map,
        splits={
            split: replace(entry, masks=entry.rows, shards=tuple(shards[split])) for split, entry in old.splits.items()
        },
        index=Index(old.index.rows, len(data), hashlib.sha256(data).hexdigest()),
        extra=old.extra | {"parsing": {"from": old.fingerprint, **record}},
    )
    known = {shard.path for split in shards.values() for shard in split}
    for path in (path for split in shards for path in store.list(split)):
        if SHARD_NAME.fullmatch(path.rpartition("/")[2]) and path not in known:
            store.delete(path)  # from an interrupted job with more shards
    store.write(MANIFEST, manifest.to_json())
    store.delete_tree(UNFINISHED)
    return manifest
