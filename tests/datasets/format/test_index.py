"""The index: labels as the samples have them, and the places of rows."""

import pickle

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given

from datasets.format.manifest import INDEX
from datasets.shards.dataset import DataError, Dataset, write_dataset
from tests.datasets.samples import ABOUT, EXAMPLES, sample, splits
from tests.tiny import tiny_dataset, tiny_samples


class TestIndex:
    def test_ids_follow_the_sorted_strings(self, tmp_path):
        rows = [("10", "b", "c2"), ("10", "a", "c10"), ("2", "b", None), ("9", None, "c2")]
        content = [sample(person=p, clothes=c, camera=k, key=f"{n}") for n, (p, c, k) in enumerate(rows)]
        write_dataset(str(tmp_path), {"train": content}, **ABOUT, row_group_bytes=1)
        index = Dataset.open(str(tmp_path)).index("train")
        assert index.person_names == ["10", "2", "9"]
        assert index.person.tolist() == [0, 0, 1, 2]
        assert index.clothes_names == [("10", "a"), ("10", "b"), ("2", "b")]
        assert index.clothes.tolist() == [1, 0, 2, -1]
        assert index.camera_names == ["c10", "c2"]
        assert index.camera.tolist() == [1, 0, -1, 1]
        assert index.sequence.tolist() == [-1] * 4
        assert index.clothes_owner().tolist() == [0, 0, 1]
        assert (index.has_clothes, index.has_parsing) == (False, False)
        assert index.keys() == ["0", "1", "2", "3"]
        assert index.keys(np.array([3, 1])) == ["3", "1"]
        assert index.frames() == [None] * 4

    @EXAMPLES
    @given(splits, splits)
    def test_labels_are_the_samples_own(self, tmp_path_factory, query, gallery):
        address = str(tmp_path_factory.mktemp("data"))
        write_dataset(address, {"query": query, "gallery": gallery}, **ABOUT, row_group_bytes=300)
        for index, content in zip(Dataset.open(address).indexes("query", "gallery"), (query, gallery), strict=True):
            assert [index.person_names[p] for p in index.person] == [s.person for s in content]
            for name in ("camera", "sequence"):
                labels, texts = getattr(index, name), getattr(index, f"{name}_names")
                assert [texts[n] if n >= 0 else None for n in labels] == [getattr(s, name) for s in content]
            assert [index.clothes_names[c] if c >= 0 else None for c in index.clothes] == [
                None if s.clothes is None else (s.person, s.clothes) for s in content
            ]
            assert index.person_names == sorted({s.person for s in query + gallery})
            assert index.clothes_names == sorted(
                {(s.person, s.clothes) for s in query + gallery if s.clothes is not None}
            )
            assert index.frames() == [s.frame for s in content]

    def test_places_lead_to_the_rows(self, tiny):
        dataset = Dataset.open(tiny)
        index = dataset.index("train")
        keys = index.keys()
        assert sum(place.rows for place in index.groups) == len(index) == len(keys) == 48
        for group in range(len(index.groups)):
            rows = np.flatnonzero(index.group == group)
            assert index.row_in_group[rows].tolist() == list(range(len(rows)))
            assert dataset.read_group("train", group, ["key"])["key"].to_pylist() == [keys[row] for row in rows]

    def test_one_split_counts_its_own_classes_and_two_share_theirs(self, tiny):
        dataset = Dataset.open(tiny)
        assert dataset.index("train").person_names == [f"{p:03d}" for p in range(6)]
        query, gallery = dataset.indexes("query", "gallery")
        assert query.person_names is gallery.person_names
        assert query.person_names == ["500", "501", "502"]

    def test_travels_by_pickle_without_the_index(self, tiny):
        dataset = Dataset.open(tiny)
        index = dataset.index("train")
        there = pickle.loads(pickle.dumps(dataset))
        assert there.fingerprint == dataset.fingerprint
        assert there.index("train").person.tolist() == index.person.tolist()
        assert len(pickle.dumps(dataset)) < 5000
        assert pickle.loads(pickle.dumps(index)).keys() == index.keys()

    def test_an_unknown_split_lists_those_there_are(self, tiny):
        for ask in (Dataset.open(tiny).index, lambda split: Dataset.open(tiny).read_group(split, 0)):
            with pytest.raises(DataError, match="has no split 'val'; it has train, query, gallery"):
                ask("val")

    def test_splits_longer_than_a_row_group_of_the_index_are_read_apart(self, tmp_path, monkeypatch):
        monkeypatch.setattr("datasets.shards.writer.INDEX_GROUP_ROWS", 10)
        dataset = Dataset.open(tiny_dataset(tmp_path, row_group_bytes=3000, shard_bytes=6000))
        assert pq.read_metadata(tmp_path / INDEX).num_row_groups > 6
        assert [len(dataset.index(split)) for split in dataset.splits] == [48, 24, 24]
        assert dataset.index("gallery").keys() == [s.key for s in tiny_samples("gallery")]
        assert dataset.verify() == []
