"""A simulated data set of 100,000 images, planned whole and streamed in part; benchmarks/data/scale.py does ten million."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from datasets.format.index import SplitIndex
from datasets.sampling.chunks import num_chunks
from datasets.sampling.plan import Plan, plan_epoch
from datasets.sampling.samplers import SAMPLERS
from datasets.streaming.eviction import access_order, bytes_needed, schedule_evictions
from datasets.streaming.stream import Stream
from tests.datasets.sampling.simulated import FINGERPRINT, GROUP_BYTES, Simulated, rows_of, simulated_index

PEOPLE, IMAGES, LANES, WINDOW = 16, 4, 8, 3
samplers = pytest.mark.parametrize("sampler", SAMPLERS)


@pytest.fixture(scope="module")
def index() -> SplitIndex:
    return simulated_index(100_000, 5_000, group_rows=250)


def plan(index: SplitIndex, sampler: str) -> Plan:
    return plan_epoch(
        index, FINGERPRINT, sampler=sampler, people=PEOPLE, images=IMAGES, window=WINDOW, lanes=LANES, seed=1, epoch=0,
        appearances=2 if sampler == "appearance" else None,
    )  # fmt: skip


@samplers
def test_batches_are_p_times_k_and_images_are_used_as_promised(index: SplitIndex, sampler: str) -> None:
    found = plan(index, sampler)
    who = index.person[found.rows].reshape(-1, IMAGES)
    assert (who == who[:, :1]).all()
    counts, drawn = np.bincount(index.person), np.bincount(who[:, 0], minlength=5_000)
    possible = num_chunks(counts, IMAGES)
    assert (drawn <= possible).all()
    assert drawn.sum() > 0.97 * possible.sum()  # the tail: lanes over units
    times = np.bincount(found.rows.ravel(), minlength=len(index))
    if sampler != "appearance":
        assert times[counts[index.person] >= IMAGES].max() == 1
    first = np.concatenate([[0], np.cumsum(counts)[:-1]])
    off = times - (drawn * IMAGES / counts)[index.person]
    for half in (0, 1):  # of a person's images in stored order
        ours = (2 * (np.arange(len(index)) - first[index.person]) // counts[index.person]) == half
        assert abs(off[ours].sum()) < 5 * np.sqrt((off[ours] ** 2).sum())


@samplers
@pytest.mark.parametrize("workers", [1, 2, 4, 8])
def test_all_workers_together_read_each_row_group_once_with_a_cache_for_the_window(
    index: SplitIndex, sampler: str, workers: int
) -> None:
    found, lengths = plan(index, sampler), [place.length for place in index.groups]
    room = (WINDOW + 1) * LANES // workers * GROUP_BYTES
    read: list[int] = []
    for worker in range(workers):
        order = access_order(index.group, found.share(worker, workers))
        assert bytes_needed(order, lengths) <= room
        read += [access.group for access in schedule_evictions(order, lengths, room) if not access.is_cached]
    assert sorted(read) == np.unique(index.group[found.rows]).tolist()


@samplers
def test_what_is_streamed_is_what_is_planned(index: SplitIndex, sampler: str) -> None:
    found = plan(index, sampler)
    for worker, workers, first in ((0, 1, 0), (3, 8, 40)):
        stream = Stream(Simulated(index), "train", parsing=False, size=(1, 1), threads=2, cache_bytes=1 << 30)
        for batch in islice(stream.epoch(found, first_batch=first, worker=worker, workers=workers), 30):
            assert batch.rows.tolist() == found.share(worker, workers)[batch.number].tolist()
            assert (rows_of(batch.images.numpy()) == batch.rows.numpy()).all()
        stream.close()
        assert stream.stats.groups_reread == 0
