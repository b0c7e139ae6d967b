"""What is written is read, and nothing finished is written over unasked."""

import dataclasses
import tracemalloc
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datasets.format.manifest import INDEX, MANIFEST
from datasets.format.schema import checksum
from datasets.shards.dataset import DataError, Dataset, write_dataset
from datasets.shards.grouping import cluster_key
from tests.datasets.samples import ABOUT, EXAMPLES, sample, splits
from tests.tiny import tiny_dataset, tiny_samples


class TestWriting:
    @EXAMPLES
    @given(st.dictionaries(st.sampled_from(["train", "query", "gallery"]), splits, min_size=1), st.integers(50, 2000))
    def test_every_sample_is_read_back_exactly(self, tmp_path_factory, content, row_group_bytes):
        address = str(tmp_path_factory.mktemp("data"))
        write_dataset(address, content, **ABOUT, row_group_bytes=row_group_bytes, shard_bytes=4000)
        dataset = Dataset.open(address)
        assert {split: list(dataset.samples(split)) for split in dataset.splits} == content
        assert dataset.verify() == []

    @EXAMPLES
    @given(splits, st.randoms(use_true_random=False))
    def test_the_order_in_which_samples_arrive_does_not_change_the_fingerprint(
        self, tmp_path_factory, clustered, random
    ):
        shuffled = random.sample(clustered, len(clustered))
        written = [
            write_dataset(str(tmp_path_factory.mktemp("data")), {"train": sorted(order, key=cluster_key)}, **ABOUT)
            for order in (clustered, shuffled)
        ]
        assert written[0].fingerprint == written[1].fingerprint

    def test_the_same_samples_give_the_same_files(self, tmp_path):
        one, two = (Path(tiny_dataset(tmp_path / name)) for name in "ab")
        files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
        assert [str(file) for file in files] == sorted(
            ["gallery/00000.parquet", INDEX, MANIFEST, "query/00000.parquet", "train/00000.parquet"]
        )
        assert all((one / file).read_bytes() == (two / file).read_bytes() for file in files)

    def test_the_fingerprint_follows_every_byte_and_label(self, tmp_path):
        content = list(tiny_samples("train", persons=2))
        changed = [
            content,
            [dataclasses.replace(content[0], image=content[0].image + b"\0"), *content[1:]],
            [dataclasses.replace(content[0], camera="B"), *content[1:]],
            [dataclasses.replace(content[0], frame="7"), *content[1:]],
            content[1:],
        ]
        fingerprints = {
            write_dataset(str(tmp_path / str(n)), {"train": c}, **ABOUT).fingerprint for n, c in enumerate(changed)
        }
        assert len(fingerprints) == len(changed)

    def test_any_parquet_reader_reads_a_shard(self, tiny):
        table = pq.read_table(f"{tiny}/train/00000.parquet")
        first = next(tiny_samples("train"))
        assert table.num_rows == 48
        assert table["image"][0].as_py() == first.image
        assert table["checksum"][0].as_py() == checksum(first.image, first.parsing)

    def test_images_are_stored_as_they_are(self, tiny):
        metadata = pq.read_metadata(f"{tiny}/train/00000.parquet")
        for column in (metadata.row_group(0).column(c) for c in range(metadata.num_columns)):
            if column.path_in_schema in ("image", "parsing"):
                assert column.compression == "UNCOMPRESSED"
                assert not column.has_dictionary_page

    def test_shards_are_cut_by_size(self, tmp_path):
        address = tiny_dataset(tmp_path, row_group_bytes=12_000, shard_bytes=30_000)
        train = Dataset.open(address).manifest.splits["train"]
        assert [shard.groups for shard in train.shards] == [3, 3]
        assert all(shard.bytes < 33_000 for shard in train.shards)
        assert sum(shard.rows for shard in train.shards) == train.rows == 48

    def test_the_manifest_counts(self, tiny):
        manifest = Dataset.open(tiny).manifest
        train = manifest.splits["train"]
        assert (train.rows, train.persons, train.clothes, train.cameras, train.masks) == (48, 6, 12, 3, 48)
        assert (manifest.label_map, manifest.protocol, manifest.licence) == ("lip20", "ltcc", "drawn for tests")

    def test_captions_and_records_of_a_converter_are_kept(self, tmp_path):
        captions = {"persons": {"000": "a tall man"}, "clothes": {"000": {"0": "a red coat"}}}
        content = {"train": tiny_samples("train", persons=1)}
        write_dataset(str(tmp_path), content, **ABOUT, captions=captions, extra={"quarantined": ["a.jpg"]})
        manifest = Dataset.open(str(tmp_path)).manifest
        assert manifest.captions == captions
        assert manifest.extra == {"quarantined": ["a.jpg"]}

    def test_progress_counts_up_to_all_samples(self, tmp_path):
        seen: list[int] = []
        content = {split: tiny_samples(split, persons=1) for split in ("train", "query")}
        write_dataset(str(tmp_path), content, **ABOUT, progress=seen.append)
        assert seen == list(range(1, 17))

    def test_memory_holds_one_row_group_however_many_there_are(self, tmp_path):
        def peak(persons: int) -> int:
            stream = (
                sample(person=f"{p:04d}", key=f"{p}/{n}", image=bytes(100_000)) for p in range(persons) for n in "ab"
            )
            tracemalloc.start()
            write_dataset(str(tmp_path / str(persons)), {"train": stream}, **ABOUT, row_group_bytes=1_000_000)
            highest = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            return highest

        of_few = peak(20)
        assert of_few < 5_000_000
        assert peak(200) < 1.2 * of_few


