"""Embedding a data set's evaluation splits: a Ray Data job whose actors read through `datasets.shards.dataset`.

A task is a (split, row group) pair: the images of the group, or the tracklets that begin in it. The features of each
task become one Parquet file, so a second run over the same folder continues where the first stopped. A few images on a CPU
are embedded in this process: they are done before actors would have started.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from datasets.format.tracklets import Tracklets, find_tracklets
from datasets.images.augment import Augmentation, preprocess, preprocess_parsing
from datasets.images.cues import CUES, CueName, mean_colour, show
from datasets.images.decode import decode_image, decode_parsing
from datasets.images.label_maps import LABEL_MAPS
from datasets.protocols.protocols import middle_frames
from datasets.sampling.clips import test_clips
from datasets.shards.dataset import Dataset, SplitIndex
from datasets.storage.store import Store, open_store
from methods.method import Method
from methods.ranking import describe, describe_tracks
from orchestration import cluster
from orchestration.config import build
from orchestration.config.load import Experiment
from orchestration.config.settings import ResourceSettings
from orchestration.config.stored import trained_model
from orchestration.engine import checkpoint

IN_PROCESS = 512  # images


@dataclass(frozen=True)
class EmbeddingJob:
    """What to embed by which model, and where to. `batch`: images per forward pass. `flip`: add mirror images' embeddings.

    clip: frames and stride of the clips that tracklets are cut into; None embeds image by image. cues: embed each image
    once more for each of these cues, reduced to what the cue shows.
    """

    model: str
    data: str
    destination: str
    batch: int
    flip: bool
    clip: tuple[int, int] | None
    threads: int
    gpu: bool = False
    cues: tuple[CueName, ...] = ()


class Embedder:
    """A method in evaluation mode, applied to one row group's images or tracklets at a time.

    in_training: the experiment and the method, on its device, of a running training; by default the job's `model` is read.
    """

    def __init__(self, job: EmbeddingJob, in_training: tuple[Experiment, Method] | None = None) -> None:
        torch.set_num_threads(job.threads)
        self.job = job
        self.device = torch.device("cuda" if job.gpu else "cpu")
        self.experiment, self.method = in_training or read_model(job.model)
        self.augmentation = build.build_augmentation(self.experiment)
        self.method.to(self.device).eval()
        self.dataset = Dataset.open(job.data)
        self.render = self.renderer_of(None)
        self.tasks: dict[str, EmbedTasks] = {}
        self.store = open_store(job.destination)

    def __call__(self, items: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        each = zip(items["split"], items["group"], items["cue"], strict=True)
        rows = [self.embed_group(str(split), int(group), cue or None) for split, group, cue in each]
        return {**items, "rows": np.array(rows, dtype=np.int64)}

    def embed_group(self, split: str, group: int, cue: CueName | None = None) -> int:
        """Write the descriptors of the images, or of the tracklets that begin, in a row group; returns how many images."""
        self.render = self.renderer_of(cue)
        if split not in self.tasks:
            self.tasks[split] = split_into_tasks(self.dataset.index(split), self.job.clip)
        tasks, path = self.tasks[split], feature_path(split, group, cue)
        if not self.store.exists(path):
            rows, features = (self.embed_images if self.job.clip is None else self.embed_tracklets)(tasks, group)
            buffer = io.BytesIO()
            column = pa.FixedSizeListArray.from_arrays(pa.array(features.numpy().reshape(-1)), features.shape[1])
            pq.write_table(pa.table({"row": pa.array(rows), "feature": column}), buffer)
            self.store.write(path, buffer.getvalue())
        return tasks.images[group]

    def renderer_of(self, cue: CueName | None) -> CueRenderer:
        return CueRenderer(self.dataset, self.augmentation, cue, with_masks="parsing" in self.method.inputs)

    @torch.inference_mode()
    def embed_images(self, tasks: EmbedTasks, group: int) -> tuple[np.ndarray, Tensor]:
        """Rows int64 [n], and descriptors float32 [n, D]."""
        table = self.dataset.read_group(tasks.index.split, group, self.render.columns)
        batches = (table.slice(at, self.job.batch).to_pylist() for at in range(0, len(table), self.job.batch))
        features = [describe(self.method.embed, *self.inputs(batch), flip=self.job.flip) for batch in batches]
        rows = np.flatnonzero(tasks.index.group == group)
        return rows[np.argsort(tasks.index.row_in_group[rows], kind="stable")], torch.cat(features).float().cpu()

    @torch.inference_mode()
    def embed_tracklets(self, tasks: EmbedTasks, group: int) -> tuple[np.ndarray, Tensor]:
        """Rows of the tracklets' middle frames int64 [n], and the mean of their clips float32 [n, D]."""
        assert tasks.tracklets is not None
        length, stride = cast("tuple[int, int]", self.job.clip)
        features, bounds = [], [0]
        chosen = np.flatnonzero(tasks.index.group[tasks.tracklets.first[:-1]] == group)
        read = GroupReader(self.dataset, tasks.index, self.render.columns)
        for tracklet in chosen.tolist():
            rows = tasks.tracklets.rows[tasks.tracklets.first[tracklet] : tasks.tracklets.first[tracklet + 1]]
            frames = read(rows)
            clips = test_clips(len(rows), length, stride)  # [C, length]
            for some in np.split(clips, range(0, len(clips), max(1, self.job.batch // length))[1:]):
                inputs = self.inputs([frames[frame] for frame in some.ravel()])
                features.append(self.method.embed(*(x.unflatten(0, some.shape) for x in inputs)))
            bounds.append(bounds[-1] + len(clips))
        spans = torch.tensor([bounds[:-1], bounds[1:]]).T
        return middle_frames(tasks.tracklets)[chosen], describe_tracks(torch.cat(features), spans).float().cpu()

    def inputs(self, encoded: list[dict[str, bytes]]) -> list[Tensor]:
        """What `embed` takes: images [n, 3, H, W] and, where the method needs them, parsing maps [n, H, W]."""
        dtype = build.input_dtype(self.experiment)
        rendered = [self.render(one) for one in encoded]
        made = [torch.cat([preprocess(image, self.augmentation, dtype) for image, _ in rendered]).to(self.device)]
        if "parsing" in self.method.inputs:
            maps = [preprocess_parsing(mask, self.augmentation) for _, mask in rendered if mask is not None]
            made.append(torch.cat(maps).to(self.device))
        return made


class CueRenderer:
    """Renders a data set's stored images as a model sees them: whole, or reduced to a cue. `columns`: those that it reads."""

    def __init__(
        self, dataset: Dataset, augmentation: Augmentation, cue: CueName | None, *, with_masks: bool = False
    ) -> None:
        label_map = dataset.manifest.label_map
        self.labels = LABEL_MAPS[label_map] if label_map else None
        self.cue = CUES[cue] if cue else None
        self.colour = mean_colour(augmentation.mean)
        needs_masks = with_masks or (self.cue is not None and self.cue.by_masks)
        self.columns = ("image", "parsing") if needs_masks else ("image",)

    def __call__(self, encoded: dict[str, bytes]) -> tuple[Tensor, Tensor | None]:
        """An image uint8 [1, 3, h, w] and, where that column is read, its mask uint8 [1, h, w]."""
        image = decode_image(encoded["image"])[None]
        mask = decode_parsing(encoded["parsing"])[None] if "parsing" in self.columns else None
        return (image, mask) if self.cue is None else show(self.cue, image, mask, self.labels, self.colour)


def read_model(address: str) -> tuple[Experiment, Method]:
    """The experiment and the method of the checkpoint at `address`."""
    return trained_model(checkpoint.find(address))


@dataclass(frozen=True)
class EmbedTasks:
    """The tasks of a split: the images of each row group, or of the tracklets that begin in it."""

    index: SplitIndex
    images: dict[int, int]  # row group → number of images
    tracklets: Tracklets | None = None


def split_into_tasks(index: SplitIndex, clip: tuple[int, int] | None) -> EmbedTasks:
    """Raises: DataError where `clip` asks for tracklets and rows have no sequence or frame."""
    if clip is None:
        return EmbedTasks(index, {group: place.rows for group, place in enumerate(index.groups)})
    tracklets = find_tracklets(index)
    images = np.bincount(index.group[tracklets.first[:-1]], np.diff(tracklets.first), minlength=len(index.groups))
    return EmbedTasks(index, {group: int(count) for group, count in enumerate(images) if count}, tracklets)


class GroupReader:
    """Encoded images by rows of the index. Caches the last row group: neighbouring rows lie together."""

    def __init__(self, dataset: Dataset, index: SplitIndex, columns: tuple[str, ...]) -> None:
        self.dataset, self.index, self.columns = dataset, index, columns
        self.last: tuple[int, pa.Table] | None = None

    def __call__(self, rows: np.ndarray) -> list[dict[str, bytes]]:
        """The columns of the given rows (int64 [n]), in their order."""
        found: dict[int, dict[str, bytes]] = {}
        for group in np.unique(self.index.group[rows]).tolist():
            if self.last is None or self.last[0] != group:
                self.last = None  # before the next is read
                self.last = group, self.dataset.read_group(self.index.split, group, self.columns)
            inside = rows[self.index.group[rows] == group]
            taken = self.last[1].take(pa.array(self.index.row_in_group[inside])).to_pylist()
            found |= dict(zip(inside.tolist(), taken, strict=True))
        return [found[row] for row in rows.tolist()]


def feature_path(split: str, group: int, cue: CueName | None = None) -> str:
    return f"{feature_folder(split, cue)}/{group:06d}.parquet"


def feature_folder(split: str, cue: CueName | None = None) -> str:
    """The folder of a split's descriptors: of whole images, or of images reduced to a cue."""
    return f"{cue}/{split}" if cue else split


def embed(
    job: EmbeddingJob,
    splits: list[str],
    *,
    workers: Sequence[int],
    resources: ResourceSettings,
    progress: Callable[[int, int], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> None:
    """Write the features of every image (or tracklet) of `splits` below `job.destination`, except those already there.

    Features of a cue lie in a folder of its name. At most `IN_PROCESS` images without a GPU are embedded in this process,
    others by actors on Ray: as many as fit, from the first of `workers` to the last. progress: called with the number of
    finished images and of all. say: reports that Ray starts.
    """
    items, finished, total = tasks_to_do(job, splits)
    if progress:
        progress(finished, total)
    if not items:
        return
    if cluster.is_remote():
        cluster.connect(say)
    job = replace(job, gpu=cluster.use_gpu(workers[0], resources))
    if total - finished <= IN_PROCESS and not job.gpu:
        each = embed_here(job, items)
    else:
        cluster.connect(say)
        each = embed_on_ray(job, items, workers, resources.cpus)
    for images in each:
        finished += images
        if progress:
            progress(finished, total)


def tasks_to_do(job: EmbeddingJob, splits: list[str]) -> tuple[list[dict[str, Any]], int, int]:
    """The tasks without a file of features, the number of images that have one, and of all images."""
    dataset, store = Dataset.open(job.data), open_store(job.destination)
    items: list[dict[str, Any]] = []
    finished = total = 0
    whole: tuple[CueName | None, ...] = (None, *job.cues)
    for split, cue in product(splits, whole):
        written = set(store.list(feature_folder(split, cue)))
        for group, images in split_into_tasks(dataset.index(split), job.clip).images.items():
            total += images
            if feature_path(split, group, cue) in written:
                finished += images
            else:
                items.append({"split": split, "group": group, "cue": cue or ""})
    return items, finished, total


def embed_here(job: EmbeddingJob, items: list[dict[str, Any]]) -> Iterator[int]:
    """Embed the tasks one after the other; yields the number of images of each."""
    threads = torch.get_num_threads()
    try:
        embedder = Embedder(job)
        for item in items:
            yield embedder.embed_group(item["split"], item["group"], item["cue"] or None)
    finally:
        torch.set_num_threads(threads)


def embed_on_ray(job: EmbeddingJob, items: list[dict[str, Any]], actors: Sequence[int], cpus: float) -> Iterator[int]:
    """Embed the tasks by actors of `cpus` CPUs each, from the first number of them up to the last; yields the number of images
    of each task, as they finish."""
    import ray.data

    cluster.quiet_logs()  # importing ray.data resets its log levels
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    fewest, most = (min(number, len(items)) for number in (actors[0], actors[-1]))
    done = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        Embedder,
        fn_constructor_args=(job,),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(min_size=fewest, max_size=most),
        num_cpus=cpus,
        num_gpus=1 if job.gpu else 0,
    )
    for batch in done.iter_batches(batch_size=1, prefetch_batches=0):
        yield int(batch["rows"].sum())


@dataclass(frozen=True)
class Descriptors:
    """L2-normalised features of a split, and the rows of the index that they describe."""

    rows: np.ndarray  # int64 [S], ascending
    features: Tensor  # float32 [S, D]

    def of(self, rows: np.ndarray) -> Tensor:
        """float32 [n, D] of the given rows; no copy where these are all rows."""
        if len(rows) == len(self.rows):
            return self.features
        return self.features[torch.from_numpy(np.searchsorted(self.rows, rows))]


def load_features(store: Store, split: str, rows: np.ndarray, cue: CueName | None = None) -> Descriptors:
    """The features of a split's `rows` (int64, ascending), of whole images or of a cue.

    Raises: RuntimeError where a row has none.
    """
    features: np.ndarray | None = None
    seen = np.zeros(len(rows), dtype=bool)
    for path in store.list(feature_folder(split, cue)):
        table = pq.read_table(io.BytesIO(store.read(path)))
        places = np.searchsorted(rows, table["row"].to_numpy())
        flat = table["feature"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        values = flat.reshape(len(places), -1)
        if features is None:
            features = np.empty((len(rows), values.shape[1]), dtype=np.float32)
        features[places] = values
        seen[places] = True
    if features is None or not seen.all():
        raise RuntimeError(
            f"{store.address}: {int((~seen).sum())} of {len(rows)} rows of split {split!r} have no features. "
            "Delete the folder and evaluate again."
        )
    return Descriptors(rows, torch.from_numpy(features))
