"""Reads everything a data set says it has, and says what is not so."""

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

_OF_A_GROUP = (("offset", pa.int64()), ("length", pa.int64()), ("sha256", pa.string()))
_THREADS = max(2, len(os.sched_getaffinity(0)))
Columns = Callable[[str, Sequence[str]], pa.Table]
Progress = Callable[[int, int], None]


@dataclass
class _Looked:
    """What was found in a part of a shard. masks: rows with one. sizes: (height, width) in the images' headers."""

    num_bytes: int = 0
    problems: list[str] = field(default_factory=list)
    masks: int = 0
    sizes: set[tuple[int, int] | None] = field(default_factory=set)


def problems(store: Store, manifest: Manifest, columns: Columns, progress: Progress | None = None) -> list[str]:
    """Every problem of a data set, each with file and place; none when all is as the manifest says.

    Row groups are gone through on all processors; memory holds a few of them and the labels of a split.
    columns: reads columns of a split from the index. progress: called with (bytes done, bytes in all).
    """
    found: list[str] = []
    done, total = 0, sum(shard.bytes for split in manifest.splits.values() for shard in split.shards)
    with ThreadPoolExecutor(_THREADS) as pool:
        for split in manifest.splits:
            of_split = _Looked()
            for part in _split(store, manifest, split, columns, pool):
                found += part.problems
                of_split.masks += part.masks
                of_split.sizes |= part.sizes
                done += part.num_bytes
                if progress is not None and part.num_bytes:
                    progress(done, total)
            if not found:
                found += _sums(manifest, split, of_split)
    return found + _strangers(store, manifest)


def _split(
    store: Store, manifest: Manifest, split: str, columns: Columns, pool: ThreadPoolExecutor
) -> Iterator[_Looked]:
    """What was found in the parts of a split, its rows in the index first."""
    try:
        index = columns(split, ["split", "row", *PLACE_COLUMNS, *LABEL_COLUMNS]).unify_dictionaries()
    except (CorruptData, StoreError) as error:
        yield _Looked(problems=[str(error)])
        return
    yield _Looked(problems=list(_counts(manifest, split, index)))
    places, _, footers = group_places(index)
    if problem := check_places(places, footers, manifest.splits[split].shards):
        yield _Looked(problems=[f"{INDEX}: {problem}"])
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
            yield _Looked(problems=[f"{shard.path}: {error}"])


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


def _sums(manifest: Manifest, split: str, looked: _Looked) -> Iterator[str]:
    """What only the images and masks can tell."""
    entry = manifest.splits[split]
    if looked.masks != entry.masks:
        yield f"{MANIFEST}: split {split} has {looked.masks} masks, not {entry.masks}"
    size = next(iter(looked.sizes)) if len(looked.sizes) == 1 else None
    if size != entry.image_size:
        yield f"{MANIFEST}: split {split} has images of {size or 'several sizes'}, not {entry.image_size}"


def _shard(
    store: Store,
    shard: Shard,
    groups: Sequence[tuple[GroupPlace, pa.Table]],
    footer: bytes,
    pool: ThreadPoolExecutor,
) -> Iterator[_Looked]:
    """What was found in the parts of a shard. groups: each with its rows of the index. Raises: StoreError."""
    size = store.size(shard.path)
    if size != shard.bytes:
        told = "missing" if size is None else f"{size} bytes, expected {shard.bytes}"
        yield _Looked(problems=[f"{shard.path}: {told}"])
    if size is None:
        return

    def look(group: tuple[GroupPlace, pa.Table]) -> tuple[bytes, _Looked]:
        place, index = group
        data = store.read(shard.path, place.offset, place.length)
        looked = _Looked(len(data))
        looked.problems += _group(place, data, footer, index, looked)
        return data, looked

    head = store.read(shard.path, 0, groups[0][0].offset)
    yield _Looked(len(head))
    whole = hashlib.sha256(head)
    for data, looked in ordered_map(pool, look, groups, ahead=_THREADS + 1):
        whole.update(data)  # beside the digests of the next groups
        yield looked
    last = groups[-1][0]
    tail = store.read(shard.path, last.offset + last.length)
    whole.update(tail)
    ends = _Looked(len(tail))
    if whole.hexdigest() != shard.sha256:
        ends.problems.append(f"{shard.path}: the file differs from its digest in {MANIFEST}")
    elif tail != footer[len(MAGIC) :]:
        ends.problems.append(f"{shard.path}: its footer differs from the copy in {INDEX}")
    yield ends


def _group(place: GroupPlace, data: bytes, footer: bytes, index: pa.Table, looked: _Looked) -> Iterator[str]:
    """The problems of a row group; notes its masks and sizes."""
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
        yield f"{where}: {INDEX} numbers its rows otherwise than from 0 to {place.rows - 1}"
    if any(pc.count_distinct(index[name].cast(kind)).as_py() > 1 for name, kind in _OF_A_GROUP):
        yield f"{where}: {INDEX} has several places for it"
    for name in LABEL_COLUMNS:
        if not rows[name].equals(index[name].cast(pa.string())):
            yield f"{where}: column {name} differs from {INDEX}"
    images, masks = Encoded.of(rows["image"]), Encoded.of(rows["parsing"])
    looked.masks = place.rows - rows["parsing"].null_count
    for row, (digest, key) in enumerate(zip(rows["checksum"].to_pylist(), rows["key"].to_pylist(), strict=True)):
        image = images[row]
        if checksum(image, masks[row]) != digest:
            yield f"{where}, row {row} ({key}): image and parsing differ from their checksum"
        if image is not None and len(looked.sizes) < 2:
            looked.sizes.add(image_size(image))


def _strangers(store: Store, manifest: Manifest) -> list[str]:
    known = {shard.path for split in manifest.splits.values() for shard in split.shards} | {MANIFEST, INDEX}
    others = [path for path in store.list() if path.endswith(".parquet") and path not in known]
    return [f"{path}: {MANIFEST} does not know it" for path in others]
