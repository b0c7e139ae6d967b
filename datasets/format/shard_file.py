"""One shard: a Parquet file written group by group, with the digest of every row group, and read back by range."""

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
_LABEL_BYTES = 64 << 20  # of a label column in one row group, decompressed
_REPEATED = ("person", "clothes", "camera", "sequence", "frame")


class ShardWriter:
    """Fills an open file with row groups; `rows` are the index's rows so far."""

    def __init__(self, split: str, path: str, file: BinaryIO) -> None:
        self.split, self.path = split, path
        self.index_tables: list[pa.Table] = []
        self.num_rows = 0
        self._tape = _Tape(file)
        self._parquet = pq.ParquetWriter(
            self._tape,
            SHARD_SCHEMA,
            compression={name: "NONE" if name in _ENCODED else "ZSTD" for name in SHARD_SCHEMA.names},
            use_dictionary=list(_REPEATED),
            write_statistics=False,  # nothing is looked up by value, and footers stay small
        )

    @property
    def num_bytes(self) -> int:
        return self._tape.position

    def write(self, samples: list[Sample]) -> None:
        """Appends one row group."""
        columns = {name: [getattr(sample, name) for sample in samples] for name in LABEL_COLUMNS}
        encoded = {name: _binary([getattr(sample, name) for sample in samples]) for name in _ENCODED}
        checksums = [checksum(sample.image, sample.parsing) for sample in samples]
        rows = pa.table(encoded | columns | {"checksum": checksums}, schema=SHARD_SCHEMA)
        offset = self._tape.begin()
        self._parquet.write_table(rows, row_group_size=len(samples))
        place = {
            "split": self.split,
            "shard": self.path,
            "group": len(self.index_tables),
            "offset": offset,
            "length": self._tape.position - offset,
            "sha256": self._tape.group.hexdigest(),
        }
        of_index: dict[str, Sequence[object]] = {name: [value] * len(samples) for name, value in place.items()}
        of_index |= columns | {"row": range(len(samples)), "footer": [None] * len(samples)}
        self.index_tables.append(pa.table(of_index, schema=INDEX_SCHEMA))
        self.num_rows += len(samples)

    def close(self) -> tuple[Shard, pa.Table]:
        """Ends the file: its entry in the manifest and its rows of the index, the footer on the first."""
        self._tape.keep = bytearray()
        self._parquet.close()
        index = pa.concat_tables(self.index_tables)
        footer = pa.array([MAGIC + bytes(self._tape.keep)] + [None] * (self.num_rows - 1), pa.binary())
        index = index.set_column(index.schema.get_field_index("footer"), INDEX_SCHEMA.field("footer"), footer)
        digest = self._tape.whole.hexdigest()
        return Shard(self.path, self.num_rows, len(self.index_tables), self.num_bytes, digest), index

    def abandon(self) -> None:
        """Ends an unfinished shard: what Parquet still wants to say goes nowhere."""
        self._tape.is_cut = True
        self._parquet.close()


class UnreadableRows(ValueError):  # noqa: N818
    """A row group whose bytes have the right digest, but are not the rows that the index says. Names the row group."""


def read_rows(data: bytes, place: GroupPlace, footer: bytes, columns: list[str]) -> pa.Table:
    """The rows of a row group from its own bytes; footer: of its shard, from the index.

    Footer and pages may say anything: nothing outside `data` is read, and what comes has the index's rows and the schema.
    Raises: UnreadableRows.
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
    """Before memory is asked for. Raises: OSError when the footer cannot be the row group's."""
    if place.group >= metadata.num_row_groups:
        raise OSError(f"the footer has {metadata.num_row_groups} row groups")
    group = metadata.row_group(place.group)
    if group.num_rows != place.rows:
        raise OSError(f"the footer says {group.num_rows} rows, the index {place.rows}")
    for number in range(group.num_columns):
        column = group.column(number)
        if column.path_in_schema in _ENCODED and column.compression != "UNCOMPRESSED":
            raise OSError(f"{column.path_in_schema} is compressed, which this program never does")
        if column.total_uncompressed_size > max(_LABEL_BYTES, len(SHARD_SCHEMA) * place.length):
            raise OSError(f"{column.path_in_schema} claims {column.total_uncompressed_size} bytes")


def _binary(values: list[bytes | None]) -> pa.Array:
    """A binary column in one copy; Arrow's own would grow by doubling."""
    ends = np.cumsum([0, *(len(value or b"") for value in values)], dtype=np.int32)
    valid = None if None not in values else pa.array([value is not None for value in values]).buffers()[1]
    data = pa.py_buffer(b"".join(value or b"" for value in values))
    return pa.Array.from_buffers(pa.binary(), len(values), [valid, pa.py_buffer(ends), data])


class _Tape:
    """What Parquet writes to: passes bytes on, with the digests of the file and of the row group under way."""

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self.position = 0
        self.whole = hashlib.sha256()
        self.group = hashlib.sha256()
        self.keep: bytearray | None = None
        self.is_cut = False
        self._file = file

    def begin(self) -> int:
        """A row group begins here: at this offset."""
        self.group = hashlib.sha256()
        return self.position

    def write(self, data: bytes) -> int:
        view = memoryview(data)
        self.whole.update(view)
        self.group.update(view)
        if self.keep is not None:
            self.keep += view
        if not self.is_cut:
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
    """A file of which only [offset, offset + len(data)) can be read: the part whose digest was checked."""

    closed = False

    def __init__(self, data: bytes, offset: int) -> None:
        self._data, self._offset, self._position = memoryview(data), offset, 0

    def read(self, num_bytes: int = -1) -> memoryview:
        begin = self._position - self._offset
        end = len(self._data) if num_bytes is None or num_bytes < 0 else begin + num_bytes
        if begin < 0 or end > len(self._data):
            raise OSError(f"the footer points at bytes {self._position} to {self._offset + end}, outside the row group")
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
