"""Whatever the network does to it, a data set arrives as it is or not at all: real Swift behind a proxy that does it."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from datasets.sampling.plan import Plan, plan_epoch
from datasets.shards.dataset import CorruptData, Dataset
from datasets.storage.disk_cache import DiskCache
from datasets.storage.retry import Retry
from datasets.storage.store import Store, StoreError, open_store
from datasets.streaming.stream import HostBatch, Stream
from tests.servers.fault_proxy import ANY, KINDS, Faults, fault_proxy
from tests.servers.swift import ObjectStore
from tests.tiny import tiny_dataset

pytestmark = pytest.mark.system

QUICK = Retry(attempts=15, base_s=0.01, cap_s=0.05, deadline_s=60, attempt_s=1.5)
Through = Callable[[Faults], ObjectStore]


@pytest.fixture
def through(object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[Through]:
    """through(faults) puts the proxy before Swift for the rest of the test."""
    with ExitStack() as stack:

        def start(faults: Faults) -> ObjectStore:
            seen = stack.enter_context(fault_proxy(object_store, faults))
            for name, value in seen.environment.items():
                monkeypatch.setenv(name, value)
            return seen

        yield start


def tiny(address: str) -> str:
    return tiny_dataset(
        address, persons=16, images=3, splits="general", row_group_bytes=10_000, shard_bytes=60_000, test_persons=2
    )


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """16 people in 16 row groups, on this machine's disk."""
    return Dataset.open(tiny(str(tmp_path_factory.mktemp("here"))))


@pytest.fixture(scope="module")
def there(object_store: ObjectStore, here: Dataset) -> str:
    """The same data set in Swift, copied without faults."""
    bucket = "faults"  # a name in every run the same: what befalls a request follows from what it asks for
    object_store.create_bucket(bucket)
    client = object_store.client()
    for path in here.store.list():
        client.put_object(Bucket=bucket, Key=f"tiny/{path}", Body=here.store.read(path))
    return f"s3://{bucket}/tiny"


def plan(dataset: Dataset, epoch: int = 0) -> Plan:
    return plan_epoch(
        dataset.index("train"),
        dataset.fingerprint,
        sampler="distinct",
        people=4,
        images=2,
        window="all",
        lanes=2,
        seed=1,
        epoch=epoch,
    )


def epochs(
    dataset: Dataset, num: int = 1, worker: int = 0, workers: int = 1, cache_bytes: int = 60_000
) -> list[HostBatch]:
    """The cache holds fewer row groups than an epoch needs, so that some are read again."""
    ours = Stream(dataset, "train", parsing=True, size=(32, 16), threads=2, cache_bytes=cache_bytes)
    batches = [b for e in range(num) for b in ours.epoch(plan(dataset, e), worker=worker, workers=workers)]
    ours.close()
    return batches


def assert_same(found: list[HostBatch], expected: list[HostBatch]) -> None:
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        for name in ("images", "parsing", "person", "clothes", "camera", "rows"):
            assert np.array_equal(getattr(one, name), getattr(other, name)), name
        assert one.number == other.number


@pytest.mark.parametrize("kind", KINDS)
def test_each_fault_alone_is_survived(kind: str, through: Through, here: Dataset, there: str) -> None:
    is_slow = kind in ("stall", "trickle", "slow_start")
    faults = Faults({}, seed=3, slow_s=4.0)
    through(faults)
    dataset = Dataset.open(there, retry=QUICK)
    faults.rates = {kind: 0.15 if is_slow or kind == "slow_down" else 0.2}
    assert_same(epochs(dataset), epochs(here))
    assert faults.injected[kind] >= 1
    stats = dataset.store.stats
    assert stats.retries + stats.hedges_won >= 1
    assert (stats.healed > 0) == (kind in ("wrong_byte", "short"))


def test_an_epoch_under_ten_percent_faults_delivers_the_batches_of_an_undisturbed_one(
    through: Through, here: Dataset, there: str
) -> None:
    faults = Faults(dict.fromkeys(KINDS, 0.1 / len(KINDS)), seed=5, slow_s=3.0)
    through(faults)
    dataset = Dataset.open(there, retry=QUICK)
    for worker in range(2):
        assert_same(epochs(dataset, 2, worker, 2), epochs(here, 2, worker, 2))
    assert sum(faults.injected.values()) >= 0.05 * sum(faults.requests.values())
    assert len(faults.injected) >= 5, faults.injected


