"""The workers of a node on one index: `python -m benchmarks.data.index_per_node [--images N] [--workers W] [--json]`.

A data set of N images is made whose index is real and whose shards are empty files of the right size. W processes open it, as
workers do, and begin two epochs, first each with its own index and plan, then with those that the node shares. Images are one
pixel each, made up when their row group is read. A figure of memory is the proportional set size of all W together: a page
that n processes map counts 1 / n in each. Importing torch costs each process 0.3 GiB, whatever it trains on, which is shown
by itself. The digest of each worker's rows must be the same both ways.

`--images 10000000 --workers 8` is the size of the promise. Own copies of 8 workers would take 20 GiB then: `--own 2` has only
two of them, and their figure is scaled up.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import tempfile
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.report import options, peak_gib, run
from datasets.format.index import INDEX_GROUP_ROWS, INDEX_SCHEMA, SplitIndex
from datasets.format.manifest import INDEX, MANIFEST, Index, Manifest, Shard, Split
from datasets.sampling.plan import Plan, plan_epoch
from datasets.sampling.shared_plan import shared_plan
from datasets.shards.dataset import Dataset
from datasets.shards.writer import IndexWriter
from datasets.storage.shared_arrays import SharedArrays
from datasets.streaming.stream import Stream
from tests.datasets.sampling.simulated import GROUP_BYTES, Simulated, simulated_index

PER_PERSON = 20
GROUPS_PER_SHARD = 64
SETTINGS: dict[str, Any] = {"sampler": "distinct", "people": 16, "images": 4, "window": 8, "lanes": 8, "seed": 1}
TARGETS: dict[str, tuple[str, float]] = {
    "shared: index, plan and stream of all workers, GiB": ("<=", 2.5),
    "shared: start of an epoch, CPU s of the slowest": ("<=", 15.0),
    "workers whose rows differ": ("<=", 0.0),
}


def main() -> None:
    """Print each figure beside its target."""
    parser = options(__doc__)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=4, choices=(1, 2, 4, 8))
    parser.add_argument("--own", type=int, default=None, help="workers that hold own copies (default: all)")
    run(parser, TARGETS, measure)


def measure(args: argparse.Namespace) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "data")
        make_data(data, args.images)
        results = {"index.parquet, MiB": (data / INDEX).stat().st_size / 2**20}
        num_own = args.own or args.workers
        own = of_workers(data, None, num_own, args.workers)
        shared = of_workers(data, Path(folder, "shared"), args.workers, args.workers)
        for kind, found, scale in (("own", own, args.workers / num_own), ("shared", shared, 1.0)):
            results |= {
                f"{kind}: imports of all workers, GiB": scale * sum(one["pss at start"] for one in found) / 2**30,
                f"{kind}: index, plan and stream of all workers, GiB": scale
                * sum(one["pss"] - one["pss at start"] for one in found)
                / 2**30,
                f"{kind}: peak of the largest worker, GiB": max(one["peak"] for one in found),
                f"{kind}: index, s": max(one["index"][0] for one in found),
                f"{kind}: index, CPU s of all": scale * sum(one["index"][1] for one in found),
                f"{kind}: start of an epoch, s": max(one["epoch"][0] for one in found),
                f"{kind}: start of an epoch, CPU s of the slowest": max(one["epoch"][1] for one in found),
                f"{kind}: start of an epoch, CPU s of all": scale * sum(one["epoch"][1] for one in found),
            }
        differ = [one["digest"] != other["digest"] for one, other in zip(own, shared, strict=False)]
        kept = sum(path.stat().st_size for path in Path(folder, "shared").iterdir())
        return results | {"files that are shared, MiB": kept / 2**20, "workers whose rows differ": sum(differ)}


def of_workers(data: Path, shared: Path | None, num: int, workers: int) -> list[dict[str, Any]]:
    """What `num` of the workers measured, each step together with the others. Memory is measured while all hold theirs."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for worker in range(num):
        ours, theirs = context.Pipe()
        processes.append(context.Process(target=work, args=(theirs, str(data), shared, worker, workers)))
        processes[-1].start()
        pipes.append(ours)
    found: list[dict[str, Any]] = [{} for _ in pipes]
    for _ in ("imports", "index", "epoch", "epoch"):
        for pipe in pipes:
            pipe.send(None)
        for one, pipe in zip(found, pipes, strict=True):
            one |= pipe.recv()
        memory = [pss(process.pid) for process in processes]
        for one, num_bytes in zip(found, memory, strict=True):
            one.setdefault("pss at start", num_bytes)
            one["pss"] = num_bytes
    for pipe in pipes:
        pipe.send(None)
    for process in processes:
        process.join()
    return found


