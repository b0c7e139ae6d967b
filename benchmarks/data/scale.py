"""Ten million images of 500,000 people, planned and streamed: `python -m benchmarks.data.scale [--json] [--part N]`.

The index is whole (six int64 labels a row); the images are made up when their row group is read, one pixel each that says
which row it is, in row groups that count as 16 MB. Everything is checked on the way: a wrong image, a batch that is not
P × K, or a person drawn too often ends the benchmark. Seconds are CPU time; each sampler has a process of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from itertools import islice

import numpy as np
import torch

from benchmarks.report import options, peak_gib, show
from datasets.format.index import SplitIndex
from datasets.sampling.chunks import num_chunks
from datasets.sampling.plan import Plan, plan_epoch
from datasets.sampling.samplers import SAMPLERS
from datasets.streaming.eviction import access_order, bytes_needed, schedule_evictions
from datasets.streaming.stream import Stream
from tests.datasets.sampling.simulated import FINGERPRINT, GROUP_BYTES, Simulated, rows_of, simulated_index

ROWS, PERSONS = 10_000_000, 500_000
PEOPLE, IMAGES, LANES, WINDOW = 16, 4, 8, 8
WORKERS = (1, 2, 4, 8)
PARTS = 32  # of a person's images, in stored order, over which use is compared
TARGETS: dict[str, tuple[str, float]] = {
    "plan, s": ("<=", 30.0),
    "plan, GiB at the peak": ("<=", 2.0),
    "use of a person's images, standard deviations off": ("<=", 5.0),
} | {f"reads of each byte, {workers} workers": ("<=", 1.0) for workers in WORKERS}


def main() -> None:
    """Print each figure beside its target."""
    parser = options(__doc__)
    parser.add_argument("--part", type=int, default=64, help="stream 1 / N of the epoch with each number of workers")
    parser.add_argument("--child", choices=SAMPLERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.child:
        print(json.dumps(measure(args.child, args.part)))
        return
    words = [sys.executable, "-m", "benchmarks.data.scale", "--part", str(args.part), "--child"]
    results = {
        sampler: json.loads(subprocess.run([*words, sampler], stdout=subprocess.PIPE, check=True, text=True).stdout)
        for sampler in SAMPLERS
    }
    if args.json:
        print(json.dumps(results))
        return
    for sampler, figures in results.items():
        show(figures, TARGETS, as_json=False, before=f"{sampler:11} ")


def measure(sampler: str, part: int) -> dict[str, float]:
    index = simulated_index(ROWS, PERSONS)
    results, before = {"index, GiB at the peak": peak_gib()}, time.process_time()
    plan = plan_epoch(
        index, FINGERPRINT, sampler=sampler, people=PEOPLE, images=IMAGES, window=WINDOW, lanes=LANES, seed=1, epoch=0,
        appearances=2 if sampler == "appearance" else None,
    )  # fmt: skip
    results |= {"plan, s": time.process_time() - before, "plan, GiB at the peak": peak_gib()}
    results |= frequencies(sampler, index, plan) | reads(index, plan)
    for workers in (1, 2, 8):
        results |= stream(index, plan, range(workers), workers, plan.num_batches // part)
    if sampler == "distinct":
        results |= stream(index, plan, [3], 8, plan.num_batches)
    return results | {"GiB at the peak of all": peak_gib()}


def frequencies(sampler: str, index: SplitIndex, plan: Plan) -> dict[str, float]:
    """Whether every batch is P × K, every person drawn as promised, and every image of a person equally often."""
    who = index.person[plan.rows].reshape(plan.num_batches, PEOPLE, IMAGES)
    check((who == who[:, :, :1]).all(), "a chunk of several persons")
    who = np.sort(who[:, :, 0], axis=1)
    check(sampler == "chunks" or (who[:, 1:] != who[:, :-1]).all(), "a batch that shows a person twice")
    counts, drawn = np.bincount(index.person), np.bincount(who.ravel(), minlength=PERSONS)
    possible = num_chunks(counts, IMAGES)
    check((drawn <= possible).all(), "a person drawn more often than there are images")
    times = np.bincount(plan.rows.ravel(), minlength=len(index))
    has_enough = counts[index.person] >= IMAGES
    check(sampler == "appearance" or times[has_enough].max() == 1, "an image drawn twice")
    off = times - (drawn * IMAGES / counts)[index.person]  # from the mean over its person
    place = PARTS * (np.arange(len(index)) - (np.cumsum(counts) - counts)[index.person]) // counts[index.person]
    num, total, square = (np.bincount(place, weight, PARTS) for weight in (None, off, off**2))
    deviations = np.abs(total / np.sqrt(np.maximum(square, 1e-9)))[num > 0]
    return {
        "use of a person's images, standard deviations off": float(deviations.max()),
        "chunks lost in the tail, share": 1 - drawn.sum() / possible.sum(),
        "rows never drawn, share": plan.never_drawn() / len(index),
    }


def reads(index: SplitIndex, plan: Plan) -> dict[str, float]:
    """Over the whole epoch: bytes that all workers read over the bytes of the row groups that they use, each with a
    cache for the window and one row group that comes, for each of its lanes."""
    lengths = [place.length for place in index.groups]
    used = len(np.unique(index.group[plan.rows]))
    results: dict[str, float] = {}
    for workers in WORKERS:
        orders = [access_order(index.group, plan.share(worker, workers)) for worker in range(workers)]
        needed = max(bytes_needed(order, lengths) for order in orders)
        num = sum(
            not access.is_cached for order in orders for access in schedule_evictions(order, lengths, room(workers))
        )
        results[f"cache needed by each of {workers} workers, GiB"] = needed / 2**30
        results[f"reads of each byte, {workers} workers"] = num / used
    return results


def stream(index: SplitIndex, plan: Plan, ours: range | list[int], workers: int, num: int) -> dict[str, float]:
    """The first `num` batches by these of the workers, one after the other, every image looked at."""
    before, images, groups, again = time.process_time(), 0, 0, 0
    for worker in ours:
        source = Simulated(index)
        reader = Stream(source, "train", parsing=False, size=(1, 1), threads=2, cache_bytes=room(workers), index=index)
        for batch in islice(reader.epoch(plan, worker=worker, workers=workers), num):
            check((rows_of(batch.images.numpy()) == batch.rows.numpy()).all(), "an image of another row")
            images += len(batch.rows)
        groups, again = groups + reader.stats.groups_read, again + reader.stats.groups_reread
        reader.close()
    name = f"streamed by {len(ours)} of {workers} workers"
    return {
        f"{name}, share of the epoch": images / plan.rows.size,
        f"{name}, images/s": images / (time.process_time() - before),
        f"{name}, row groups read": groups,
        f"{name}, of them again": again,
    }


def room(workers: int) -> int:
    return (WINDOW + 1) * LANES // workers * GROUP_BYTES


def check(is_so: bool | np.bool, otherwise: str) -> None:
    if not is_so:
        raise AssertionError(f"the stream is wrong: {otherwise}")


if __name__ == "__main__":
    main()
