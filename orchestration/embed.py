"""Embedding a data set's evaluation splits: a Ray Data job whose actors read through `datasets.shards`.

Work is cut into (split, row group) items. An actor writes each item's features as one Parquet file, so a second run over
the same folder goes on where the first stopped.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from datasets.augment import prepare, prepare_parsing
from datasets.decode import decode_image, decode_parsing
from datasets.shards import Dataset, SplitIndex
from datasets.store import Store, open_store
from methods.ranking import describe
from orchestration import assembly, checkpoint
from orchestration.experiment import Experiment


@dataclass(frozen=True)
class EmbeddingJob:
    """What every actor is told. `flip`: average the views x and flipped x; `batch`: images per forward pass."""

    model: str
    data: str
    destination: str
    batch: int
    flip: bool
    threads: int
    gpu: bool


class Embedder:
    """One actor: a method in evaluation mode, applied to one row group at a time."""

    def __init__(self, job: EmbeddingJob) -> None:
        torch.set_num_threads(job.threads)
        self.job = job
        self.device = torch.device("cuda" if job.gpu else "cpu")
        found = checkpoint.find(job.model)
        self.experiment = Experiment.from_resolved(found.experiment)
        self.augmentation = assembly.build_augmentation(self.experiment)
        self.method = assembly.build_method(self.experiment, found.facts)
        checkpoint.load_method_state(self.method, found)
        self.method.to(self.device).eval()
        self.dataset = Dataset.open(job.data)
        self.indexes: dict[str, SplitIndex] = {}
        self.store = open_store(job.destination)

    def __call__(self, items: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        rows = [self.embed_group(str(s), int(g)) for s, g in zip(items["split"], items["group"], strict=True)]
        return {**items, "rows": np.array(rows, dtype=np.int64)}

    def embed_group(self, split: str, group: int) -> int:
        path = feature_path(split, group)
        if split not in self.indexes:
            self.indexes[split] = self.dataset.index(split)
        index = self.indexes[split]
        rows = np.flatnonzero(index.group == group)
        rows = rows[np.argsort(index.row_in_group[rows], kind="stable")]
        if self.store.exists(path):
            return len(rows)
        columns = ("image", "parsing") if "parsing" in self.method.inputs else ("image",)
        table = self.dataset.read_group(split, group, columns)
        parts = [self.embed_batch(table, start) for start in range(0, len(rows), self.job.batch)]
        features = torch.cat(parts).numpy()
        buffer = io.BytesIO()
        column = pa.FixedSizeListArray.from_arrays(pa.array(features.reshape(-1)), features.shape[1])
        pq.write_table(pa.table({"row": pa.array(rows), "feature": column}), buffer)
        self.store.write(path, buffer.getvalue())
        return len(rows)

    @torch.inference_mode()
    def embed_batch(self, table: pa.Table, start: int) -> Tensor:
        """Descriptors of the group's next images: float32 [b, D], L2-normalised, on the CPU."""
        part = table.slice(start, self.job.batch)
        dtype = assembly.input_dtype(self.experiment)
        images = torch.cat([self.prepared(data.as_py(), dtype) for data in part["image"]]).to(self.device)
        if "parsing" not in self.method.inputs:
            return describe(self.method.embed, images, flip=self.job.flip).float().cpu()
        maps = [decode_parsing(data.as_py())[None] for data in part["parsing"]]
        parsing = torch.cat([prepare_parsing(m, self.augmentation) for m in maps]).to(self.device)
        return describe(self.method.embed, images, parsing, flip=self.job.flip).float().cpu()

    def prepared(self, data: bytes, dtype: torch.dtype) -> Tensor:
        return prepare(decode_image(data)[None], self.augmentation, dtype)


def feature_path(split: str, group: int) -> str:
    return f"{split}/{group:06d}.parquet"


def embed(
    job: EmbeddingJob,
    splits: list[str],
    *,
    actors: int,
    cpus: float,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write the features of every row of `splits` below `job.destination`, but for those that are there already.

    progress: called with images done and in all.
    """
    import ray.data

    dataset, store = Dataset.open(job.data), open_store(job.destination)
    items: list[dict[str, Any]] = []
    finished = total = 0
    for split in splits:
        written = set(store.list(split))
        for group, place in enumerate(dataset.index(split).groups):
            total += place.rows
            if feature_path(split, group) in written:
                finished += place.rows
            else:
                items.append({"split": split, "group": group})
    if progress:
        progress(finished, total)
    if not items:
        return
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    done = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        Embedder,
        fn_constructor_args=(job,),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=max(1, min(actors, len(items)))),
        num_cpus=cpus,
        num_gpus=1 if job.gpu else 0,
    )
    for batch in done.iter_batches(batch_size=1, prefetch_batches=0):
        finished += int(batch["rows"].sum())
        if progress:
            progress(finished, total)


def load_features(store: Store, split: str, num_rows: int) -> Tensor:
    """Features of one split in the order of its index: float32 [num_rows, D].

    Raises: RuntimeError where a row has none.
    """
    features: np.ndarray | None = None
    seen = np.zeros(num_rows, dtype=bool)
    for path in store.list(split):
        table = pq.read_table(io.BytesIO(store.read(path)))
        rows = table["row"].to_numpy()
        flat = table["feature"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        values = flat.reshape(len(rows), -1)
        if features is None:
            features = np.empty((num_rows, values.shape[1]), dtype=np.float32)
        features[rows] = values
        seen[rows] = True
    if features is None or not seen.all():
        raise RuntimeError(
            f"{store.address}: {int((~seen).sum())} of {num_rows} rows of split {split!r} have no features. "
            "Delete the folder and evaluate again."
        )
    return torch.from_numpy(features)
