"""index.parquet: every row's labels and place, every row group's digest, and each shard's Parquet footer.

With it no footer is read during training, and ten million rows are opened by column, without a loop over rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datasets.format.manifest import MANIFEST, Manifest, Shard

# `footer` is set in the first row of each shard, else null: the shard's Parquet metadata, from "PAR1" to "PAR1".
INDEX_SCHEMA = pa.schema(
    [
        ("split", pa.string()),
        ("shard", pa.string()),
        ("group", pa.int32()),
        ("row", pa.int32()),
        ("offset", pa.int64()),
        ("length", pa.int64()),
        ("sha256", pa.string()),
        ("person", pa.string()),
        ("clothes", pa.string()),
        ("camera", pa.string()),
        ("sequence", pa.string()),
        ("frame", pa.string()),
        ("key", pa.string()),
        ("footer", pa.binary()),
    ]
)
INDEX_GROUP_ROWS = 1 << 17
DICTIONARY_COLUMNS = ("split", "shard", "sha256", "person", "clothes", "camera", "sequence")
PLACE_COLUMNS = ("shard", "group", "offset", "length", "sha256", "footer")
CLASS_COLUMNS = ("person", "clothes", "camera", "sequence")
UNREADABLE = (pa.ArrowException, OSError, UnicodeDecodeError, OverflowError, MemoryError)  # what damaged Parquet raises
NEVER_NULL = ("split", "shard", "group", "row", "offset", "length", "sha256", "person", "key")


@dataclass(frozen=True, slots=True)
class GroupPlace:
    """The place of a row group.

    shard: path below the data set. group: its number in the shard. Its bytes are [offset, offset + length). sha256: hex, of
    these bytes. rows: their number.
    """

    shard: str
    group: int
    offset: int
    length: int
    sha256: str
    rows: int


@dataclass(frozen=True)
class SplitIndex:
    """The labels of one split's N rows in stored order, as classes numbered by the sorted order of the strings.

    person, clothes, camera, sequence: int64 [N], -1 where null; `clothes` is the class of the pair (person, clothes).
    group, row_in_group: int64 [N]; `group` counts over the split and indexes `groups`.
    Names may be shared with other splits (Dataset.indexes), so a class may be absent from this one. has_parsing: every row
    has a mask.
    """

    split: str
    person: np.ndarray
    clothes: np.ndarray
    camera: np.ndarray
    sequence: np.ndarray
    group: np.ndarray
    row_in_group: np.ndarray
    person_names: Sequence[str]
    clothes_names: Sequence[tuple[str, str]]
    camera_names: Sequence[str]
    sequence_names: Sequence[str]
    groups: Sequence[GroupPlace]
    has_parsing: bool
    _texts: Callable[[str, str], pa.ChunkedArray] = field(repr=False, compare=False)
    _owner: np.ndarray | None = field(default=None, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.person)

    @property
    def num_persons(self) -> int:
        return len(self.person_names)

    @property
    def num_clothes(self) -> int:
        return len(self.clothes_names)

    @property
    def has_clothes(self) -> bool:
        """Whether every row has a clothes label."""
        return bool((self.clothes >= 0).all())

    def clothes_owner(self) -> np.ndarray:
        """int64 [num_clothes]: the person who wears each clothes class."""
        if self._owner is not None:
            return self._owner
        person_of = {name: number for number, name in enumerate(self.person_names)}
        return np.array([person_of[person] for person, _ in self.clothes_names], dtype=np.int64)

    def lacking(self, column: np.ndarray) -> str:
        """How many images lack a label, and the first of them, for messages. column: one of the label columns."""
        rows = np.flatnonzero(column < 0)
        example = f" (such as {self.keys(rows[:1])[0]})" if len(rows) else ""
        return f"{len(rows):,} of {len(self):,} images{example}"

    def keys(self, rows: np.ndarray | None = None) -> list[str]:
        """The keys of all rows, or of the given ones (int64)."""
        return self._text("key", rows)

    def frames(self, rows: np.ndarray | None = None) -> list[str | None]:
        """The frames of all rows, or of the given ones (int64), None where null."""
        return self._text("frame", rows)

    def _text(self, column: str, rows: np.ndarray | None) -> list:
        texts = self._texts(self.split, column)
        return (texts if rows is None else texts.take(pa.array(rows))).to_pylist()


def open_index(data: bytes, manifest: Manifest) -> pq.ParquetFile:
    """index.parquet in memory, compressed. Raises: ValueError when it is no index of the manifest's rows."""
    try:
        file = pq.ParquetFile(pa.BufferReader(data), read_dictionary=list(DICTIONARY_COLUMNS))
        found, rows = file.schema_arrow, file.metadata.num_rows
    except (*UNREADABLE, KeyError) as error:
        raise ValueError(f"cannot be read ({error})") from error
    plain = pa.schema([(field.name, _plain(field.type)) for field in found])
    if plain != INDEX_SCHEMA:
        raise ValueError(
            f"has the columns {', '.join(plain.names)}; expected {', '.join(INDEX_SCHEMA.names)} and their types"
        )
    if rows != manifest.index.rows:
        raise ValueError(f"has {rows} rows, {MANIFEST} says {manifest.index.rows}")
    return file


