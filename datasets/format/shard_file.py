"""One shard: a Parquet file written by row groups, with the digest of each, and read back by range."""

import hashlib
from collections.abc import Sequence
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from datasets.format.index import INDEX_SCHEMA, UNREADABLE, GroupPlace
from datasets.format.manifest import Shard
from datasets.format.schema import LABEL_COLUMNS, SHARD_SCHEMA, Sample, checksum

MAGIC = b"PAR1"
_ENCODED = ("image", "parsing")  # compressed already; Parquet's dictionaries and codecs would only cost time
_LABEL_BYTES = 64 << 20  # at most, of a label column in one row group, decompressed
_REPEATED = ("person", "clothes", "camera", "sequence", "frame")


class ShardWriter:
    """Writes row groups to an open file. num_rows, num_bytes: what is written so far. index_tables: its rows of the index."""

    def __init__(self, split: str, path: str, file: BinaryIO) -> None:
        self.split, self.path = split, path
        self.index_tables: list[pa.Table] = []
        self.num_rows = 0
        self._writer = _HashingWriter(file)
        self._parquet = pq.ParquetWriter(
            self._writer,
            SHARD_SCHEMA,
            compression={name: "NONE" if name in _ENCODED else "ZSTD" for name in SHARD_SCHEMA.names},
            use_dictionary=list(_REPEATED),
            write_statistics=False,  # nothing is looked up by value, and footers stay small
        )

    @property
    def num_bytes(self) -> int:
        return self._writer.position

    def write(self, samples: list[Sample]) -> None:
        """Appends one row group."""
        columns = {name: [getattr(sample, name) for sample in samples] for name in LABEL_COLUMNS}
        encoded = {name: _binary([getattr(sample, name) for sample in samples]) for name in _ENCODED}
        checksums = [checksum(sample.image, sample.parsing) for sample in samples]
        rows = pa.table(encoded | columns | {"checksum": checksums}, schema=SHARD_SCHEMA)
        offset = self._writer.begin_group()
        self._parquet.write_table(rows, row_group_size=len(samples))
        place = {
            "split": self.split,
            "shard": self.path,
            "group": len(self.index_tables),
            "offset": offset,
            "length": self._writer.position - offset,
            "sha256": self._writer.group.hexdigest(),
        }
        of_index: dict[str, Sequence[object]] = {name: [value] * len(samples) for name, value in place.items()}
        of_index |= columns | {"row": range(len(samples)), "footer": [None] * len(samples)}
        self.index_tables.append(pa.table(of_index, schema=INDEX_SCHEMA))
        self.num_rows += len(samples)

    def close(self) -> tuple[Shard, pa.Table]:
        """Ends the file. Returns its entry in the manifest and its rows of the index, with the footer in the first row."""
        self._writer.tail = bytearray()
        self._parquet.close()
        index = pa.concat_tables(self.index_tables)
        footer = pa.array([MAGIC + bytes(self._writer.tail)] + [None] * (self.num_rows - 1), pa.binary())
        index = index.set_column(index.schema.get_field_index("footer"), INDEX_SCHEMA.field("footer"), footer)
        digest = self._writer.whole.hexdigest()
        return Shard(self.path, self.num_rows, len(self.index_tables), self.num_bytes, digest), index

    def abandon(self) -> None:
        """Ends an unfinished shard; what Parquet still writes is discarded."""
        self._writer.is_abandoned = True
        self._parquet.close()


class UnreadableRows(ValueError):  # noqa: N818
    """A row group has the right digest, but not the rows that the index describes. The message names the row group."""


