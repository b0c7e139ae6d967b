"""The stream's speed, memory and reads: `python -m benchmarks.data.stream [--json]`.

At ten million images: `benchmarks.data.scale`.

128×256 JPEGs in row groups of 1 MB. Rates are per core (CPU time of all threads), best of several rounds taken in turn
with the usual per-image pipeline. Peaks of memory are those of a process of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from benchmarks.data.augment import PAD, crops, usual
from benchmarks.report import options, peak_gib, run
from datasets.format.schema import Sample
from datasets.images.augment import augment, draw
from datasets.sampling.plan import Plan, plan_epoch
from datasets.shards.dataset import Dataset, write_dataset
from datasets.streaming.stream import Stream

PEOPLE, IMAGES, LANES, WINDOW, CACHE, GROUP = 16, 4, 8, 2, 32 << 20, 1 << 20
SMALL, LARGE = 4_000, 40_000
ROUNDS = 5
TARGETS: dict[str, tuple[str, float]] = {
    "stream and augment / usual": (">=", 2.0),
    "stream / usual": (">=", 8.0),
    "peak memory, 10x the data": ("<=", 1.1),
    "reads of each byte, 1 worker": ("<=", 1.0),
    "reads of each byte, 2 workers": ("<=", 1.0),
    "reads of each byte, 4 workers": ("<=", 1.0),
    "reads of each byte, 8 workers": ("<=", 1.0),
    "data wait, share of 0.3 s steps": ("<=", 0.03),
}


def main() -> None:
    run(options(__doc__), TARGETS, figures, child=lambda name, *args: CHILDREN[name](*args))


def figures(_: argparse.Namespace) -> dict[str, float]:
    results: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        small, large = (write(Path(folder) / str(num), num) for num in (SMALL, LARGE))
        results |= rates(small)
        results |= memory(small, large)
        results |= reads(small)
        results |= waiting(small)
    return results


def write(path: Path, num: int) -> str:
    """A data set of `num` images of 40 people per thousand, out of 64 different files."""
    files = crops(64)

    def samples() -> Iterator[Sample]:
        for number in range(num):
            person = f"{number // 25:06d}"
            yield Sample(files[number % 64], None, person, "0", "A", None, None, f"{person}/{number}.jpg")

    write_dataset(
        str(path),
        {"train": samples()},
        name="bench",
        version="1",
        licence="drawn",
        label_map=None,
        protocol="general",
        row_group_bytes=GROUP,
    )
    return str(path)


def plan(dataset: Dataset, epoch: int = 0, window: int | Literal["all"] = WINDOW) -> Plan:
    return plan_epoch(
        dataset.index("train"),
        dataset.fingerprint,
        sampler="distinct",
        people=PEOPLE,
        images=IMAGES,
        window=window,
        lanes=LANES,
        seed=1,
        epoch=epoch,
    )


def stream(dataset: Dataset, threads: int = 1) -> Stream:
    return Stream(dataset, "train", parsing=False, size=(384, 192), threads=threads, cache_bytes=CACHE)


def rates(address: str) -> dict[str, float]:
    """Images/s per core, from files on disk to the host's batch, to the finished batch, and as usual."""
    dataset = Dataset.open(address)
    files = crops(PEOPLE * IMAGES)

    def host(epoch: int) -> int:
        return sum(len(batch.rows) for batch in stream(dataset).epoch(plan(dataset, epoch)))

    def all_(epoch: int) -> int:
        num = 0
        for batch in stream(dataset).epoch(plan(dataset, epoch)):
            augment(batch.images, None, draw(PAD, len(batch.rows), (0, epoch, batch.number)), PAD)
            num += len(batch.rows)
        return num

    def as_usual(epoch: int) -> int:
        for _ in range(4):
            usual(files)
        return 4 * len(files)

    ways: dict[str, Callable[[int], int]] = {"usual": as_usual, "stream": host, "stream and augment": all_}
    best = dict.fromkeys(ways, 0.0)
    for number in range(ROUNDS):
        for name, way in ways.items():
            began = time.process_time()
            done = way(number)
            best[name] = max(best[name], done / (time.process_time() - began))
    found = {f"{name}, images/s per core": rate for name, rate in best.items()}
    return found | {f"{name} / usual": best[name] / best["usual"] for name in ("stream", "stream and augment")}


def memory(small: str, large: str) -> dict[str, float]:
    """Peaks of a process that streams one epoch, in MiB, and their ratio."""
    peaks = [child("stream_once", address)["MiB"] for address in (small, large)]
    return {
        "peak memory, small, MiB": peaks[0],
        "peak memory, large, MiB": peaks[1],
        "peak memory, 10x the data": peaks[1] / peaks[0],
    }


def reads(address: str) -> dict[str, float]:
    """Bytes read by all workers over the bytes of the row groups that the epoch uses."""
    dataset = Dataset.open(address)
    index, found = dataset.index("train"), plan(dataset)
    needed = sum(index.groups[group].length for group in np.unique(index.group[found.rows]).tolist())
    results = {"rows never drawn, share": found.never_drawn() / len(index)}
    results["rows never drawn, window=all, share"] = plan(dataset, window="all").never_drawn() / len(index)
    for workers in (1, 2, 4, 8):
        streams = [stream(dataset) for _ in range(workers)]
        for worker, ours in enumerate(streams):
            for _ in ours.epoch(found, worker=worker, workers=workers):
                pass
        name = f"reads of each byte, {workers} worker{'s' if workers > 1 else ''}"
        results[name] = sum(ours.stats.bytes_read for ours in streams) / needed
    return results


def waiting(address: str, steps: int = 25, step_s: float = 0.3) -> dict[str, float]:
    """The share of a busy consumer's time that it waits, after the first batch."""
    dataset = Dataset.open(address)
    ours = stream(dataset)
    batches = ours.epoch(plan(dataset))
    next(batches)
    began, waited = time.perf_counter(), 0.0
    weights = torch.randn(400, 400)
    for _ in range(steps):
        until = time.perf_counter() + step_s
        while time.perf_counter() < until:
            weights @ weights
        waited += next(batches).wait_s
    ours.close()
    return {"data wait, share of 0.3 s steps": waited / (time.perf_counter() - began)}


def child(*args: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.data.stream", "--child", *args],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return json.loads(done.stdout)


def stream_once(address: str) -> dict[str, float]:
    dataset = Dataset.open(address)
    for _ in stream(dataset, threads=2).epoch(plan(dataset)):
        pass
    return {"MiB": 1024 * peak_gib()}


CHILDREN: dict[str, Callable[..., dict[str, float]]] = {"stream_once": stream_once}

if __name__ == "__main__":
    main()