def read_columns(file: pq.ParquetFile, manifest: Manifest, split: str, columns: Sequence[str]) -> pa.Table:
    """Columns of a split's rows. Raises: ValueError when they cannot be read or are not the split's."""
    names = list(manifest.splits)
    before = sum(manifest.splits[name].rows for name in names[: names.index(split)])
    try:
        ends = np.cumsum([file.metadata.row_group(g).num_rows for g in range(file.metadata.num_row_groups)])
        rows = manifest.splits[split].rows
        groups = np.flatnonzero((ends > before) & (ends <= before + rows))
        table = file.read_row_groups(groups.tolist(), columns=list(columns), use_threads=False)
        table.validate(full=True)
    except UNREADABLE as error:
        raise ValueError(f"cannot be read ({error})") from error
    if len(table) != rows:
        raise ValueError(f"has {len(table)} rows of split {split}, {MANIFEST} says {rows}")
    for name in columns:
        if name in NEVER_NULL and table[name].null_count:
            raise ValueError(f"has no {name} for {table[name].null_count} rows of split {split}")
    return table


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def group_places(table: pa.Table) -> tuple[tuple[GroupPlace, ...], np.ndarray, dict[str, bytes]]:
    """Row groups of a split in stored order, each row's group (int64 [N]), and the footer of each shard.

    table: PLACE_COLUMNS of the split, in stored order.
    """
    shard = _codes(table["shard"])[0]
    number = table["group"].to_numpy()
    begins = np.ones(len(table), dtype=np.bool_)
    begins[1:] = (shard[1:] != shard[:-1]) | (number[1:] != number[:-1])
    firsts = np.flatnonzero(begins)
    rows = np.diff(firsts, append=len(table))
    heads = table.select(PLACE_COLUMNS).take(pa.array(firsts))
    columns = [heads[name].to_pylist() for name in ("shard", "group", "offset", "length", "sha256")]
    places = tuple(GroupPlace(*place) for place in zip(*columns, rows.tolist(), strict=True))
    footers = {s: f for s, f in zip(columns[0], heads["footer"].to_pylist(), strict=True) if f is not None}
    return places, np.cumsum(begins, dtype=np.int64) - 1, footers


def check_places(places: Sequence[GroupPlace], footers: Mapping[str, bytes], shards: Sequence[Shard]) -> str | None:
    """The first contradiction between the places of an index and the manifest's shards; None when there is none."""
    inside: dict[str, list[GroupPlace]] = {}
    for place in places:
        inside.setdefault(place.shard, []).append(place)
    for shard in shards:
        groups = inside.pop(shard.path, [])
        if [place.group for place in groups] != list(range(shard.groups)):
            return f"{shard.path} has row groups other than 0 to {shard.groups - 1}"
        if sum(place.rows for place in groups) != shard.rows:
            return f"{shard.path} has {sum(place.rows for place in groups)} rows, {MANIFEST} says {shard.rows}"
        if shard.path not in footers:
            return f"{shard.path} has no footer"
        end = 0
        for place in groups:
            if not 0 < place.length <= shard.bytes or not end <= place.offset <= shard.bytes - place.length:
                return f"row group {place.group} of {shard.path}, {place.length} bytes at {place.offset}, is outside the shard"
            end = place.offset + place.length
    return f"it has {next(iter(inside))}, which is not in {MANIFEST}" if inside else None


@dataclass(frozen=True)
class Classes:
    """The class of each row (int64, -1 where null), one array per table, and the sorted names."""

    codes: list[np.ndarray]
    names: list


def number_classes(columns: Sequence[pa.ChunkedArray]) -> Classes:
    """The classes of a string column, numbered over several tables in the sorted order of the strings."""
    codes, names = _codes(pa.chunked_array([chunk for column in columns for chunk in column.chunks]))
    order = pc.sort_indices(names).to_numpy()
    rank = np.empty(len(order) + 1, dtype=np.int64)
    rank[order] = np.arange(len(order))
    rank[-1] = -1
    ends = np.cumsum([len(column) for column in columns])[:-1]
    return Classes(np.split(rank[codes], ends), names.take(pa.array(order)).to_pylist())


def number_pairs(person: Classes, clothes: Classes) -> Classes:
    """The classes of the pairs (person, clothes) that occur, in the sorted order of the pairs; -1 where null."""
    width = max(1, len(clothes.names))
    pairs = [np.where(c < 0, -1, p * width + c) for p, c in zip(person.codes, clothes.codes, strict=True)]
    present = np.unique(np.concatenate(pairs))
    present = present[present >= 0]
    codes = [np.where(pair < 0, -1, np.searchsorted(present, pair)) for pair in pairs]
    who, what = np.divmod(present, width)
    return Classes(
        codes, [(person.names[p], clothes.names[c]) for p, c in zip(who.tolist(), what.tolist(), strict=True)]
    )


def _codes(column: pa.ChunkedArray) -> tuple[np.ndarray, pa.Array]:
    """int64 codes (-1 where null) and the distinct values, in order of appearance."""
    if not pa.types.is_dictionary(column.type):
        column = pc.dictionary_encode(column)
    column = column.unify_dictionaries()
    if column.num_chunks == 0:
        return np.empty(0, dtype=np.int64), pa.array([], pa.string())
    indices = pa.chunked_array([chunk.indices for chunk in column.chunks])
    return pc.fill_null(indices, -1).to_numpy().astype(np.int64), column.chunk(0).dictionary
