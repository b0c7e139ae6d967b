"""Parsing masks for a data set that has none: a Ray Data job whose actors write finished shards.

A record beside each finished shard says what it was made from, so a second run over the same destination continues where
the first stopped. The driver writes index and manifest when every shard is complete.
"""

from __future__ import annotations

import io
import json
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datasets.errors import CorruptData, DataError
from datasets.format.manifest import Manifest
from datasets.format.schema import Sample
from datasets.images.decode import DecodeError, decode_image
from datasets.parsing.parser import Parser
from datasets.parsing.rewrite import Piece, check, clear_destination, finish, is_finished, pieces, write_piece
from datasets.shards.dataset import Dataset
from datasets.storage.store import PATIENT, StoreError, open_store
from orchestration import cluster
from orchestration.errors import RequestError
from orchestration.parsing.counter import Counter
from orchestration.parsing.models import ParsingModel

Progress = Callable[[int, int, str], None]
SHOWN_PROBLEMS = 20
EVERY_S = 0.5
ANSWER_S = 5.0


@dataclass(frozen=True)
class ParsingJob:
    """The arguments of every actor. batch: images per forward pass; threads: cores of each actor."""

    dataset: Dataset
    pieces: tuple[Piece, ...]
    model: ParsingModel
    destination: str
    batch: int
    threads: int
    gpu: bool


@dataclass(frozen=True)
class ParseSettings:
    """How the job uses the cluster, and what it may overwrite.

    workers: number of actors; None: as many as the cluster has room for. cpus: cores of each actor. batch: images per
    forward pass. gpu: whether each actor has a GPU; None: where the cluster has one. overwrite: replace a data set at the
    destination. overwrite_masks: replace masks that the data set has already.
    """

    workers: int | None = None
    cpus: int = 2
    batch: int = 8
    gpu: bool | None = None
    overwrite: bool = False
    overwrite_masks: bool = False


@dataclass(frozen=True)
class Parsed:
    """The new data set's manifest, and the number of shards made now and of shards kept from an earlier run."""

    manifest: Manifest
    made: int
    kept: int


class ShardParser:
    """One actor: writes the shards that it is given, unless they are finished."""

    def __init__(self, job: ParsingJob, counter: Any) -> None:
        torch.set_num_threads(job.threads)
        self.job, self.counter = job, counter
        self.store = open_store(job.destination, retry=PATIENT)
        self.record = job.model.record()
        self.pool = ThreadPoolExecutor(job.threads)

    @cached_property
    def parser(self) -> Parser:
        """Loaded for the first shard to write; not at all where every shard is finished."""
        return self.job.model.open(gpu=self.job.gpu, threads=self.job.threads)

    def __call__(self, items: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns expected failures as an answer, not as an exception: Ray keeps no exception's type."""
        piece = self.job.pieces[int(items["piece"][0])]
        answer: dict[str, Any] = {"kept": False, "unreadable": [], "failure": None}
        try:
            answer["kept"] = self.is_kept(piece)
            if not answer["kept"]:
                write_piece(self.job.dataset, piece, self.store, self.record, self.masks)
        except DecodeError:
            answer["unreadable"] = list(unreadable(self.job.dataset, piece))
        except torch.cuda.OutOfMemoryError as error:
            answer["failure"] = (
                f"out of GPU memory with a batch of {self.job.batch} images ({error}). Set --batch lower"
            )
        except (CorruptData, DataError, StoreError, RequestError) as error:
            answer["failure"] = str(error)
        return {"answer": np.array([json.dumps(answer)])}

    def is_kept(self, piece: Piece) -> bool:
        kept = is_finished(piece, self.store, self.record)
        if kept:
            self.counter.add.remote("kept", piece.rows)
        return kept

    def masks(self, samples: list[Sample]) -> list[bytes]:
        """PNGs of a row group's masks. While the parser runs on one batch, threads decode the next and encode the last."""
        made: list[Future[bytes]] = []
        for images in self.batches(samples):
            made += [self.pool.submit(encode, mask) for mask in self.parser(images)]
            self.counter.add.remote("parsed", len(images))
        return [mask.result() for mask in made]

    def batches(self, samples: Sequence[Sample]) -> Iterator[list[Tensor]]:
        ahead: deque[list[Future[Tensor]]] = deque()
        for start in range(0, len(samples), self.job.batch):
            some = samples[start : start + self.job.batch]
            ahead.append([self.pool.submit(decode_image, sample.image, sample.key) for sample in some])
            if len(ahead) > 1:
                yield [image.result() for image in ahead.popleft()]
        while ahead:
            yield [image.result() for image in ahead.popleft()]


def encode(mask: Tensor) -> bytes:
    """uint8 [h, w] as a grey 8-bit PNG."""
    out = io.BytesIO()
    Image.fromarray(mask.numpy()).save(out, "PNG")
    return out.getvalue()


def unreadable(dataset: Dataset, piece: Piece) -> Iterator[str]:
    """An error message for each of a piece's images that cannot be decoded."""
    for group in piece.groups:
        rows = dataset.read_group(piece.split, group, ("image", "key"))
        for image, key in zip(rows["image"], rows["key"], strict=True):
            try:
                decode_image(image.as_py(), key.as_py())
            except DecodeError as error:
                yield str(error)


def parse(
    data: str,
    destination: str,
    model: ParsingModel,
    settings: ParseSettings | None = None,
    *,
    progress: Progress | None = None,
) -> Parsed:
    """Write the data set at `data` to `destination` with a mask for every image; rows, labels and order stay the same.

    progress: called with the number of finished images, of all images, and a note.
    Raises: RequestError before work starts, and at its end where images cannot be decoded (the message lists them; the
    other shards are finished and kept); RuntimeError where a shard was altered or cannot be read or written.
    """
    settings = settings or ParseSettings()
    cluster.check_address()
    try:
        dataset, store = Dataset.open(data), open_store(destination)
        check(dataset, store, overwrite=settings.overwrite, overwrite_masks=settings.overwrite_masks)
    except (DataError, StoreError) as error:
        raise RequestError(str(error)) from error
    cluster.connect()
    wanted = tuple(pieces(dataset))
    gpu = use_gpu(model, settings.gpu)
    workers = min(num_workers(settings.workers, settings.cpus, gpu), len(wanted))
    clear_destination(dataset, store)
    job = ParsingJob(dataset, wanted, model, store.address, settings.batch, settings.cpus, gpu)
    kept, problems = 0, list[str]()
    for answer in run(job, workers, progress):
        if answer["failure"]:
            raise RuntimeError(
                f"{answer['failure']}\nFinished shards at {destination} are kept. Parse again to continue."
            )
        kept += answer["kept"]
        problems += answer["unreadable"]
    if problems:
        raise RequestError(undecodable(problems, data, destination))
    return Parsed(finish(dataset, store, model.labels, model.record()), len(wanted) - kept, kept)


def undecodable(problems: list[str], data: str, destination: str) -> str:
    shown = "\n".join(f"  {problem}" for problem in problems[:SHOWN_PROBLEMS])
    more = f"\n  and {len(problems) - SHOWN_PROBLEMS} more" if len(problems) > SHOWN_PROBLEMS else ""
    return (
        f"{len(problems)} images of {data} cannot be decoded:\n{shown}{more}\n"
        "Fix them at their source and convert it again (--quarantine leaves them out), then parse again. Finished shards "
        f"at {destination} are kept."
    )


def use_gpu(model: ParsingModel, wanted: bool | None) -> bool:
    """Whether actors use a GPU. Raises: RequestError where `wanted` asks for one that cannot be used."""
    there = cluster.total("GPU") > 0
    if model.kind == "onnx":
        import onnxruntime

        if wanted and "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            raise RequestError(
                "--gpu true: this ONNX Runtime has no CUDA. Install onnxruntime-gpu, or use a .pt2 graph"
            )
        there = there and "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    if wanted and not there and not is_growing():
        raise RequestError(
            "--gpu true: the Ray cluster has no GPU. Omit --gpu, or set RAY_ADDRESS to a cluster that has one"
        )
    return there if wanted is None else wanted


