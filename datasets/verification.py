"""Reads everything a data set says it has, and says what is not so."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc

from datasets.ahead import in_order
from datasets.encoded import Encoded
from datasets.errors import CorruptData
from datasets.index import PLACE_COLUMNS, GroupPlace, group_places
from datasets.manifest import INDEX, MANIFEST, Manifest, Shard
from datasets.schema import LABEL_COLUMNS, SHARD_SCHEMA, checksum
from datasets.shard_file import read_rows
from datasets.store import Store, StoreError

_THREADS = max(2, len(os.sched_getaffinity(0)))
Columns = Callable[[str, Sequence[str]], pa.Table]


def problems(
    store: Store, manifest: Manifest, columns: Columns, progress: Callable[[int, int], None] | None = None
) -> list[str]:
    """Every problem of a data set, each with file and place; none when all is as the manifest says.

    Row groups are gone through on all processors; memory holds a few of them and the labels of a split.
    columns: reads columns of a split from the index. progress: called with (bytes done, bytes in all).
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        return _problems(store, manifest, columns, progress, pool) + _strangers(store, manifest)


def _problems(
    store: Store,
    manifest: Manifest,
    columns: Columns,
    progress: Callable[[int, int], None] | None,
    pool: ThreadPoolExecutor,
) -> list[str]:
    found: list[str] = []
    total = sum(shard.bytes for split in manifest.splits.values() for shard in split.shards)
    done = 0
    for split in manifest.splits:
        try:
            index = columns(split, [*PLACE_COLUMNS, *LABEL_COLUMNS]).unify_dictionaries()
        except (CorruptData, StoreError, pa.ArrowException) as error:
            return [f"{INDEX}: {error}"]
        found += _counts(manifest, split, index)
        places, _, footers = group_places(index)
        firsts = dict(zip(places, _begins(places), strict=True))
        inside: dict[str, list[GroupPlace]] = {}
        for place in places:
            inside.setdefault(place.shard, []).append(place)
        for shard in manifest.splits[split].shards:
            where = inside.get(shard.path, []), footers.get(shard.path)
            for told in _shard(store, shard, *where, index, firsts, pool):
                if isinstance(told, str):
                    found.append(told)
                    continue
                done += told
                if progress is not None:
                    progress(done, total)
    return found


def _begins(places: Sequence[GroupPlace]) -> Iterator[int]:
    row = 0
    for place in places:
        yield row
        row += place.rows


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
    keys = pc.value_counts(index["key"])
    for twice in keys.filter(pc.greater(keys.field("counts"), 1)).field("values").to_pylist():
        yield f"{INDEX}: split {split} has key {twice} more than once"


def _shard(
    store: Store,
    shard: Shard,
    places: list[GroupPlace],
    footer: bytes | None,
    index: pa.Table,
    firsts: dict[GroupPlace, int],
    pool: ThreadPoolExecutor,
) -> Iterator[str | int]:
    """The problems of one shard, and each time some of it was gone through, how many bytes."""
    if len(places) != shard.groups or sum(place.rows for place in places) != shard.rows:
        yield f"{INDEX}: {shard.path} has {len(places)} row groups there, {shard.groups} in {MANIFEST}"
    try:
        size = store.size(shard.path)
        if size != shard.bytes:
            yield f"{shard.path}: " + ("missing" if size is None else f"{size} bytes, expected {shard.bytes}")
        if size is None or footer is None or not places:
            return

        def group(place: GroupPlace) -> tuple[bytes, list[str]]:
            data = store.read(shard.path, place.offset, place.length)
            return data, list(_group(place, data, footer, index.slice(firsts[place], place.rows)))

        head = store.read(shard.path, 0, places[0].offset)
        whole = hashlib.sha256(head)
        yield len(head)
        for data, found in in_order(pool, group, places, ahead=_THREADS + 1):
            whole.update(data)  # beside the digests of the next groups
            yield from found
            yield len(data)
        footer_at = places[-1].offset + places[-1].length
        whole.update(store.read(shard.path, footer_at))
        yield shard.bytes - footer_at
        if whole.hexdigest() != shard.sha256:
            yield f"{shard.path}: the file differs from its digest in {MANIFEST}"
    except StoreError as error:
        yield f"{shard.path}: {error}"


def _group(place: GroupPlace, data: bytes, footer: bytes, index: pa.Table) -> Iterator[str]:
    where = f"{place.shard}: row group {place.group} at offset {place.offset}"
    if hashlib.sha256(data).hexdigest() != place.sha256:
        yield f"{where}: {len(data)} bytes that differ from their digest, expected {place.length}"
        return
    try:
        rows = read_rows(data, place.offset, footer, place.group, SHARD_SCHEMA.names)
    except (pa.ArrowException, OSError) as error:
        yield f"{where}: cannot be read ({error})"
        return
    if len(rows) != place.rows:
        yield f"{where}: {len(rows)} rows, {INDEX} says {place.rows}"
        return
    for name in LABEL_COLUMNS:
        if not rows[name].equals(index[name].cast(pa.string())):
            yield f"{where}: column {name} differs from {INDEX}"
    images, masks = Encoded.of(rows["image"]), Encoded.of(rows["parsing"])
    for row, (digest, key) in enumerate(zip(rows["checksum"].to_pylist(), rows["key"].to_pylist(), strict=True)):
        if checksum(images[row], masks[row]) != digest:
            yield f"{where}, row {row} ({key}): image and parsing differ from their checksum"


def _strangers(store: Store, manifest: Manifest) -> list[str]:
    known = {shard.path for split in manifest.splits.values() for shard in split.shards} | {MANIFEST, INDEX}
    others = [path for path in store.list() if path.endswith(".parquet") and path not in known]
    return [f"{path}: {MANIFEST} does not know it" for path in others]
