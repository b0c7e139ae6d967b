"""Reads a whole data set and compares it with its manifest and index."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from datasets.errors import CorruptData
from datasets.format.index import PLACE_COLUMNS, GroupPlace, check_places, group_places
from datasets.format.manifest import INDEX, MANIFEST, Manifest, Shard
from datasets.format.row_group import Encoded
from datasets.format.schema import LABEL_COLUMNS, SHARD_SCHEMA, checksum
from datasets.format.shard_file import MAGIC, UnreadableRows, read_rows
from datasets.images.decode import image_size
from datasets.ordered_map import ordered_map
from datasets.storage.store import Store, StoreError

_GROUP_COLUMNS = (("offset", pa.int64()), ("length", pa.int64()), ("sha256", pa.string()))
_THREADS = max(2, len(os.sched_getaffinity(0)))
Columns = Callable[[str, Sequence[str]], pa.Table]
Progress = Callable[[int, int], None]


@dataclass
class _Verified:
    """The findings in a part of a shard. masks: rows with a mask. sizes: (height, width) in the images' headers."""

    num_bytes: int = 0
    problems: list[str] = field(default_factory=list)
    masks: int = 0
    sizes: set[tuple[int, int] | None] = field(default_factory=set)


def problems(store: Store, manifest: Manifest, columns: Columns, progress: Progress | None = None) -> list[str]:
    """Every problem of a data set, with its file and place.

    Row groups are verified on all processors; memory holds a few of them and the labels of a split.
    columns: reads columns of a split from the index. progress: called with the bytes done and their total.
    """
    found: list[str] = []
    done, total = 0, sum(shard.bytes for split in manifest.splits.values() for shard in split.shards)
    with ThreadPoolExecutor(_THREADS) as pool:
        for split in manifest.splits:
            in_split = _Verified()
            for part in _split(store, manifest, split, columns, pool):
                found += part.problems
                in_split.masks += part.masks
                in_split.sizes |= part.sizes
                done += part.num_bytes
                if progress is not None and part.num_bytes:
                    progress(done, total)
            if not found:
                found += _sums(manifest, split, in_split)
    return found + _unknown_shards(store, manifest)


def _split(
    store: Store, manifest: Manifest, split: str, columns: Columns, pool: ThreadPoolExecutor
) -> Iterator[_Verified]:
    """The findings in the parts of a split, its rows in the index first."""
    try:
        index = columns(split, ["split", "row", *PLACE_COLUMNS, *LABEL_COLUMNS]).unify_dictionaries()
    except (CorruptData, StoreError) as error:
        yield _Verified(problems=[str(error)])
        return
    yield _Verified(problems=list(_counts(manifest, split, index)))
    places, _, footers = group_places(index)
    if problem := check_places(places, footers, manifest.splits[split].shards):
        yield _Verified(problems=[f"{INDEX}: {problem}"])
        return
    row = 0
    rows: dict[str, list[tuple[GroupPlace, pa.Table]]] = {}
    for place in places:
        rows.setdefault(place.shard, []).append((place, index.slice(row, place.rows)))
        row += place.rows
    for shard in manifest.splits[split].shards:
        try:
            yield from _shard(store, shard, rows[shard.path], footers[shard.path], pool)
        except StoreError as error:
            yield _Verified(problems=[f"{shard.path}: {error}"])


def _counts(manifest: Manifest, split: str, index: pa.Table) -> Iterator[str]:
    entry = manifest.splits[split]
    pairs = index.filter(pc.is_valid(index["clothes"])).select(["person", "clothes"]).group_by(["person", "clothes"])
    counted = {
        "rows": len(index),
        "persons": pc.count_distinct(index["person"].cast(pa.string())).as_py(),
        "clothes": len(pairs.aggregate([])),
        "cameras": pc.count_distinct(index["camera"].cast(pa.string())).as_py(),
        "sequences": pc.count_distinct(index["sequence"].cast(pa.string())).as_py(),
    }
    for name, value in counted.items():
        if value != getattr(entry, name):
            yield f"{INDEX}: split {split} has {value} {name}, {MANIFEST} says {getattr(entry, name)}"
    if others := set(pc.unique(index["split"].cast(pa.string())).to_pylist()) - {split}:
        yield f"{INDEX}: split {split} has rows of {', '.join(sorted(others))}"
    keys = pc.value_counts(index["key"])
    for twice in keys.filter(pc.greater(keys.field("counts"), 1)).field("values").to_pylist():
        yield f"{INDEX}: split {split} has key {twice} more than once"