def num_workers(workers: int | None, cpus: int, gpu: bool) -> int:
    """The number of actors. Raises: RequestError where the cluster can never hold them: Ray would wait forever."""
    room = int(cluster.total("CPU") // cpus)
    if gpu:
        room = min(room, int(cluster.total("GPU")))
    if (workers or 1) > room and not is_growing():
        raise RequestError(
            f"{workers or 1} workers of {cpus} CPUs{' and a GPU' * gpu} do not fit: the Ray cluster has "
            f"{cluster.total('CPU'):g} CPUs and {cluster.total('GPU'):g} GPUs. Set --workers or --cpus lower"
        )
    return workers or max(room, 1)


def is_growing() -> bool:
    """A cluster that this process did not start may scale up on demand."""
    return cluster.is_job() or bool(os.environ.get("RAY_ADDRESS"))


def run(job: ParsingJob, workers: int, progress: Progress | None) -> Iterator[dict[str, Any]]:
    """The actors' answers, in the order of completion."""
    import ray.data

    cluster.quiet_logs()  # importing ray.data resets its log levels
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    counter = ray.remote(num_cpus=0)(Counter).remote()
    items = [{"piece": number} for number in range(len(job.pieces))]
    done = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        ShardParser,
        fn_constructor_args=(job, counter),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=job.threads,
        num_gpus=1 if job.gpu else 0,
    )
    with watched(counter, sum(piece.rows for piece in job.pieces), progress):
        for answer in done.iter_batches(batch_size=1, prefetch_batches=0):
            yield json.loads(str(answer["answer"][0]))


@contextmanager
def watched(counter: Any, total: int, progress: Progress | None) -> Iterator[None]:
    """Report the number of parsed images to `progress` while shards are written: one may take an hour."""
    import ray

    ended = threading.Event()

    def report() -> None:
        counts = ray.get(counter.value.remote())
        if progress:
            kept = f"{counts['kept']} kept from an earlier run" if counts["kept"] else ""
            progress(min(sum(counts.values()), total), total, kept)

    def report_regularly() -> None:
        while not ended.wait(EVERY_S):
            report()

    thread = threading.Thread(target=report_regularly, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(ANSWER_S)  # of a cluster that was lost there is none
    report()