def read_rows(data: bytes, place: GroupPlace, footer: bytes, columns: list[str]) -> pa.Table:
    """The rows of a row group, from its own bytes. footer: its shard's, from the index. columns: the names to read.

    Footer and pages are untrusted: nothing outside `data` is read, and the result has the index's number of rows and the
    schema's types. Raises: UnreadableRows.
    """
    where = f"row group {place.group} at offset {place.offset}"
    try:
        metadata = pq.ParquetFile(pa.BufferReader(footer)).metadata
        _check_footer(metadata, place)
        with pq.ParquetFile(_Window(data, place.offset), metadata=metadata, pre_buffer=False) as shard:
            rows = shard.read_row_group(place.group, columns=columns, use_threads=False)
        rows.validate(full=True)
    except UNREADABLE as error:
        raise UnreadableRows(f"{where} cannot be read ({error})") from error
    wanted = {name: SHARD_SCHEMA.field(name) for name in columns}
    if {field.name: field.type for field in rows.schema} != {name: field.type for name, field in wanted.items()}:
        raise UnreadableRows(f"{where} has other columns than {', '.join(columns)}: {', '.join(rows.schema.names)}")
    if len(rows) != place.rows:
        raise UnreadableRows(f"{where} has {len(rows)} rows, the index says {place.rows}")
    if empty := [name for name, field in wanted.items() if not field.nullable and rows[name].null_count]:
        raise UnreadableRows(f"{where} has rows without {' and '.join(empty)}")
    return rows


def _check_footer(metadata: pq.FileMetaData, place: GroupPlace) -> None:
    """Checks the footer before memory is allocated. Raises: OSError when it cannot be the row group's."""
    if place.group >= metadata.num_row_groups:
        raise OSError(f"the footer has {metadata.num_row_groups} row groups")
    group = metadata.row_group(place.group)
    if group.num_rows != place.rows:
        raise OSError(f"the footer says {group.num_rows} rows, the index {place.rows}")
    for number in range(group.num_columns):
        column = group.column(number)
        if column.path_in_schema in _ENCODED and column.compression != "UNCOMPRESSED":
            raise OSError(f"{column.path_in_schema} is compressed; this program never compresses it")
        if column.total_uncompressed_size > max(_LABEL_BYTES, len(SHARD_SCHEMA) * place.length):
            raise OSError(f"{column.path_in_schema} declares {column.total_uncompressed_size} bytes")


def _binary(values: list[bytes | None]) -> pa.Array:
    """A binary column, copied once; Arrow's own builder grows by doubling."""
    ends = np.cumsum([0, *(len(value or b"") for value in values)], dtype=np.int32)
    valid = None if None not in values else pa.array([value is not None for value in values]).buffers()[1]
    data = pa.py_buffer(b"".join(value or b"" for value in values))
    return pa.Array.from_buffers(pa.binary(), len(values), [valid, pa.py_buffer(ends), data])


class _HashingWriter:
    """The file that Parquet writes to: passes bytes on and hashes them, for the file and for the current row group."""

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self.position = 0
        self.whole = hashlib.sha256()
        self.group = hashlib.sha256()
        self.tail: bytearray | None = None
        self.is_abandoned = False
        self._file = file

    def begin_group(self) -> int:
        """Begins a row group; returns its offset."""
        self.group = hashlib.sha256()
        return self.position

    def write(self, data: bytes) -> int:
        view = memoryview(data)
        self.whole.update(view)
        self.group.update(view)
        if self.tail is not None:
            self.tail += view
        if not self.is_abandoned:
            self._file.write(view)
        self.position += len(view)
        return len(view)

    def tell(self) -> int:
        return self.position

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False


class _Window:
    """A file of which only [offset, offset + len(data)) can be read: the bytes whose digest was verified."""

    closed = False

    def __init__(self, data: bytes, offset: int) -> None:
        self._data, self._offset, self._position = memoryview(data), offset, 0

    def read(self, num_bytes: int = -1) -> memoryview:
        begin = self._position - self._offset
        end = len(self._data) if num_bytes is None or num_bytes < 0 else begin + num_bytes
        if begin < 0 or end > len(self._data):
            raise OSError(f"the footer refers to bytes {self._position} to {self._offset + end}, outside the row group")
        self._position += end - begin
        return self._data[begin:end]

    def seek(self, position: int, whence: int = 0) -> int:
        base = (0, self._position, self._offset + len(self._data))[whence]
        self._position = base + position
        return self._position

    def tell(self) -> int:
        return self._position

    def close(self) -> None:
        self.closed = True

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return True
