"""The stream delivers the plan's batches, whoever reads them and however little it may hold, or says why it cannot."""

from __future__ import annotations

import gc
import time
from collections import Counter
from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.images.decode import decode_image, decode_parsing
from datasets.sampling.plan import Plan
from datasets.sampling.samplers import SAMPLERS
from datasets.shards.dataset import Dataset
from datasets.storage.store import StoreError
from datasets.streaming.prefetch import BATCHES_AHEAD, PendingBatch
from datasets.streaming.stream import HostBatch
from tests.datasets.streams import SIZE, Watched, plan, same, stream, threads_of_streams
from tests.tiny import tiny_dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """40 people with 7 images each in about 20 row groups."""
    path = tmp_path_factory.mktemp("data") / "tiny"
    return Dataset.open(
        tiny_dataset(
            path, persons=40, clothes=1, images=7, splits=["train", "query", "gallery"], row_group_bytes=20_000
        )
    )


def test_batches_hold_the_stored_images_masks_and_labels_of_the_plan(dataset: Dataset) -> None:
    found, index, samples = plan(dataset), dataset.index("train"), list(dataset.samples("train"))
    batches = list(stream(dataset).epoch(found))
    assert [batch.number for batch in batches] == list(range(found.num_batches))
    for batch, rows in zip(batches, found.rows, strict=True):
        assert batch.rows.tolist() == rows.tolist()
        assert batch.images.shape == (24, 3, *SIZE)
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        for place, row in enumerate(rows):
            assert torch.equal(batch.images[place], decode_image(samples[row].image))
            assert torch.equal(batch.parsing[place], decode_parsing(samples[row].parsing or b""))
        for name in ("person", "clothes", "camera"):
            labels = getattr(batch, name)
            assert labels.dtype == torch.int64
            assert labels.tolist() == getattr(index, name)[rows].tolist()
    without = next(stream(dataset, parsing=False).epoch(found))
    assert without.parsing is None
    assert torch.equal(without.images, batches[0].images)


def by(workers: int, dataset: Dataset, found: Plan, first: int = 0, end: int | None = None) -> list[HostBatch]:
    """The global batches from `first` until `end`, put together from what so many workers get."""
    num = (found.num_batches if end is None else end) - first
    shares = [
        list(islice(stream(dataset, threads=1).epoch(found, first_batch=first, worker=w, workers=workers), num))
        for w in range(workers)
    ]
    return [
        HostBatch(*(torch.cat([getattr(part, name) for part in parts]) for name in HostBatch.__annotations__
                    if name not in ("number", "wait_s")), number=parts[0].number, wait_s=0.0)
        for parts in zip(*shares, strict=True)
    ]  # fmt: skip


@pytest.mark.parametrize("window", ["all", 2])
@pytest.mark.parametrize("workers", [2, 4])
def test_workers_together_see_the_batches_of_one(dataset: Dataset, window: str | int, workers: int) -> None:
    found = plan(dataset, window=window)
    same(by(workers, dataset, found), list(stream(dataset).epoch(found)))


@settings(max_examples=12)
@given(
    sampler=st.sampled_from(sorted(SAMPLERS)),
    clip=st.sampled_from([None, (2, 1)]),
    window=st.sampled_from(["all", 1, 2]),
    before=st.sampled_from([1, 2, 4]),
    after=st.sampled_from([1, 2, 4]),
    data=st.data(),
)
def test_resumed_at_any_batch_by_another_number_of_workers_the_sequence_goes_on(
    dataset: Dataset, sampler: str, clip: tuple[int, int] | None, window: str | int, before: int, after: int,
    data: st.DataObject,
) -> None:  # fmt: skip
    shape = {"sampler": sampler, "clip": clip, "window": window, "images": 3 if clip is None else 2}
    found = plan(dataset, **shape)
    undisturbed = list(stream(dataset).epoch(found))
    first = data.draw(st.integers(0, found.num_batches))
    same(by(before, dataset, found, end=first) + by(after, dataset, plan(dataset, **shape), first), undisturbed)


def test_clips_are_delivered_with_their_frames_in_order_and_the_labels_of_their_tracklet(dataset: Dataset) -> None:
    found, index, samples = plan(dataset, clip=(2, 1)), dataset.index("train"), list(dataset.samples("train"))
    batches = list(stream(dataset).epoch(found))
    assert len(batches) == found.num_batches > 0
    for batch in batches:
        assert batch.images.shape == (24, 2, 3, *SIZE)
        assert batch.parsing.shape == (24, 2, *SIZE)
        assert batch.rows.shape == (24, 2)
        for place, rows in enumerate(batch.rows.tolist()):
            frames = [samples[row] for row in rows]
            assert len({(sample.person, sample.sequence) for sample in frames}) == 1
            assert int(frames[0].frame or 0) < int(frames[1].frame or 0)  # every tracklet has two frames or three
            assert torch.equal(batch.images[place], torch.stack([decode_image(sample.image) for sample in frames]))
            masks = torch.stack([decode_parsing(sample.parsing or b"") for sample in frames])
            assert torch.equal(batch.parsing[place], masks)
            assert batch.person[place] == index.person[rows[0]]
            assert batch.clothes[place] == index.clothes[rows[0]]