def _sums(manifest: Manifest, split: str, verified: _Verified) -> Iterator[str]:
    """Problems of counts that only images and masks reveal."""
    entry = manifest.splits[split]
    if verified.masks != entry.masks:
        yield f"{MANIFEST}: split {split} has {verified.masks} masks, not {entry.masks}"
    size = next(iter(verified.sizes)) if len(verified.sizes) == 1 else None
    if size != entry.image_size:
        yield f"{MANIFEST}: split {split} has images of {size or 'several sizes'}, not {entry.image_size}"


def _shard(
    store: Store,
    shard: Shard,
    groups: Sequence[tuple[GroupPlace, pa.Table]],
    footer: bytes,
    pool: ThreadPoolExecutor,
) -> Iterator[_Verified]:
    """The findings in the parts of a shard. groups: each with its rows of the index. Raises: StoreError."""
    size = store.size(shard.path)
    if size != shard.bytes:
        found = "missing" if size is None else f"{size} bytes, expected {shard.bytes}"
        yield _Verified(problems=[f"{shard.path}: {found}"])
    if size is None:
        return

    def verify(group: tuple[GroupPlace, pa.Table]) -> tuple[bytes, _Verified]:
        place, index = group
        data = store.read(shard.path, place.offset, place.length)
        verified = _Verified(len(data))
        verified.problems += _group(place, data, footer, index, verified)
        return data, verified

    head = store.read(shard.path, 0, groups[0][0].offset)
    yield _Verified(len(head))
    whole = hashlib.sha256(head)
    for data, verified in ordered_map(pool, verify, groups, ahead=_THREADS + 1):
        whole.update(data)  # while the pool computes the digests of the next groups
        yield verified
    last = groups[-1][0]
    tail = store.read(shard.path, last.offset + last.length)
    whole.update(tail)
    ends = _Verified(len(tail))
    if whole.hexdigest() != shard.sha256:
        ends.problems.append(f"{shard.path}: the file differs from its digest in {MANIFEST}")
    elif tail != footer[len(MAGIC) :]:
        ends.problems.append(f"{shard.path}: its footer differs from the copy in {INDEX}")
    yield ends


def _group(place: GroupPlace, data: bytes, footer: bytes, index: pa.Table, verified: _Verified) -> Iterator[str]:
    """The problems of a row group; adds its masks and sizes to `verified`."""
    where = f"{place.shard}: row group {place.group} at offset {place.offset}"
    if hashlib.sha256(data).hexdigest() != place.sha256:
        yield f"{where}: {len(data)} bytes that differ from their digest, expected {place.length}"
        return
    try:
        rows = read_rows(data, place, footer, SHARD_SCHEMA.names)
    except UnreadableRows as error:
        yield f"{place.shard}: {error}"
        return
    if index["row"].to_pylist() != list(range(place.rows)):
        yield f"{where}: {INDEX} does not number its rows from 0 to {place.rows - 1}"
    if any(pc.count_distinct(index[name].cast(kind)).as_py() > 1 for name, kind in _GROUP_COLUMNS):
        yield f"{where}: {INDEX} has several places for it"
    for name in LABEL_COLUMNS:
        if not rows[name].equals(index[name].cast(pa.string())):
            yield f"{where}: column {name} differs from {INDEX}"
    images, masks = Encoded.of(rows["image"]), Encoded.of(rows["parsing"])
    verified.masks = place.rows - rows["parsing"].null_count
    for row, (digest, key) in enumerate(zip(rows["checksum"].to_pylist(), rows["key"].to_pylist(), strict=True)):
        image = images[row]
        if checksum(image, masks[row]) != digest:
            yield f"{where}, row {row} ({key}): image and parsing differ from their checksum"
        if image is not None and len(verified.sizes) < 2:
            verified.sizes.add(image_size(image))


def _unknown_shards(store: Store, manifest: Manifest) -> list[str]:
    known = {shard.path for split in manifest.splits.values() for shard in split.shards} | {MANIFEST, INDEX}
    others = [path for path in store.list() if path.endswith(".parquet") and path not in known]
    return [f"{path}: not in {MANIFEST}" for path in others]