@pytest.mark.parametrize("kind", ["wrong_byte", "short", "reset", "slow_down"])
def test_a_data_set_is_opened_through_faults(kind: str, through: Through, here: Dataset, there: str) -> None:
    faults = Faults({kind: 0.1 if kind == "slow_down" else 0.3}, seed=2)
    through(faults)
    for _ in range(2):
        assert Dataset.open(there).fingerprint == here.fingerprint
    assert faults.injected[kind] >= 1


def test_a_data_set_written_through_faults_is_the_same(through: Through, here: Dataset, s3: ObjectStore) -> None:
    bucket = s3.create_bucket("written")
    faults = Faults(dict.fromkeys(ANY, 0.06), seed=1, slow_s=0.2)
    through(faults)
    written = Dataset.open(tiny(f"{bucket}/tiny"))
    assert sum(faults.injected.values()) >= 2
    assert written.fingerprint == here.fingerprint
    faults.rates = {}
    assert written.verify() == []
    assert written.store.list() == here.store.list()


def test_a_row_group_is_one_request_and_a_shard_one_more(through: Through, there: str) -> None:
    faults = Faults({})
    through(faults)
    dataset = Dataset.open(there)
    index = dataset.index("train")
    faults.requests.clear()
    for group in range(len(index.groups)):
        dataset.read_group("train", group)
    assert faults.requests == {"GET": len(index.groups), "HEAD": len({place.shard for place in index.groups})}
    assert dataset.store.stats.bytes == sum(place.length for place in index.groups)


def test_the_node_s_disk_cache_leaves_one_remote_read_of_each_byte(
    through: Through, here: Dataset, there: str, tmp_path: Path
) -> None:
    faults = Faults({})
    through(faults)
    workers = [Dataset.open(there, disk_cache=DiskCache(tmp_path, 1 << 20)) for _ in range(2)]
    index = workers[0].index("train")
    drawn = np.concatenate([plan(here, epoch).rows.ravel() for epoch in range(2)])
    needed = {index.groups[group] for group in np.unique(index.group[drawn])}
    for worker, dataset in enumerate(workers):
        assert_same(epochs(dataset, 2, worker, 2, 20_000), epochs(here, 2, worker, 2))
    ranges = {what: times for what, times in faults.asked.items() if "bytes=" in what and "/train/" in what}
    assert sum(ranges.values()) == len(ranges) == len(needed), "each row group was asked for once"
    remote = sum(dataset.store.stats.bytes for dataset in workers)
    assert remote == sum(place.length for place in needed)
    assert sum(dataset.disk_cache.hits for dataset in workers if dataset.disk_cache) > len(needed)


def test_a_straggler_is_overtaken_by_a_second_read(through: Through, there: str) -> None:
    faults = Faults({}, slow_s=40.0, most=1)
    through(faults)
    dataset = Dataset.open(there, retry=replace(QUICK, attempt_s=30))
    tables = [dataset.read_group("train", group) for group in range(len(dataset.index("train").groups))]
    dataset.store._hedging._budget = 1.0  # a busy machine may have spent it
    faults.rates = {"slow_start": 1.0}
    began = time.monotonic()
    assert dataset.read_group("train", 3) == tables[3]
    assert time.monotonic() - began < 20
    assert faults.injected["slow_start"] == 1
    assert dataset.store.stats.hedges_won >= 1


def test_a_store_that_never_recovers_ends_in_an_error_that_names_object_and_attempts(
    through: Through, there: str
) -> None:
    faults = Faults({})
    through(faults)
    place = Dataset.open(there).index("train").groups[0]
    faults.rates = {"slow_down": 1.0}
    few = Retry(attempts=4, base_s=0.01, cap_s=0.02, deadline_s=20, attempt_s=5)
    with pytest.raises(StoreError, match=rf"cannot read {there}/{place.shard} after 4 attempts in .*(503|SLOW_DOWN)"):
        open_store(there, retry=few).read(place.shard, place.offset, place.length)


@pytest.mark.parametrize("kind", ["stall", "trickle"])
def test_what_stalls_for_good_ends_at_the_deadline(kind: str, through: Through, there: str) -> None:
    faults = Faults({})
    through(faults)
    dataset = Dataset.open(there, retry=Retry(attempts=99, base_s=0.01, cap_s=0.02, deadline_s=2, attempt_s=0.5))
    dataset.read_group("train", 0)
    faults.rates = {kind: 1.0}
    began = time.monotonic()
    with pytest.raises(StoreError, match=r"after \d+ attempts in .*no complete answer within"):
        dataset.read_group("train", 1)
    assert time.monotonic() - began < 8


