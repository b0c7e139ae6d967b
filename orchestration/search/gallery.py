"""Queries and gallery of a search: images of a data set's split, of a folder, or single files, with their descriptors."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from datasets.format.schema import Sample
from datasets.images.decode import SUFFIXES, DecodeError, decode_image, decode_parsing
from datasets.protocols import protocols
from datasets.protocols.protocols import Labels, Protocol
from datasets.shards.dataset import Dataset, SplitIndex
from datasets.storage.store import StoreError, open_store
from methods.ranking import describe
from orchestration.config.load import Experiment
from orchestration.config.stored import facts_of, trained_model
from orchestration.errors import RequestError
from orchestration.evaluation import descriptors, explain
from orchestration.evaluation.embed import Descriptors, GroupReader, embed, load_features
from orchestration.evaluation.evaluate import cache_key, embedding_job, invalidate_stale_cache
from orchestration.evaluation.score import evaluation_folder
from orchestration.progress import Progress
from orchestration.registry.locate import Located

BATCH = 32


@dataclass(frozen=True)
class Entries:
    """N images (or tracklets, by their middle frames) and their descriptors.

    names: keys, or paths. features: float32 [N, D], L2-normalised. image: entry → encoded image. facts: entry → its
    labels by name. labels: None where there are none. set_aside: a message for each file that could not be decoded.
    """

    names: Sequence[str]
    features: Tensor
    image: Callable[[int], bytes]
    facts: Callable[[int], dict[str, str]] = field(default=lambda at: {})
    labels: Labels | None = None
    set_aside: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class Described:
    """A data set to be described by a model. experiment: the model's own, on these data."""

    located: Located
    experiment: Experiment
    dataset: Dataset
    protocol: Protocol


class Network:
    """The model in this process, for a few images at a time.

    mirrored: add the mirror image's embedding, as the descriptors to compare with do. masks: the folder with the images'
    parsing masks, for a model that needs them.
    """

    def __init__(self, located: Located, *, mirrored: bool, masks: str | None) -> None:
        self.trained, method = trained_model(located.checkpoint)
        self.method = method.eval()
        self.label_map = facts_of(located.checkpoint)["label_map"]
        self.mirrored, self.masks = mirrored, masks

    @property
    def needs_masks(self) -> bool:
        return "parsing" in self.method.inputs

    @torch.inference_mode()
    def describe(self, samples: list[Sample]) -> Tensor:
        """float32 [n, D], L2-normalised. Raises: DecodeError."""
        from orchestration.config import build

        augmentation, dtype = build.build_augmentation(self.trained), build.input_dtype(self.trained)
        inputs = explain.prepared(samples, self.method, augmentation, dtype)
        return describe(self.method.embed, *inputs, flip=self.mirrored).float()


def of_split(data: Described, index: SplitIndex, progress: Progress) -> Entries:
    """The entries of a data set's split. Descriptors of an earlier evaluation of this model on these data are reused."""
    found = stored_or_computed(data, index, progress)
    read = GroupReader(data.dataset, index, ("image",))

    def image(at: int) -> bytes:
        [row] = read(found.rows[at : at + 1])
        return row["image"]

    def facts(at: int) -> dict[str, str]:
        row = found.rows[at]
        labelled = {"person": index.person_names[index.person[row]]}
        if index.clothes[row] >= 0:
            labelled["clothes"] = index.clothes_names[index.clothes[row]][1]
        if index.camera[row] >= 0:
            labelled["camera"] = index.camera_names[index.camera[row]]
        return labelled

    labels = protocols.labels(data.protocol, index).take(found.rows)
    return Entries(index.keys(found.rows), found.features, image, facts, labels)


def stored_or_computed(data: Described, index: SplitIndex, progress: Progress) -> Descriptors:
    model, experiment = data.located.checkpoint, data.experiment
    key = cache_key(model, data.dataset, data.protocol, experiment.evaluate)
    run = open_store(data.located.run)
    for folder in (descriptors.AFTER_TRAINING, evaluation_folder(key)):
        if found := descriptors.stored(run.sub(folder), key, data.protocol, {index.split: index}):
            return found[index.split]
    store = run.sub(evaluation_folder(key))
    job = embedding_job(model, experiment, data.protocol, store)
    invalidate_stale_cache(store, key)
    with progress.bar(f"embedding {index.split}", "images") as bar:
        workers, resources = experiment.group_sizes(), experiment.resources
        embed(job, [index.split], workers=workers, resources=resources, progress=bar, say=progress.say)
    return load_features(store.sub("features"), index.split, protocols.samples(data.protocol, index))


