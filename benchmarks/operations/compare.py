"""Comparing two registered models: `python -m benchmarks.operations.compare [--queries 3000] [--gallery 7000] [--json]`.

3,000 queries × 7,000 gallery images × 512 dimensions from stored descriptors, in the three modes of LTCC's protocol: ranking,
intervals of 2,000 resamples over queries and over persons, breakdowns, lists with their images, the page, tags, artifacts.
Grad-CAM of two narrow networks is part of it and listed separately, because wider networks take longer. Wall time on all
threads; beside it, what the same intervals take when resamples are drawn one by one.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F

from benchmarks.report import options, run
from datasets.format.schema import Sample
from datasets.shards.dataset import Dataset, write_dataset
from datasets.storage.store import open_store
from datasets.synthetic.dataset import render_dataset
from orchestration.config import build
from orchestration.config.load import Experiment, load
from orchestration.engine import checkpoint
from orchestration.engine.loop import TrainingProgress
from orchestration.engine.strategies.strategy import FullState
from orchestration.evaluation.embed import feature_path
from orchestration.evaluation.evaluate import CACHE_KEY, cache_key, open_for_evaluation
from orchestration.export.model_card import Provenance, write_card
from orchestration.registry.publish import Packed, create_version
from orchestration.registry.versions import CANDIDATE
from orchestration.review import bootstrap, review
from orchestration.tracking import mlflow_client, tracked_run

DIMENSIONS, PERSONS, CAMERAS, SEQUENCES = 512, 75, 12, 12
TARGETS = {"all of compare, s": ("<=", 10.0)}


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--queries", type=int, default=3_000)
    parser.add_argument("--gallery", type=int, default=7_000)
    run(parser, TARGETS, figures, threads=None)


def figures(args: argparse.Namespace) -> dict[str, float]:
    """Seconds by part."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
        data = render(Path(folder), args.queries, args.gallery)
        for noise, seed in ((4.0, 1), (3.6, 2)):
            register(Path(folder), data, noise, seed)
        client = mlflow_client.connect()
        client.set_registered_model_alias("model", "champion", "1")
        return measure(args.queries)


def measure(num_queries: int) -> dict[str, float]:
    seconds: dict[str, float] = {}
    with contextlib.ExitStack() as stack:
        for name, part in (
            ("load stored descriptors", (review.descriptors, "cached_descriptors")),
            ("rank, intervals, breakdowns", (review, "compare")),
            ("images of ranked lists", (review, "render_cases")),
            ("Grad-CAM of two narrow networks", (review, "render_explanations")),
            ("the page", (review, "write_page")),
            ("artifacts, tags, description", (review, "store_review")),
        ):
            stack.enter_context(timed(*part, seconds, name))
        start, began = time.perf_counter(), time.process_time()
        answer = review.review("model")
        whole, cpu = time.perf_counter() - start, time.process_time() - began
    assert answer["differences"]["clothes-changing/mAP"]["low"] > 0, answer
    values = np.random.default_rng(0).normal(size=(2, num_queries))
    ours = clock(lambda: bootstrap.mean_intervals(values, confidence=0.95, seed=0))
    results = {f"{name}, s": took for name, took in seconds.items()}
    results |= {"all of compare, s": whole, "all of compare, CPU s": cpu}
    return results | {
        "intervals of a mode, ms": 1000 * ours,
        "one by one over ours": clock(lambda: one_by_one(values)) / ours,
    }


