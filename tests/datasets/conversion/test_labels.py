"""Labels of entries are those of the data set that is written of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from datasets.conversion.labels import EntryLabels
from datasets.layouts.layout import Entry
from datasets.shards.dataset import Dataset
from tests.tiny import tiny_dataset, tiny_samples

COLUMNS = ("person", "clothes", "camera", "sequence")


def test_numbers_and_names_are_those_of_the_written_data_set(tmp_path: Path) -> None:
    splits = ("train", "query", "gallery")
    written = Dataset.open(tiny_dataset(tmp_path / "tiny"))
    entries = [
        Entry(split, one.key, one.person, one.clothes, one.camera, one.sequence, one.frame)
        for split in splits
        for one in (tiny_samples(split) if split != "train" else written.samples("train"))
    ]
    labels = EntryLabels(entries)
    assert labels.splits == splits
    for ours, theirs in zip(labels.indexes(*splits), written.indexes(*splits), strict=True):
        for column in COLUMNS:
            np.testing.assert_array_equal(getattr(ours, column), getattr(theirs, column))
            assert getattr(ours, f"{column}_names") == getattr(theirs, f"{column}_names")
        assert ours.keys() == theirs.keys()
        assert ours.frames(np.array([1, 0])) == theirs.frames(np.array([1, 0]))