class TestRefusals:
    def test_a_finished_data_set_is_not_overwritten_unasked(self, tiny):
        with pytest.raises(DataError, match=r"holds a finished data set; choose another.* replace it with --overwrite"):
            tiny_dataset(tiny)
        before = Dataset.open(tiny).fingerprint
        tiny_dataset(tiny, persons=7, overwrite=True)
        assert Dataset.open(tiny).fingerprint != before
        assert Dataset.open(tiny).verify() == []

    def test_rewriting_leaves_no_old_shards(self, tmp_path):
        tiny_dataset(tmp_path, persons=12, row_group_bytes=12_000, shard_bytes=20_000)
        (tmp_path / "notes.txt").write_text("mine")
        (tmp_path / "other").mkdir()
        (tmp_path / "other/00000.parquet").write_text("mine")
        for name in ("train/.00003.parquet", ".index.parquet", ".manifest.json"):
            (tmp_path / f"{name}.0123.tmp").write_text("left by a killed conversion")
        tiny_dataset(tmp_path, persons=2, overwrite=True)
        assert not list(tmp_path.rglob("*.tmp"))
        assert len(list((tmp_path / "train").iterdir())) == 1
        assert (tmp_path / "notes.txt").read_text() == (tmp_path / "other/00000.parquet").read_text() == "mine"

    def test_an_interrupted_rewriting_leaves_no_finished_data_set(self, tiny):
        def broken():
            yield from tiny_samples("train", persons=2)
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            write_dataset(tiny, {"train": broken()}, **ABOUT, row_group_bytes=5000, shard_bytes=1, overwrite=True)
        with pytest.raises(DataError, match="conversion was interrupted"):
            Dataset.open(tiny)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"protocol": "ltc"}, "there is no protocol 'ltc'; there are general, ltcc, prcc"),
            ({"label_map": "lip"}, "there is no label map 'lip'; there are lip20, atr18"),
            ({"splits": {"Train": [sample()]}}, "'Train' is no name for a split"),
            ({"splits": {"../x": [sample()]}}, "is no name for a split"),
            ({"splits": {"train": []}}, "split 'train' of x has no samples"),
            ({"splits": {}}, "needs at least one split"),
            ({"splits": {"train": [sample(person="")]}}, "person and key must not be empty"),
        ],
    )
    def test_a_wrong_request_is_refused(self, tmp_path, change, message):
        given = ABOUT | {"splits": {"train": [sample()]}} | change
        with pytest.raises(DataError, match=message):
            write_dataset(str(tmp_path), **given)
        assert not (tmp_path / MANIFEST).exists()
