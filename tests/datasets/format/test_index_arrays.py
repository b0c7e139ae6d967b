"""An index as arrays and back: the same labels, names, places and footers."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given

from datasets.format.index import SplitIndex
from datasets.format.index_arrays import Lazy, from_arrays, to_arrays
from datasets.shards.dataset import Dataset, write_dataset
from datasets.storage.shared_arrays import SharedArrays
from tests.datasets.samples import ABOUT, EXAMPLES, splits
from tests.tiny import tiny_dataset


def same(ours: SplitIndex, theirs: SplitIndex) -> None:
    for name in ("person", "clothes", "camera", "sequence", "group", "row_in_group"):
        one, other = getattr(ours, name), getattr(theirs, name)
        assert one.dtype == other.dtype == np.int64, name
        assert one.tolist() == other.tolist(), name
    for name in ("person_names", "clothes_names", "camera_names", "sequence_names", "groups"):
        assert list(getattr(ours, name)) == list(getattr(theirs, name)), name
    assert (ours.split, ours.has_parsing, ours.num_persons, ours.num_clothes) == (
        theirs.split, theirs.has_parsing, theirs.num_persons, theirs.num_clothes,
    )  # fmt: skip
    assert ours.clothes_owner().tolist() == theirs.clothes_owner().tolist()
    assert ours.keys() == theirs.keys()


@EXAMPLES
@given(splits, splits)
def test_an_index_comes_back_from_its_arrays(
    tmp_path_factory: pytest.TempPathFactory, query: list, gallery: list
) -> None:
    address = str(tmp_path_factory.mktemp("data"))
    write_dataset(address, {"query": query, "gallery": gallery}, **ABOUT, row_group_bytes=300)
    dataset = Dataset.open(address)
    indexes = dataset.indexes("query", "gallery")
    footers: list[Mapping[str, bytes]] = [dataset._split_places(split)[2] for split in ("query", "gallery")]
    found, of_shards = from_arrays(to_arrays(indexes, footers), dataset.manifest.splits, dataset._text)
    for ours, theirs in zip(found, indexes, strict=True):
        same(ours, theirs)
    assert [dict(one) for one in of_shards] == footers
    assert found[0].person_names is found[1].person_names


def test_a_shared_data_set_reads_the_same(tmp_path: Path) -> None:
    address = tiny_dataset(tmp_path / "data", row_group_bytes=3000, shard_bytes=6000)
    own = Dataset.open(address)
    for _ in ("made", "mapped"):
        shared = Dataset.open(address, shared=SharedArrays(tmp_path / "index"))
        first = len(own.index("train").groups) - 1
        assert shared.read_group("train", first).equals(own.read_group("train", first)), "before any index is asked for"
        same(shared.index("train"), own.index("train"))
        for ours, theirs in zip(shared.indexes("query", "gallery"), own.indexes("query", "gallery"), strict=True):
            same(ours, theirs)
        assert list(shared.samples("gallery")) == list(own.samples("gallery"))
        assert shared.index("train") is shared.index("train"), "mapped once in a process"
        assert shared._index_file is not None, "for the keys alone"
        same(pickle.loads(pickle.dumps(shared)).index("train"), own.index("train"))


def test_a_process_that_maps_an_index_does_not_read_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = tiny_dataset(tmp_path / "data")
    Dataset.open(address, shared=SharedArrays(tmp_path / "index")).index("train")
    monkeypatch.setattr(Dataset, "_index", lambda self: pytest.fail("read index.parquet"))
    dataset = Dataset.open(address, shared=SharedArrays(tmp_path / "index"))
    assert len(dataset.index("train")) == 48
    assert dataset.read_group("train", 0).num_rows


def test_a_changed_data_set_has_another_file(tmp_path: Path) -> None:
    shared = SharedArrays(tmp_path / "index")
    address = tiny_dataset(tmp_path / "data", persons=6)
    before = Dataset.open(address, shared=shared).index("train")
    for path in (tmp_path / "data").rglob("*.*"):
        path.unlink()
    tiny_dataset(tmp_path / "data", persons=7)
    after = Dataset.open(address, shared=shared).index("train")
    assert (before.num_persons, after.num_persons) == (6, 7)
    assert len(list((tmp_path / "index").glob("*.arrays"))) == 2


def test_a_lazy_sequence_is_one() -> None:
    found = Lazy(4, lambda at: str(at))
    assert (list(found), len(found), found[-1], found[1:3]) == (["0", "1", "2", "3"], 4, "3", ["1", "2"])
    assert found == ["0", "1", "2", "3"]
    assert found != ["0", "1", "2"]
    assert found != ["0", "1", "2", "4"]
    for at in (4, -5):
        with pytest.raises(IndexError):
            found[at]
