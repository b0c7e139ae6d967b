"""The data store and a data set on a real object store: OpenStack Swift through its S3 API."""

from __future__ import annotations

import hashlib
import io
import pickle
import random
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from datasets.format.schema import Sample
from datasets.shards.dataset import CorruptData, DataError, Dataset, write_dataset
from datasets.storage.retry import Retry
from datasets.storage.store import Store, StoreError, open_store
from tests.servers.swift import LISTING, ObjectStore

pytestmark = pytest.mark.system


@pytest.fixture
def store(s3: ObjectStore) -> Store:
    return open_store(s3.create_bucket(f"b-{uuid.uuid4().hex[:12]}") + "/reid")


def test_an_object_is_read_whole_and_in_ranges(store: Store) -> None:
    data = random.Random(1).randbytes(100_000)
    store.write("train/0.bin", data)
    assert store.read("train/0.bin") == data
    assert store.read("train/0.bin", 70_000, 1_000) == data[70_000:71_000]
    assert store.read("train/0.bin", 99_990, 1_000) == data[99_990:]
    assert store.size("train/0.bin") == len(data)


def test_an_object_of_several_parts_arrives_whole(store: Store) -> None:
    data = random.Random(2).randbytes(45 << 20)
    store.write("large.bin", data)
    with store.create("streamed.bin") as file:
        file.write(data)
    digest = hashlib.sha256(data).digest()
    assert store.size("large.bin") == store.size("streamed.bin") == len(data)
    assert hashlib.sha256(store.read("large.bin")).digest() == digest
    assert hashlib.sha256(store.read("streamed.bin")).digest() == digest
    assert store.read("large.bin", 16 << 20, 5 << 20) == data[16 << 20 : 21 << 20]


def test_a_write_replaces_the_whole_object(store: Store) -> None:
    store.write("manifest.json", b"the first, longer one")
    store.write("manifest.json", b"second")
    assert store.read("manifest.json") == b"second"


def test_a_range_beyond_what_an_object_had_reads_what_was_added(store: Store) -> None:
    store.write("segment.jsonl", b"first\n")
    assert store.read("segment.jsonl", 0, 6) == b"first\n"
    store.write("segment.jsonl", b"first\nsecond\n")
    assert store.read("segment.jsonl", 6, 7) == b"second\n"


def test_a_listing_is_recursive_sorted_and_free_of_folder_markers(store: Store, s3: ObjectStore) -> None:
    for name in ("b/2", "a", "b/c/1"):
        store.write(name, b"x")
    bucket = store.address.removeprefix("s3://").split("/")[0]
    s3.client().put_object(Bucket=bucket, Key="reid/b/marker/", Body=b"")
    assert store.list() == ["a", "b/2", "b/c/1"]
    assert store.list("b") == ["b/2", "b/c/1"]
    assert store.list("nothing-here") == []


def test_a_listing_of_more_objects_than_one_answer_holds_is_whole(store: Store) -> None:
    names = [f"many/{i:04d}" for i in range(2 * LISTING + 50)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(store.write, names, [b"."] * len(names)))
    assert store.list("many") == names


def test_what_is_deleted_is_gone_and_deleting_again_is_no_error(store: Store) -> None:
    store.write("a/1", b"x")
    store.write("a/2", b"x")
    store.write("b", b"x")
    store.delete("b")
    store.delete("b")
    store.delete_tree("a")
    assert store.list() == []
    assert not store.exists("b")


def test_a_missing_object_and_a_missing_bucket_are_named_at_once(store: Store) -> None:
    with pytest.raises(StoreError, match="no such object") as missing:
        store.read("train/none.parquet")
    assert store.join("train/none.parquet") in str(missing.value)
    with pytest.raises(StoreError, match="no bucket 'no-such-bucket'"):
        open_store("s3://no-such-bucket/reid").read("manifest.json")
    with pytest.raises(StoreError, match="no-such-bucket"):
        open_store("s3://no-such-bucket/reid").write("manifest.json", b"{}")


def test_wrong_keys_are_refused_at_once_and_not_shown(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-wrong-secret")
    with pytest.raises(StoreError, match="AWS_ACCESS_KEY_ID") as refusal:
        store.read("manifest.json")
    assert "attempts" not in str(refusal.value)
    assert "a-wrong-secret" not in str(refusal.value)


def test_an_endpoint_that_does_not_answer_is_named_with_the_attempts(
    s3: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    store = open_store("s3://reid/ltcc", retry=Retry(attempts=3, base_s=0.01))
    with pytest.raises(StoreError, match=r"after 3 attempts.*http://127\.0\.0\.1:9"):
        store.read("manifest.json")


def test_threads_and_copies_share_a_store(store: Store) -> None:
    store.write("x", bytes(range(256)))
    copy = pickle.loads(pickle.dumps(store))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: copy.read("x", i, 4), range(64)))
    assert found == [bytes(range(i, i + 4)) for i in range(64)]


def sample(person: int, number: int) -> Sample:
    rng = random.Random(person * 1000 + number)
    picture, mask = io.BytesIO(), io.BytesIO()
    Image.frombytes("RGB", (16, 32), rng.randbytes(16 * 32 * 3)).save(picture, "PNG")
    Image.frombytes("L", (16, 32), bytes(rng.choices(range(20), k=16 * 32))).save(mask, "PNG")
    key = f"{person:03d}/{number:03d}.png"
    clothes, camera = str(number // 2), str(number % 3)
    return Sample(picture.getvalue(), mask.getvalue(), f"{person:03d}", clothes, camera, None, None, key)


@pytest.fixture
def dataset(store: Store) -> Dataset:
    splits = {
        "train": [sample(person, number) for person in range(6) for number in range(4)],
        "query": [sample(person, 0) for person in range(10, 12)],
        "gallery": [sample(person, number) for person in range(10, 12) for number in (1, 2, 3)],
    }
    write_dataset(
        store.join("rendered"),
        splits,
        name="system",
        version="1",
        licence="made by the test",
        label_map="lip20",
        protocol="ltcc",
        row_group_bytes=8 << 10,
        shard_bytes=32 << 10,
    )
    return Dataset.open(store.join("rendered"))


def test_a_data_set_is_written_to_and_read_from_the_object_store(dataset: Dataset) -> None:
    index = dataset.index("train")
    assert (len(index), index.num_persons, index.num_clothes) == (24, 6, 12)
    assert len({place.shard for place in index.groups}) > 1, "several shards"
    kept = list(dataset.samples("train"))
    assert {s.key: s for s in kept} == {s.key: s for s in (sample(p, n) for p in range(6) for n in range(4))}
    assert dataset.verify() == []


def test_a_byte_altered_in_the_object_store_is_found_before_use(dataset: Dataset) -> None:
    place = dataset.index("train").groups[1]
    altered = bytearray(dataset.store.read(place.shard))
    altered[place.offset + place.length // 2] ^= 1
    dataset.store.write(place.shard, bytes(altered))
    again = Dataset.open(dataset.address)
    again.read_group("train", 0)
    with pytest.raises(CorruptData, match=place.shard):
        again.read_group("train", 1)
    assert any(place.shard in problem for problem in again.verify())


def test_a_data_set_without_its_manifest_is_unfinished(dataset: Dataset) -> None:
    dataset.store.delete("manifest.json")
    with pytest.raises(DataError, match=r"manifest\.json"):
        Dataset.open(dataset.address)
