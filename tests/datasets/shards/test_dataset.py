"""A data set is opened whole or not at all, and no altered byte is ever used."""

import dataclasses
import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from datasets.format.manifest import INDEX, MANIFEST
from datasets.shards.dataset import CorruptData, DataError, Dataset
from datasets.storage.store import StoreError, open_store
from tests.tiny import tiny_dataset


class Watched:
    """A store that notes what is read of it."""

    def __init__(self, store) -> None:
        self.store, self.reads = store, []

    def __getattr__(self, name: str):
        return getattr(self.store, name)

    def read_as(self, path: str, parse, offset: int = 0, length: int | None = None):
        self.reads.append((path, offset, length))
        return self.store.read_as(path, parse, offset, length)


class TestReading:
    def test_a_row_group_is_one_range_and_no_footer(self, tiny):
        dataset = Dataset.open(tiny)
        dataset.store = Watched(dataset.store)
        for number, place in enumerate(dataset.index("train").groups):
            dataset.store.reads.clear()
            dataset.read_group("train", number)
            assert dataset.store.reads == [(place.shard, place.offset, place.length)]

    def test_threads_read_at_once(self, tmp_path):
        dataset = Dataset.open(tiny_dataset(tmp_path, row_group_bytes=4000))
        fresh = pickle.loads(pickle.dumps(dataset))
        with ThreadPoolExecutor(8) as pool:
            groups = range(len(dataset.index("train").groups))
            tables = list(pool.map(lambda group: fresh.read_group("train", group, ["key"]), groups))
        assert pa.concat_tables(tables)["key"].to_pylist() == dataset.index("train").keys()

    def test_chosen_rows_come_in_order(self, tiny):
        rows = np.array([0, 3, 20, 47])
        chosen = [s.key for s in Dataset.open(tiny).samples("train", rows)]
        assert chosen == Dataset.open(tiny).index("train").keys(rows)

    def test_any_flipped_byte_of_a_shard_is_found_before_use(self, tiny):
        shard = Path(tiny, "query/00000.parquet")
        dataset = Dataset.open(tiny)
        data = bytearray(shard.read_bytes())
        groups = dataset.index("query").groups
        rng = np.random.default_rng(5)
        for group, place in enumerate(groups):
            for position in rng.integers(place.offset, place.offset + place.length, 20).tolist():
                altered = bytearray(data)
                altered[position] ^= 1 << int(rng.integers(8))
                shard.write_bytes(altered)
                with pytest.raises(
                    CorruptData,
                    match=rf"query/00000.parquet, row group {group} at offset {place.offset}: altered bytes",
                ):
                    dataset.read_group("query", group)
                assert any("query/00000.parquet" in problem for problem in dataset.verify())

    def test_a_footer_that_lies_cannot_lead_outside_what_was_checked(self, tiny):
        dataset = Dataset.open(tiny)
        places, rows, footers = dataset._split_places("train")
        moved = [dataclasses.replace(places[0], group=1), *places[1:]]
        dataset._places["train"] = (tuple(moved), rows, footers)
        with pytest.raises(CorruptData, match=r"outside the row group|Invalid column metadata|the footer says"):
            dataset.read_group("train", 0)

    def test_a_shard_cut_short_while_training_is_found(self, tiny):
        dataset = Dataset.open(tiny)
        shard = Path(tiny, "train/00000.parquet")
        shard.write_bytes(shard.read_bytes()[:-3000])
        with pytest.raises(CorruptData, match=r"row group 2 .*only \d+ of \d+ bytes"):
            dataset.read_group("train", len(dataset.index("train").groups) - 1)


class TestOpening:
    def test_no_manifest_says_interrupted_or_wrong_and_what_is_there(self, tiny):
        Path(tiny, MANIFEST).unlink()
        with pytest.raises(DataError) as caught:
            Dataset.open(tiny)
        for word in (
            "has no manifest.json",
            "interrupted",
            "address is wrong",
            "It contains gallery/, index.parquet, query/, train/",
        ):
            assert word in str(caught.value)

    def test_nothing_there_is_another_message(self, tmp_path):
        with pytest.raises(DataError, match=r"there is no data set at .*/nowhere: nothing is there; check the address"):
            Dataset.open(str(tmp_path / "nowhere"))

    def test_an_unreachable_endpoint_is_another_message(self, monkeypatch):
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
        with pytest.raises(StoreError, match="endpoint is reachable"):
            Dataset.open("s3://reid/ltcc")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda text: text[: len(text) // 2], "is not a manifest"),
            (lambda text: "[]", "is not a manifest"),
            (
                lambda text: text.replace('"schema_version": 1', '"schema_version": 2'),
                "schema version 2, this program reads 1",
            ),
            (lambda text: text.replace('"rows": 48', '"rows": 47'), "was changed after it was written"),
            (lambda text: text.replace('"licence"', '"license"'), "lacks or misnames"),
        ],
    )
    def test_a_damaged_manifest_is_refused(self, tiny, change, message):
        path = Path(tiny, MANIFEST)
        path.write_text(change(path.read_text()))
        with pytest.raises(DataError, match=message):
            Dataset.open(tiny)

    def test_a_shard_of_the_wrong_size_is_named_with_both_sizes(self, tiny):
        shard = Path(tiny, "query/00000.parquet")
        size = shard.stat().st_size
        shard.write_bytes(shard.read_bytes()[:-5])
        with pytest.raises(DataError, match=rf"query/00000.parquet has {size - 5} bytes, expected {size} bytes"):
            Dataset.open(tiny)
        shard.unlink()
        with pytest.raises(DataError, match=rf"query/00000.parquet is missing, expected {size} bytes"):
            Dataset.open(tiny)

    def test_an_altered_index_is_refused(self, tiny):
        path = Path(tiny, INDEX)
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        with pytest.raises(DataError, match=r"index.parquet differs from its digest"):
            Dataset.open(tiny)

    def test_an_index_altered_after_opening_stops_the_worker(self, tiny):
        there = pickle.loads(pickle.dumps(Dataset.open(tiny)))
        Path(tiny, INDEX).write_bytes(b"other")
        with pytest.raises(CorruptData, match=r"index.parquet differs from its digest"):
            there.index("train")

    def test_the_manifest_shows_the_fingerprint(self, tiny):
        assert json.loads(Path(tiny, MANIFEST).read_text())["fingerprint"] == Dataset.open(tiny).fingerprint


def test_the_same_data_set_lives_on_any_address(tmp_path):
    address = "file://" + str(tmp_path / "there")
    assert tiny_dataset(address) == address
    assert Dataset.open(address).fingerprint == Dataset.open(tiny_dataset(tmp_path / "here")).fingerprint
    assert open_store(address).list() == open_store(str(tmp_path / "here")).list()
