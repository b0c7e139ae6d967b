"""One shard: a Parquet file written group by group, with the digest of every row group, and read back by range."""

import hashlib
from collections.abc import Sequence
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from datasets.index import INDEX_SCHEMA
from datasets.manifest import Shard
from datasets.schema import LABEL_COLUMNS, SHARD_SCHEMA, Sample, checksum

_MAGIC = b"PAR1"
_ENCODED = ("image", "parsing")  # compressed already; Parquet's dictionaries and codecs would only cost time
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
        footer = pa.array([_MAGIC + bytes(self._tape.keep)] + [None] * (self.num_rows - 1), pa.binary())
        index = index.set_column(index.schema.get_field_index("footer"), INDEX_SCHEMA.field("footer"), footer)
        digest = self._tape.whole.hexdigest()
        return Shard(self.path, self.num_rows, len(self.index_tables), self.num_bytes, digest), index

    def abandon(self) -> None:
        """Ends an unfinished shard: what Parquet still wants to say goes nowhere."""
        self._tape.is_cut = True
        self._parquet.close()


def read_rows(data: bytes, offset: int, footer: bytes, group: int, columns: list[str]) -> pa.Table:
    """The rows of a row group from its own bytes, which lie at `offset` in the shard; footer: from the index."""
    metadata = pq.read_metadata(pa.BufferReader(footer))
    with pq.ParquetFile(_Window(data, offset), metadata=metadata, pre_buffer=False) as shard:
        return shard.read_row_group(group, columns=columns, use_threads=False)


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
