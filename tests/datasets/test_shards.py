"""What is written is read, whole persons lie together, and no altered byte is ever used."""

import dataclasses
import json
import pickle
import tracemalloc
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datasets.grouping import cluster_key, payload, row_groups
from datasets.manifest import INDEX, MANIFEST
from datasets.schema import Sample, checksum
from datasets.shards import CorruptData, DataError, Dataset, write_dataset
from datasets.store import StoreError, open_store
from tests.tiny import tiny_dataset, tiny_samples

ABOUT = {"name": "x", "version": "1", "licence": "none", "label_map": None, "protocol": "general"}
EXAMPLES = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)

names = st.text(alphabet="0129_aé-", min_size=1, max_size=4)
samples = st.builds(
    Sample,
    image=st.binary(min_size=1, max_size=60),
    parsing=st.none() | st.binary(max_size=30),
    person=names,
    clothes=st.none() | names,
    camera=st.none() | names,
    sequence=st.none() | names,
    frame=st.none() | names,
    key=names,
)
splits = st.lists(samples, min_size=1, max_size=40, unique_by=lambda s: s.key).map(lambda s: sorted(s, key=cluster_key))


@pytest.fixture
def tiny(tmp_path):
    return tiny_dataset(tmp_path / "tiny")


class TestGrouping:
    @EXAMPLES
    @given(splits, st.integers(1, 400))
    def test_groups_are_the_samples_in_order_within_the_size(self, clustered, target):
        groups = list(row_groups(clustered, target))
        assert [sample for group in groups for sample in group] == clustered
        assert all(len(group) == 1 or sum(map(payload, group)) <= target for group in groups)

    @EXAMPLES
    @given(splits, st.integers(1, 400))
    def test_a_group_holds_whole_persons_or_a_part_of_a_large_one_alone(self, clustered, target):
        size = Counter()
        for sample in clustered:
            size[sample.person] += payload(sample)
        groups = list(row_groups(clustered, target))
        for person, total in size.items():
            inside = [group for group in groups if any(sample.person == person for sample in group)]
            if total <= target:
                assert len(inside) == 1
            else:
                assert all(sample.person == person for group in inside for sample in group)

    def test_small_neighbours_share_a_group(self):
        clustered = [sample(person=str(person), image=b"x" * 10) for person in range(10)]
        assert [len(group) for group in row_groups(clustered, 35)] == [3, 3, 3, 1]

    def test_a_large_person_is_cut_between_outfits_before_sequences_before_images(self):
        outfits = [sample(clothes=c, sequence=s, image=b"x" * 10) for c, s in ("a1", "a1", "b1", "b2", "b2")]
        assert [len(group) for group in row_groups(outfits, 40)] == [2, 3]
        sequences = [sample(clothes="a", sequence=s, image=b"x" * 10) for s in "11222"]
        assert [len(group) for group in row_groups(sequences, 40)] == [2, 3]
        images = [sample(clothes="a", sequence="1", image=b"x" * 10) for _ in range(5)]
        assert [len(group) for group in row_groups(images, 40)] == [4, 1]

    def test_a_row_group_is_given_up_before_the_next_is_collected(self):
        alive = []

        def stream():
            for person in range(20):
                alive.append(person)
                yield sample(person=f"{person:02d}", image=b"x" * 10)

        for group in row_groups(stream(), 40):
            assert len(alive) <= int(group[-1].person) + 2

    @pytest.mark.parametrize(
        ("order", "complaint"),
        [
            ([("1", "a"), ("2", "a"), ("1", "a")], "person '1' comes back"),
            ([("1", "a"), ("1", "b"), ("1", "a")], "clothes 'a' comes back"),
        ],
    )
    def test_samples_out_of_order_are_refused(self, order, complaint):
        with pytest.raises(DataError, match=f"not clustered: {complaint}.*sort the samples by person"):
            list(row_groups([sample(person=p, clothes=c) for p, c in order], 100))

    def test_one_outfit_name_may_occur_with_every_person(self):
        mixed = [sample(person=p, clothes=c, sequence="1") for p in "12" for c in "ab"]
        assert sum(map(len, row_groups(mixed, 100))) == 4


def sample(**given) -> Sample:
    plain = {"image": b"image", "parsing": None, "person": "1", "clothes": None, "camera": None}
    return Sample(**(plain | {"sequence": None, "frame": None, "key": "key"} | given))


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
        seen = []
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
        with pytest.raises(DataError, match="holds a finished data set; choose another address or ask to overwrite"):
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
        (tmp_path / "train/.00003.parquet.0123.tmp").write_text("left by a killed conversion")
        tiny_dataset(tmp_path, persons=2, overwrite=True)
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
        assert index.own_clothes().tolist() == [[True, True, False], [False, False, True], [False] * 3]
        assert (index.has_clothes, index.has_camera, index.has_parsing) == (False, False, False)
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
        monkeypatch.setattr("datasets.writer.INDEX_GROUP_ROWS", 10)
        dataset = Dataset.open(tiny_dataset(tmp_path, row_group_bytes=3000, shard_bytes=6000))
        assert pq.read_metadata(tmp_path / INDEX).num_row_groups > 6
        assert [len(dataset.index(split)) for split in dataset.splits] == [48, 24, 24]
        assert dataset.index("gallery").keys() == [s.key for s in tiny_samples("gallery")]
        assert dataset.verify() == []


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
            "There is gallery/, index.parquet, query/, train/",
        ):
            assert word in str(caught.value)

    def test_nothing_there_is_another_message(self, tmp_path):
        with pytest.raises(DataError, match=r"there is no data set at .*/nowhere: nothing is there; check the address"):
            Dataset.open(str(tmp_path / "nowhere"))

    def test_an_unreachable_endpoint_is_another_message(self, monkeypatch):
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
        with pytest.raises(StoreError, match="endpoint reachable"):
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
            "gallery/00007.parquet: manifest.json does not know it",
        ]
        assert len(problems) == len(expected)
        for part in expected:
            assert any(part in problem for problem in problems), part

    def test_a_row_that_is_not_its_checksum_is_named(self, tmp_path, monkeypatch):
        monkeypatch.setattr("datasets.shard_file.checksum", lambda image, parsing: "0" * 64)
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


def test_the_same_data_set_lives_on_any_address(tmp_path):
    address = "file://" + str(tmp_path / "there")
    assert tiny_dataset(address) == address
    assert Dataset.open(address).fingerprint == Dataset.open(tiny_dataset(tmp_path / "here")).fingerprint
    assert open_store(address).list() == open_store(str(tmp_path / "here")).list()