def of_folder(network: Network, address: str, progress: Progress) -> Entries:
    """The images below a folder (on disk or in object storage), embedded in this process.

    Files that cannot be decoded are set aside. Raises: RequestError where no image is left, or a mask is missing.
    """
    store = open_store(address)
    try:
        paths = [path for path in store.list() if PurePosixPath(path).suffix.lower() in SUFFIXES]
    except StoreError as error:
        raise RequestError(str(error)) from error
    if not paths:
        raise RequestError(
            f"{address} is neither a data set (manifest.json is missing) nor a folder with images ({', '.join(SUFFIXES)})."
        )
    find_mask = masks_below(network, address)
    names, features, set_aside = [], [], []
    with progress.bar("embedding the gallery", "images") as bar:
        for start in range(0, len(paths), BATCH):
            some = paths[start : start + BATCH]
            for path, described in embedded(network, [sample(store.read(p), p, find_mask) for p in some]):
                if isinstance(described, Tensor):
                    names.append(path)
                    features.append(described)
                else:
                    set_aside.append(str(described))
            bar(start + len(some), len(paths))
    if not names:
        raise RequestError(f"{address}: none of its {len(paths)} images can be decoded: {set_aside[0]}")
    return Entries(names, torch.stack(features), lambda at: store.read(names[at]), set_aside=set_aside)


def embedded(network: Network, samples: list[Sample]) -> Iterator[tuple[str, Tensor | DecodeError]]:
    """Each sample's key with its descriptor [D], or with its error."""
    try:
        yield from zip((s.key for s in samples), network.describe(samples), strict=True)
    except DecodeError:
        for one in samples:
            try:
                yield one.key, network.describe([one])[0]
            except DecodeError as error:
                yield one.key, error


def of_files(network: Network, paths: Sequence[str]) -> Entries:
    """The images of single files. Raises: RequestError naming a file that is missing or not an image."""
    find_mask = masks_below(network, "the images")
    data = []
    for path in paths:
        if os.path.isdir(path):
            raise RequestError(f"image {path} is a folder. Expected files; a folder can only be the GALLERY.")
        try:
            data.append(Path(path).read_bytes())
        except OSError as error:
            raise RequestError(f"image {path} cannot be read: {error.strerror}") from error
    samples = [sample(content, path, find_mask, Path(path).name) for content, path in zip(data, paths, strict=True)]
    features = []
    for _, described in embedded(network, samples):
        if not isinstance(described, Tensor):
            raise RequestError(f"image {described}")
        features.append(described)
    return Entries(list(paths), torch.stack(features), lambda at: data[at])


FindMask = Callable[[str], bytes | None]


def sample(image: bytes, key: str, find_mask: FindMask, mask_for: str | None = None) -> Sample:
    return Sample(image, find_mask(mask_for or key), "", None, None, None, None, key)


def masks_below(network: Network, of_what: str) -> FindMask:
    """A function from an image's path to its mask's bytes, for a model that needs masks. Raises: RequestError without them."""
    if not network.needs_masks:
        return lambda path: None
    remedy = (
        f"Set --parsing MASKS to a folder with a PNG for each image, of the same relative path and by label map "
        f"{network.label_map}. Or convert the images (`redress data convert table`), parse them (`redress data parse`), and "
        "name the result as GALLERY."
    )
    if network.masks is None:
        raise RequestError(f"this model needs a parsing mask for each image, and {of_what} have none. {remedy}")
    store = open_store(network.masks)

    def find(path: str) -> bytes:
        name = str(PurePosixPath(path).with_suffix(".png"))
        try:
            mask = store.read(name)
            decode_parsing(mask, store.join(name))
        except (StoreError, FileNotFoundError, DecodeError) as error:
            raise RequestError(f"{path} has no mask at {store.join(name)} ({error}). {remedy}") from error
        return mask

    return find


def pixels(encoded: bytes) -> np.ndarray:
    """uint8 [h, w, 3]."""
    return decode_image(encoded).permute(1, 2, 0).numpy()
