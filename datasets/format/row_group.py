"""A row group in memory: its image files and masks, still encoded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa


@dataclass(frozen=True)
class Group:
    """The encoded columns of a row group. parsing: None where masks are not read."""

    image: Encoded
    parsing: Encoded | None


@dataclass(frozen=True)
class Encoded:
    """A binary column of R rows. data: uint8 [n], the bytes of all rows. ends: int [R + 1]. is_null: bool [R], or None.

    Row i is data[ends[i] : ends[i + 1]], None where it is null.
    """

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