def work(pipe: Connection, data: str, folder: Path | None, worker: int, workers: int) -> None:
    """One worker's steps, each at a word of the parent."""
    import orchestration.training.worker  # noqa: F401  # what a worker imports

    pipe.recv()
    pipe.send({})
    pipe.recv()
    began = clocks()
    dataset = Dataset.open(data, shared=None if folder is None else SharedArrays(folder))
    index = dataset.index("train")
    pipe.send({"index": since(began)})
    stream = Stream(
        Simulated(index), "train", parsing=False, size=(1, 1), threads=2, cache_bytes=GROUP_BYTES, index=index
    )
    plan, digest = None, hashlib.sha256()
    for epoch in range(2):
        pipe.recv()
        began = clocks()
        plan = None  # before its successor takes memory
        plan = plan_of(dataset, index, epoch)
        batches = stream.epoch(plan, worker=worker, workers=workers)
        first = next(batches)
        taken = since(began)
        rows = plan.share(worker, workers)
        assert first.rows.tolist() == rows[0].tolist()
        for start in range(0, len(rows), 1 << 12):
            digest.update(rows[start : start + (1 << 12)].tobytes())
        pipe.send({"epoch": taken, "peak": peak_gib(), "digest": digest.hexdigest()})
        if epoch == 0:
            batches.close()  # type: ignore[attr-defined]
    pipe.recv()
    stream.close()


def plan_of(dataset: Dataset, index: SplitIndex, epoch: int) -> Plan:
    def make() -> Plan:
        return plan_epoch(index, dataset.fingerprint, epoch=epoch, **SETTINGS)

    return make() if dataset.shared is None else shared_plan(dataset.shared, f"{dataset.fingerprint} {epoch}", make)


def clocks() -> tuple[float, float]:
    """Seconds of the wall, and CPU seconds of this process."""
    return time.perf_counter(), time.process_time()


def since(began: tuple[float, float]) -> tuple[float, float]:
    return time.perf_counter() - began[0], time.process_time() - began[1]


def pss(pid: int | None) -> int:
    """Bytes of a process's proportional set size."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(text.split("\nPss:")[1].split()[0]) * 1024


def make_data(folder: Path, images: int) -> None:
    """A data set whose index is whole and whose shards hold nothing."""
    index = simulated_index(images, images // PER_PERSON)
    rows_of_group = np.array([place.rows for place in index.groups])
    shards = [
        Shard(f"train/{number:05d}.parquet", int(part.sum()), len(part), len(part) * GROUP_BYTES, "0" * 64)
        for number, part in enumerate(np.split(rows_of_group, range(GROUPS_PER_SHARD, len(rows_of_group), GROUPS_PER_SHARD)))
    ]  # fmt: skip
    for shard in shards:
        (folder / shard.path).parent.mkdir(parents=True, exist_ok=True)
        with (folder / shard.path).open("wb") as file:
            file.truncate(shard.bytes)
    writer = IndexWriter()
    for start in range(0, len(index), INDEX_GROUP_ROWS):
        writer.add(index_rows(index, slice(start, start + INDEX_GROUP_ROWS)))
    data = writer.close()
    (folder / INDEX).write_bytes(data)
    train = Split(len(index), images // PER_PERSON, int(index.clothes.max()) + 1, 8, 0, 0, tuple(shards), (1, 1))
    manifest = Manifest(
        "simulated", "1", "none", None, "market1501", {"train": train},
        Index(len(index), len(data), hashlib.sha256(data).hexdigest()),
    )  # fmt: skip
    (folder / MANIFEST).write_bytes(manifest.to_json())


def index_rows(index: SplitIndex, part: slice) -> pa.Table:
    """Rows of index.parquet."""
    group, row = index.group[part], index.row_in_group[part]
    person = numbered("p", index.person[part], 7)
    shard = numbered("train/", group // GROUPS_PER_SHARD, 5, ".parquet")
    is_first = (row == 0) & (group % GROUPS_PER_SHARD == 0)
    columns: Mapping[str, Any] = {
        "split": pa.array(["train"]).take(pa.array(np.zeros(len(group), np.int64))),
        "shard": shard,
        "group": pa.array((group % GROUPS_PER_SHARD).astype(np.int32)),
        "row": pa.array(row.astype(np.int32)),
        "offset": pa.array(group % GROUPS_PER_SHARD * GROUP_BYTES),
        "length": pa.array(np.full(len(group), GROUP_BYTES)),
        "sha256": numbered("", group, 64),
        "person": person,
        "clothes": numbered("c", index.clothes[part] % 3, 1),
        "camera": numbered("", row % 8, 1),
        "sequence": pa.nulls(len(group), pa.string()),
        "frame": pa.nulls(len(group), pa.string()),
        "key": pc.binary_join_element_wise("train", person, numbered("", np.arange(len(group)), 6, ".jpg"), "/"),
        "footer": pa.array([b"PAR1" * 250 if first else None for first in is_first.tolist()], pa.binary()),
    }
    return pa.table([columns[name] for name in INDEX_SCHEMA.names], schema=INDEX_SCHEMA)


def numbered(before: str, numbers: np.ndarray, digits: int, after: str = "") -> pa.Array:
    distinct, at = np.unique(numbers, return_inverse=True)
    texts = pa.array([f"{before}{number:0{digits}d}{after}" for number in distinct.tolist()], pa.string())
    return texts.take(pa.array(at))


if __name__ == "__main__":
    main()
