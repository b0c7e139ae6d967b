"""A row group in memory: its files as they are stored, still encoded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa


@dataclass(frozen=True)
class Group:
    """A row group's encoded files: for each column the bytes of all rows, and where each row's begin and end."""

    image: Encoded
    parsing: Encoded | None


@dataclass(frozen=True)
class Encoded:
    """Rows of a binary column. data: uint8 [n]; row i is data[ends[i] : ends[i + 1]], None where is_null."""

    data: np.ndarray
    ends: np.ndarray
    is_null: np.ndarray | None

    @classmethod
    def of(cls, column: pa.ChunkedArray) -> Encoded:
        array = column.combine_chunks()
        array = pa.concat_arrays(array.chunks) if isinstance(array, pa.ChunkedArray) else array
        _, ends, data = array.buffers()
        width = np.dtype(np.int64 if pa.types.is_large_binary(array.type) else np.int32)
        return cls(
            np.frombuffer(data or b"", np.uint8),
            np.frombuffer(ends, width)[array.offset : array.offset + len(array) + 1],
            array.is_null().to_numpy(zero_copy_only=False) if array.null_count else None,
        )

    def __getitem__(self, row: int) -> np.ndarray | None:
        if self.is_null is not None and self.is_null[row]:
            return None
        return self.data[self.ends[row] : self.ends[row + 1]]