def clock(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def one_by_one(values: np.ndarray) -> np.ndarray:
    """Each resample's queries looked up in a Python loop, as a first draft does it; a twentieth of them, times twenty."""
    random = np.random.default_rng(0)
    means: list[list[float]] = []
    for _ in range(20):
        means = []
        for _ in range(bootstrap.RESAMPLES // 20):
            drawn = random.choice(values.shape[1], values.shape[1])
            means.append([float(np.mean(row[drawn])) for row in values])
    return np.quantile(np.array(means), (0.025, 0.975), axis=0)


@contextmanager
def timed(owner: Any, name: str, seconds: dict[str, float], part: str) -> Iterator[None]:
    """Count what a function of a module takes."""
    function = getattr(owner, name)

    def measured(*words: Any, **options: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*words, **options)
        finally:
            seconds[part] = seconds.get(part, 0.0) + time.perf_counter() - start

    setattr(owner, name, measured)
    try:
        yield
    finally:
        setattr(owner, name, function)


def render(folder: Path, num_queries: int, num_gallery: int) -> str:
    """A data set of that many test images: the pictures of a rendered one, over and over, with labels of their own."""
    render_dataset(str(folder / "rendered"), preset="tiny", splits="ltcc", size=(128, 64))
    pictures = list(Dataset.open(str(folder / "rendered")).samples("train"))

    def samples(split: str, number: int, persons: int) -> Iterator[Sample]:
        for at in range(number):
            one, person = pictures[at % len(pictures)], at * persons // number
            sequence = (at * persons * SEQUENCES // number) % SEQUENCES
            clothes, camera = str(sequence // 4), f"{(sequence + 5 * (split == 'query')) % CAMERAS:02d}"
            labels = f"{person:04d}", clothes, camera, f"{sequence:02d}", str(at), f"{split}/{at:06d}.jpg"
            yield Sample(one.image, one.parsing, *labels)

    splits = {"train": samples("train", 200, 20)}
    splits |= {"query": samples("query", num_queries, PERSONS), "gallery": samples("gallery", num_gallery, PERSONS)}
    address = str(folder / "data")
    write_dataset(
        address, splits, name="large", version="1", licence="rendered", label_map="lip20", protocol="ltcc",
        row_group_bytes=8 << 20,
    )  # fmt: skip
    return address


def register(folder: Path, data: str, noise: float, seed: int) -> None:
    """A version whose run holds a checkpoint, and descriptors of every test image."""
    sizes = ["augment.height=128", "augment.width=64", "method.width=0.25"]
    experiment = load("baseline-demo", [f"data={data}", f"storage={folder / 'runs'}", f"seed={seed}", *sizes])
    dataset, protocol = open_for_evaluation(data)
    run = tracked_run.create_run(experiment.resolved(), dataset.fingerprint)
    address = save(experiment, dataset, run.storage)
    store = open_store(run.storage).sub("evaluation")
    key = cache_key(checkpoint.find(address), dataset, protocol, experiment.evaluate)
    store.write(CACHE_KEY, json.dumps(key, indent=1, sort_keys=True).encode())
    centres = torch.randn(PERSONS, DIMENSIONS, generator=torch.Generator().manual_seed(0))
    for number, index in enumerate(dataset.indexes("query", "gallery")):
        blur = torch.randn(len(index), DIMENSIONS, generator=torch.Generator().manual_seed(10 * seed + number))
        features = F.normalize(centres[torch.from_numpy(index.person) % PERSONS] + noise * blur, dim=1).numpy()
        for group in range(len(index.groups)):
            rows = np.flatnonzero(index.group == group)
            column = pa.FixedSizeListArray.from_arrays(pa.array(features[rows].reshape(-1)), DIMENSIONS)
            buffer = io.BytesIO()
            pq.write_table(pa.table({"row": pa.array(rows), "feature": column}), buffer)
            store.write(f"features/{feature_path(index.split, group)}", buffer.getvalue())
    run.finish("FINISHED")
    provenance = Provenance(run.run_id, checkpoint=address, data_fingerprint=dataset.fingerprint)
    card = write_card("model", provenance, size=(128, 64), dimensions=DIMENSIONS, inputs=("images",))
    client = mlflow_client.connect()
    logged = client.create_logged_model(client.get_run(run.run_id).info.experiment_id, source_run_id=run.run_id)
    packed = Packed("model", provenance, {"card": card.encode()}, (), ("images",), DIMENSIONS, attempt=run.run_id)
    version = create_version(client, packed, logged.model_id).version
    client.set_registered_model_alias("model", CANDIDATE, version)


def save(experiment: Experiment, dataset: Dataset, run: str) -> str:
    """A checkpoint of random weights."""
    facts = build.describe_data(dataset, dataset.index("train"))
    method = build.build_method(experiment, facts)
    state = FullState(method.state_dict(), {})
    store = open_store(run)
    at = TrainingProgress(1, 0, 1)
    return store.join(
        checkpoint.save(store, state, at, end_of_epoch=True, experiment=experiment.resolved(), facts=facts)
    )


if __name__ == "__main__":
    main()