def test_resuming_at_a_batch_gives_the_tail(dataset: Dataset) -> None:
    found = plan(dataset, window=2)
    whole = list(stream(dataset).epoch(found))
    for first in (1, found.num_batches - 1, found.num_batches):
        same(list(stream(dataset).epoch(found, first_batch=first)), whole[first:])
    tail = list(stream(dataset).epoch(found, first_batch=3, worker=1, workers=2))
    assert [batch.rows.tolist() for batch in tail] == [batch.rows[12:].tolist() for batch in whole[3:]]


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_with_a_window_the_cluster_reads_each_row_group_once(dataset: Dataset, workers: int) -> None:
    places = dataset.index("train").groups
    for epoch in range(3):
        found = plan(dataset, window=2, epoch=epoch)
        read: Counter[int] = Counter()
        num_bytes = 0
        for worker in range(workers):
            watched = Watched(dataset)
            room = 3 * max(place.length for place in places) * 4 // workers  # the window and one coming, for each lane
            ours = stream(watched, cache_bytes=room)
            for _ in ours.epoch(found, worker=worker, workers=workers):
                pass
            read.update(watched.read)
            num_bytes += ours.stats.bytes_read
            assert ours.stats.groups_reread == 0
            assert ours.stats.groups_read == len(watched.read)
        assert set(read.values()) == {1}
        used = set(dataset.index("train").group[found.rows.ravel()].tolist())
        assert set(read) == used
        assert num_bytes == sum(places[group].length for group in used)


@pytest.mark.parametrize("cache_bytes", [1, 40_000, 120_000])
def test_a_small_cache_reads_again_but_delivers_the_same(dataset: Dataset, cache_bytes: int) -> None:
    found = plan(dataset)
    small = [stream(dataset, cache_bytes=cache_bytes, threads=threads) for threads in (1, 3)]
    for ours in small:
        same(list(ours.epoch(found)), list(stream(dataset).epoch(found)))
        assert ours.stats.groups_reread > 0
    assert small[0].stats.groups_read == small[1].stats.groups_read  # not a matter of timing


def test_the_cache_stays_from_epoch_to_epoch_and_goes_with_close(dataset: Dataset) -> None:
    ours = stream(dataset)
    for epoch in range(3):
        list(ours.epoch(plan(dataset, epoch=epoch)))
    assert ours.stats.groups_read == len(dataset.index("train").groups)
    ours.close()
    list(ours.epoch(plan(dataset)))
    assert ours.stats.groups_read == 2 * len(dataset.index("train").groups)


def test_no_more_encoded_bytes_are_alive_than_the_cache_holds(dataset: Dataset) -> None:
    """At any size: cached row groups fit the cache, and each reading thread has one more."""
    places = dataset.index("train").groups
    largest = max(place.length for place in places)
    for cache_bytes in (3 * largest, 6 * largest):
        watched = Watched(dataset)
        for _ in stream(watched, cache_bytes=cache_bytes, threads=2).epoch(plan(dataset)):
            time.sleep(0.001)
        assert watched.most_alive <= cache_bytes + 2 * largest
        assert watched.most_alive > watched.largest


def test_delivered_batches_are_let_go_while_their_row_groups_stay(dataset: Dataset) -> None:
    ours = stream(dataset)
    gc.freeze()  # what was there before need not be looked through for every batch
    try:
        for _ in ours.epoch(plan(dataset)):
            gc.collect()
            assert sum(type(thing) is PendingBatch for thing in gc.get_objects()) <= BATCHES_AHEAD + 1
    finally:
        gc.unfreeze()
    assert ours.stats.groups_reread == 0


def test_a_store_that_fails_is_reported_with_the_row_group(dataset: Dataset) -> None:
    watched = Watched(dataset, fail_at=5)
    with pytest.raises(StoreError, match="out of reach") as raised:
        list(stream(watched).epoch(plan(dataset)))
    assert "row group" in "".join(raised.value.__notes__)
    assert threads_of_streams() == []


def test_closing_early_ends_all_threads(dataset: Dataset) -> None:
    batches = stream(dataset).epoch(plan(dataset))
    next(batches)
    assert threads_of_streams()
    batches.close()
    assert threads_of_streams() == []
    for _ in stream(dataset).epoch(plan(dataset)):
        break  # the iterator is let go of
    assert threads_of_streams() == []
    ours = stream(dataset)
    batches = ours.epoch(plan(dataset))
    next(batches)
    ours.close()
    assert threads_of_streams() == []
    with pytest.raises(RuntimeError, match="closed"):
        list(batches)


def test_the_consumers_own_error_ends_all_threads(dataset: Dataset) -> None:
    def consume() -> None:
        for batch in stream(dataset).epoch(plan(dataset)):
            raise ArithmeticError(batch.number)

    with pytest.raises(ArithmeticError):
        consume()
    assert threads_of_streams() == []


def test_waiting_is_counted(dataset: Dataset) -> None:
    slow, fast = stream(Watched(dataset, delay_s=0.05)), stream(dataset)
    waits = [batch.wait_s for batch in slow.epoch(plan(dataset))]
    assert waits[0] >= 0.05
    assert slow.stats.wait_s == pytest.approx(sum(waits))
    for _ in fast.epoch(plan(dataset)):
        time.sleep(0.01)
    assert fast.stats.wait_s < slow.stats.wait_s


def test_reading_goes_on_ahead_while_the_consumer_works(dataset: Dataset) -> None:
    watched = Watched(dataset)
    found = plan(dataset, window=2, lanes=1)
    batches = stream(watched).epoch(found)
    next(batches)
    deadline = time.monotonic() + 5
    while len(watched.read) < len(dataset.index("train").groups) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(watched.read) >= len(set(dataset.index("train").group[found.rows].ravel().tolist()))
    batches.close()
