"""Everything that is wrong with a data set is listed with its place."""

import dataclasses
from pathlib import Path

from datasets.shards.dataset import Dataset, write_dataset
from tests.datasets.samples import ABOUT, sample
from tests.tiny import tiny_dataset


class TestVerify:
    def test_a_whole_data_set_has_no_problems_and_shows_progress(self, tiny):
        seen = []
        assert Dataset.open(tiny).verify(lambda done, total: seen.append((done, total))) == []
        total = sum(path.stat().st_size for path in Path(tiny).glob("*/*.parquet"))
        assert seen == sorted(seen)
        assert len(seen) > 7
        assert seen[-1] == (total, total)

    def test_every_damage_is_listed_with_its_place(self, tiny):
        dataset = Dataset.open(tiny)
        place = dataset.index("train").groups[1]
        train, query = Path(tiny, "train/00000.parquet"), Path(tiny, "query/00000.parquet")
        data = bytearray(train.read_bytes())
        data[place.offset + 50] ^= 1
        data[-20] ^= 1
        train.write_bytes(data)
        query.unlink()
        Path(tiny, "gallery/00007.parquet").write_bytes(b"stray")
        problems = dataset.verify()
        expected = [
            f"train/00000.parquet: row group 1 at offset {place.offset}",
            "train/00000.parquet: the file differs",
            "query/00000.parquet: missing",
            "gallery/00007.parquet: not in manifest.json",
        ]
        assert len(problems) == len(expected)
        for part in expected:
            assert any(part in problem for problem in problems), part

    def test_a_row_that_is_not_its_checksum_is_named(self, tmp_path, monkeypatch):
        monkeypatch.setattr("datasets.format.shard_file.checksum", lambda image, parsing: "0" * 64)
        address = tiny_dataset(tmp_path, persons=1, splits=("train",))
        monkeypatch.undo()
        problems = Dataset.open(address).verify()
        assert len(problems) == 8
        assert (
            "train/00000.parquet: row group 0 at offset 4, row 3 (train/000_0_cC_003.jpg): image and parsing"
            in problems[3]
        )

    def test_counts_and_doubled_keys_are_compared_with_the_manifest(self, tmp_path):
        write_dataset(str(tmp_path), {"train": [sample(key="a"), sample(key="a")]}, **ABOUT)
        dataset = Dataset.open(str(tmp_path))
        assert dataset.verify() == ["index.parquet: split train has key a more than once"]
        entry = dataclasses.replace(dataset.manifest.splits["train"], persons=5)
        dataset.manifest = dataclasses.replace(dataset.manifest, splits={"train": entry})
        assert "index.parquet: split train has 1 persons, manifest.json says 5" in dataset.verify()
