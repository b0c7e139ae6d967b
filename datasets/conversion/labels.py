"""The labels of entries that are still to be written, as the index of a data set gives them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from datasets.format.index import CLASS_COLUMNS, SplitIndex, number_classes, number_pairs
from datasets.layouts.layout import Entry


class EntryLabels:
    """Splits and labels of entries, as `datasets.protocols` reads them. There are no row groups yet."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._of_split: dict[str, list[Entry]] = {}
        for entry in entries:
            self._of_split.setdefault(entry.split, []).append(entry)
        self._texts: dict[tuple[str, str], pa.ChunkedArray] = {}

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self._of_split)

    def indexes(self, *splits: str) -> tuple[SplitIndex, ...]:
        """The labels of several splits with one numbering over all of them. Raises: KeyError for an unknown split."""
        classes = {
            name: number_classes([self._text(split, name) for split in splits])  # codes and names, as in a data set
            for name in CLASS_COLUMNS
        }
        pairs = number_pairs(classes["person"], classes["clothes"])
        nothing = np.zeros(0, np.int64)
        return tuple(
            SplitIndex(
                split=split,
                person=classes["person"].codes[at],
                clothes=pairs.codes[at],
                camera=classes["camera"].codes[at],
                sequence=classes["sequence"].codes[at],
                group=nothing,
                row_in_group=nothing,
                person_names=classes["person"].names,
                clothes_names=pairs.names,
                camera_names=classes["camera"].names,
                sequence_names=classes["sequence"].names,
                groups=(),
                has_parsing=False,
                _texts=self._text,
            )
            for at, split in enumerate(splits)
        )

    def _text(self, split: str, column: str) -> pa.ChunkedArray:
        if (split, column) not in self._texts:
            texts = pa.array([getattr(entry, column) for entry in self._of_split[split]], pa.string())
            self._texts[split, column] = pa.chunked_array([texts])
        return self._texts[split, column]