def test_an_altered_object_stops_before_use_and_at_once(through: Through, here: Dataset, s3: ObjectStore) -> None:
    bucket = s3.create_bucket(f"b-{uuid.uuid4().hex[:12]}")
    copy = open_store(f"{bucket}/tiny")
    for path in here.store.list():
        copy.write(path, here.store.read(path))
    place = here.index("train").groups[3]
    altered = bytearray(here.store.read(place.shard))
    altered[place.offset + 100] ^= 1
    copy.write(place.shard, bytes(altered))
    faults = Faults({})
    through(faults)
    dataset = Dataset.open(copy.address, retry=QUICK)
    faults.asked.clear()
    with pytest.raises(CorruptData, match=rf"{place.shard}, row group {place.group} at offset {place.offset}: altered"):
        dataset.read_group("train", 3)
    assert [times for what, times in faults.asked.items() if "bytes=" in what] == [2], "twice the same, no third time"
    faults.rates = {"wrong_byte": 0.2, "reset": 0.1}
    with pytest.raises(CorruptData, match=place.shard):
        epochs(dataset)


def test_bytes_that_are_altered_otherwise_each_time_are_laid_to_the_network(through: Through, there: str) -> None:
    faults = Faults({})
    through(faults)
    dataset = Dataset.open(there, retry=replace(QUICK, attempts=4))
    faults.rates = {"wrong_byte": 1.0}
    with pytest.raises(StoreError, match=r"after 4 attempts in .*the network or a proxy alters them"):
        dataset.read_group("train", 1)


@pytest.fixture
def store(s3: ObjectStore) -> Store:
    return open_store(s3.create_bucket(f"b-{uuid.uuid4().hex[:12]}") + "/reid", retry=replace(QUICK, attempts=8))


def parts(faults: Faults) -> set[str]:
    numbers = (what.partition("partNumber=")[2].partition("&")[0] for what in faults.asked)
    return {number for number in numbers if number}


def test_a_large_shard_arrives_in_several_parts_through_faults(through: Through, store: Store) -> None:
    faults = Faults({"slow_down": 0.03, "reset": 0.05, "error": 0.05}, seed=4)
    through(faults)
    data = random.Random(3).randbytes(25 << 20)
    with store.create("shard") as file:
        file.write(data)
    faults.rates = {}
    assert store.read("shard") == data
    assert parts(faults) == {"1", "2", "3"}


def test_a_request_of_an_upload_that_fails_is_repeated_alone(through: Through, store: Store) -> None:
    faults = Faults({"error": 1.0}, most=2)
    through(faults)
    data = random.Random(3).randbytes(25 << 20)
    open_store(store.address, retry=replace(QUICK, attempts=1)).write("shard", data)
    assert faults.injected["error"] == 2
    assert store.read("shard") == data


def test_an_upload_that_fails_leaves_what_was_there(through: Through, store: Store) -> None:
    store.write("state", b"old")
    faults = Faults({"error": 1.0})
    through(faults)
    once = open_store(store.address, retry=replace(QUICK, attempts=2))
    for name in ("state", "new"):
        with pytest.raises(StoreError, match="after 2 attempts"):
            once.write(name, bytes(12 << 20))  # of which the first request is one that begins an upload in parts
    faults.rates = {}
    assert store.read("state") == b"old"
    assert not store.exists("new"), "pyarrow would leave an empty object"


LEAVE = """
import sys
from datasets.storage.retry import Retry
from datasets.storage.store import StoreError, open_store
try:
    open_store(sys.argv[1], retry=Retry(attempts=2, base_s=0.01, deadline_s=1, attempt_s=0.4)).read("object", 0, 900_000)
except StoreError as error:
    print(error)
"""


def test_a_read_left_behind_does_not_keep_the_process_alive(through: Through, store: Store) -> None:
    store.write("object", random.Random(1).randbytes(1 << 20))
    seen = through(Faults({"trickle": 1.0}))
    done = subprocess.run(
        [sys.executable, "-c", LEAVE, store.address],
        env={**os.environ, **seen.environment},
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "no complete answer within" in done.stdout
