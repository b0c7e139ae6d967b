"""Streaming from object storage against local files, same data, same run: `python -m benchmarks.data.store [--json]`.

The store is OpenStack Swift with its S3 API on loopback, one process per kind of server. It takes its CPU time (a row group
passes through three of its processes) from the same cores that decode, so the ratio of wall times is the lowest that a
network without cost could show. Requests and bytes are counted by a proxy in an epoch of their own, not the timed ones. Row
groups have 16 MB and images 15 kB, as in real data; a consumer copies each batch and continues.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.report import options, peak_gib, run
from datasets.format.schema import Sample
from datasets.sampling.plan import Plan, plan_epoch
from datasets.shards.dataset import Dataset, write_dataset
from datasets.shards.writer import ROW_GROUP_BYTES
from datasets.storage.disk_cache import DiskCache
from datasets.streaming.stream import Stream
from tests.servers.fault_proxy import Faults, fault_proxy
from tests.servers.swift import ObjectStore, swift

PEOPLE, IMAGES, LANES, WINDOW, CACHE, THREADS = 16, 4, 4, 2, 256 << 20, 2
NUM, SCATTERED, PER_PERSON, HEIGHT, WIDTH = 16_000, 2_000, 25, 256, 128
ROUNDS = 3
TARGETS: dict[str, tuple[str, float]] = {
    "S3 / local files, images/s": (">=", 0.9),
    "S3 / local files with 25 ms of training a batch": (">=", 0.9),
    "range requests per row group": ("<=", 1.0),
    "reads of each byte": ("<=", 1.0),
    "reads of each byte, window=all, two epochs, disk cache": ("<=", 1.0),
    "peak memory beyond the cache, GiB": ("<=", 1.0),
}


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--images", type=int, default=NUM)
    run(parser, TARGETS, figures, child=epoch)


def figures(args: argparse.Namespace) -> dict[str, float]:
    results: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        here = write(str(Path(folder) / "here"), args.images)
        with swift(Path(folder) / "swift") as store:
            store.create_bucket("reid")
            os.environ.update(store.environment)
            there = write("s3://reid/there", args.images)
            scattered = write("s3://reid/scattered", SCATTERED, row_group_bytes=1 << 20)
            results |= rates(here, there)
            results |= counts_with_cache(scattered, Path(folder) / "cache")
            results |= counts(store, there)
    return results


def write(address: str, num: int, row_group_bytes: int = ROW_GROUP_BYTES) -> str:
    """A data set of `num` crops of about 15 kB, 25 of each person, out of 64 different files."""
    say(f"writing {num} images to {address}")
    files = [crop(seed) for seed in range(64)]

    def samples() -> Iterator[Sample]:
        for number in range(num):
            person = f"{number // PER_PERSON:06d}"
            yield Sample(files[number % 64], None, person, "0", "A", None, None, f"{person}/{number}.jpg")

    write_dataset(
        address,
        {"train": samples()},
        name="bench",
        version="1",
        licence="drawn",
        label_map=None,
        protocol="general",
        row_group_bytes=row_group_bytes,
        overwrite=True,
    )
    return address


def crop(seed: int) -> bytes:
    """Smooth noise that takes about 15 kB as JPEG."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (HEIGHT // 4, WIDTH // 4, 3), dtype=np.uint8)
    image = np.asarray(Image.fromarray(small).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)).astype(np.int16)
    noisy = (image + rng.normal(0, 9, image.shape)).clip(0, 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(noisy).save(out, "JPEG", quality=90)
    return out.getvalue()


def plan(dataset: Dataset, number: int, window: int | str = WINDOW) -> Plan:
    return plan_epoch(
        dataset.index("train"),
        dataset.fingerprint,
        sampler="distinct",
        people=PEOPLE,
        images=IMAGES,
        window=window,  # type: ignore[arg-type]
        lanes=LANES,
        seed=1,
        epoch=number,
    )


def stream(dataset: Dataset, cache_bytes: int = CACHE) -> Stream:
    return Stream(dataset, "train", parsing=False, size=(HEIGHT, WIDTH), threads=THREADS, cache_bytes=cache_bytes)


def epoch(address: str, number: str, step_s: str) -> dict[str, float]:
    """One epoch in a process of its own: images/s after the first batch, CPU s, GiB at the peak."""
    dataset = Dataset.open(address)
    batches = stream(dataset).epoch(plan(dataset, int(number)))
    next(batches)
    began, cpu, num = time.perf_counter(), time.process_time(), 0
    for batch in batches:
        batch.images.clone()
        num += len(batch.rows)
        time.sleep(float(step_s))
    seconds, cpu_s = time.perf_counter() - began, time.process_time() - cpu
    return {"images/s": num / seconds, "CPU s": cpu_s, "GiB": peak_gib()}


def rates(here: str, there: str) -> dict[str, float]:
    """The best of several epochs, taken in turn: as fast as it goes, and with a device that computes meanwhile."""
    best: dict[tuple[str, str], float] = {}
    cpu: dict[str, float] = {}
    peak = 0.0
    for number in range(ROUNDS):
        for step_s in ("0", "0.025"):
            for address in (here, there):
                found = child(address, str(number), step_s)
                key = (address, step_s)
                say(f"round {number + 1} of {ROUNDS}, {address}, {step_s} s a step: {found['images/s']:.0f} images/s")
                best[key] = max(best.get(key, 0.0), found["images/s"])
                cpu[address] = min(cpu.get(address, 1e9), found["CPU s"])
                peak = max(peak, found["GiB"]) if address == there else peak
    results = {
        "local files, images/s": best[here, "0"],
        "S3, images/s": best[there, "0"],
        "S3 / local files, images/s": best[there, "0"] / best[here, "0"],
        "S3 / local files with 25 ms of training a batch": best[there, "0.025"] / best[here, "0.025"],
        "S3 / local files, images per CPU-s of the reader": cpu[here] / cpu[there],
    }
    return results | {"peak memory beyond the cache, GiB": peak - CACHE / 2**30}


def counts(store: ObjectStore, address: str) -> dict[str, float]:
    """Requests and bytes of an epoch with a window."""
    faults = Faults({})
    with fault_proxy(store, faults) as seen:
        os.environ.update(seen.environment)
        dataset = Dataset.open(address)
        faults.requests.clear()
        for _ in stream(dataset).epoch(plan(dataset, 0)):
            pass
        lengths = needed(dataset, plan(dataset, 0))
        return {
            "range requests per row group": faults.requests["GET"] / len(lengths),
            "all requests per row group": sum(faults.requests.values()) / len(lengths),
            "reads of each byte": dataset.store.stats.bytes / sum(lengths),
        }


def counts_with_cache(address: str, cache: Path) -> dict[str, float]:
    """Bytes of two epochs of the papers' sampler with room for few row groups in memory, without and with a disk cache."""
    results = {}
    for name, disk in (("", None), (", disk cache", DiskCache(cache, 8 << 30))):
        dataset = Dataset.open(address, disk_cache=disk)
        plans = [plan(dataset, number, "all") for number in range(2)]
        ours = stream(dataset, cache_bytes=8 << 20)
        for found in plans:
            for _ in ours.epoch(found):
                pass
        ours.close()
        read = dataset.store.stats.bytes / sum(needed(dataset, *plans))
        results[f"reads of each byte, window=all, two epochs{name}"] = read
    return results


def needed(dataset: Dataset, *plans: Plan) -> list[int]:
    """Lengths of the row groups that these plans draw from."""
    index = dataset.index("train")
    drawn = np.unique(np.concatenate([index.group[found.rows.ravel()] for found in plans]))
    return [index.groups[group].length for group in drawn.tolist()]


def child(*words: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.data.store", "--child", *words],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return json.loads(done.stdout)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
