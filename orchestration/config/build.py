"""From an experiment's words to the objects that the loop runs: method, optimizers, augmentation, batches."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import SGD, Adam, AdamW, Optimizer

from datasets.errors import DataError
from datasets.images.augment import Augmentation
from datasets.images.label_maps import LABEL_MAPS
from datasets.sampling.clips import Pieces, cut_pieces
from datasets.sampling.plan import plan_samples
from datasets.sampling.shared_plan import shared_pieces, shared_plan
from datasets.shards.dataset import Dataset, SplitIndex
from datasets.storage.disk_cache import DiskCache
from datasets.storage.shared_arrays import SharedArrays, temporary_folder
from datasets.streaming.stream import HostBatch, Plan, Stream, plan_epoch
from methods import METHODS
from methods.clothes_sampling import ClothesSampling
from methods.distributed import synchronise
from methods.masking import normalised_white
from methods.method import DataFacts, Method, Needs, Stage, epochs_of, stage_of
from methods.micro_batches import use_micro_batches
from methods.recompute import recompute_blocks
from methods.sharded.share import Share, own_share
from orchestration.config.load import Experiment
from orchestration.engine.arithmetic import DTYPES, set_arithmetic
from orchestration.engine.loop import LR_FACTOR, Feed, Optimization
from orchestration.engine.schedule import factor
from orchestration.engine.strategies.choice import build_strategy
from orchestration.engine.strategies.strategy import Strategy

SHARED_FROM_ROWS = 1 << 17  # a worker's own index and plan take 10 MB then
MOST_PERSONS = 1 << 24  # a damaged number must not ask for all memory
OPTIMIZERS: dict[str, type[Optimizer]] = {"adam": Adam, "adamw": AdamW, "sgd": SGD}


def describe_data(dataset: Dataset, index: SplitIndex) -> dict[str, Any]:
    """What a method must know of its training data: plain JSON, and as int64 [num_clothes] `clothes_owner`, the person who
    wears each class. Versions before 0.2.0 did not store `num_images`.

    index: of the data set's `train` split. The fingerprint says whose rows a checkpoint's classifiers have.
    """
    return {
        "num_images": len(index),
        "num_persons": index.num_persons,
        "num_clothes": index.num_clothes,
        "clothes_owner": torch.from_numpy(index.clothes_owner().copy()),  # the index's own may be read-only
        "label_map": dataset.manifest.label_map,
        "fingerprint": dataset.fingerprint,
    }


def without_tables(described: dict[str, Any]) -> dict[str, Any]:
    """What `describe_data` gives but for what has a row for each class: what the driver sends to workers."""
    return {name: value for name, value in described.items() if not isinstance(value, Tensor)}


def describe_same_data(dataset: Dataset, index: SplitIndex, sent: dict[str, Any]) -> dict[str, Any]:
    """What `describe_data` gives in a worker. sent: what it gave in the driver, with tables or without.

    Raises: DataError where the data set is another one by now.
    """
    found = describe_data(dataset, index)
    expected = without_tables(sent)
    if differing := [name for name, value in expected.items() if found.get(name) != value]:
        name = differing[0]
        raise DataError(
            f"the data set at {dataset.address} was changed after this run was checked: its {name} was {expected[name]} and "
            f"is {found.get(name)} now. Restore it and resume the run, or start a new run"
        )
    return found


def data_facts(described: dict[str, Any]) -> DataFacts:
    """The inverse of `describe_data`."""
    labels = LABEL_MAPS[described["label_map"]].clothing if described["label_map"] else ()
    return DataFacts(
        num_persons=described["num_persons"],
        clothes_owner=torch.as_tensor(described["clothes_owner"], dtype=torch.int64),
        clothing_labels=tuple(i for i, is_clothing in enumerate(labels) if is_clothing),
        num_images=described.get("num_images", 0),
    )


def is_description(described: dict[str, Any]) -> bool:
    persons, owners, label_map = (described.get(name) for name in ("num_persons", "clothes_owner", "label_map"))
    images = described.get("num_images", 0)
    return (
        type(images) is int
        and images >= 0
        and type(persons) is int
        and 0 < persons <= MOST_PERSONS
        and are_persons(owners, persons)
        and (label_map is None or (isinstance(label_map, str) and label_map in LABEL_MAPS))
    )


def are_persons(owners: Any, persons: int) -> bool:
    """owners: a tensor, or a list, as versions before 0.2.0 stored it."""
    if isinstance(owners, Tensor):
        is_table = owners.dtype == torch.int64 and owners.dim() == 1
        return is_table and (not owners.numel() or 0 <= int(owners.min()) <= int(owners.max()) < persons)
    return isinstance(owners, list) and all(type(owner) is int and 0 <= owner < persons for owner in owners)


def build_method(experiment: Experiment, described: dict[str, Any], share: Share | None = None) -> Method:
    """The experiment's method with weights drawn from its seed, the same on every worker.

    share: of the classes, where the method divides them; by default this worker's. Without classes (`share.NONE`) it cannot be
    trained, and its embedding needs none.

    This process multiplies by the experiment's `precision` from then on.
    """
    set_arithmetic(experiment.precision)
    torch.manual_seed(experiment.seed)
    white = normalised_white(experiment.augment.mean, experiment.augment.std)
    facts = replace(data_facts(described), white=white, share=share or own_share())
    method = METHODS[experiment.method.name](experiment.method, facts)
    if experiment.sync_batch_norm:
        synchronise(method)
    return method.to(DTYPES[experiment.precision])


def save_memory(experiment: Experiment, method: Method) -> None:
    """Let a method that trains keep fewer activations, as the experiment says. Called before a strategy divides it."""
    if experiment.batch.recompute:
        recompute_blocks(method)
    if experiment.batch.micro_batch is not None:
        use_micro_batches(method, experiment.batch.micro_batch)


def build_optimization(experiment: Experiment, method: Method) -> Optimization:
    """One optimizer per name that the method trains, each with its own schedule, which counts the optimizer's epochs."""
    optimizers: dict[str, Optimizer] = {}
    for name, parameters in method.parameters_of().items():
        settings = experiment.optimizers[name]
        options: dict[str, Any] = {"lr": settings.lr, "weight_decay": settings.weight_decay}
        if settings.name == "sgd":
            options["momentum"] = settings.momentum
        else:  # fused on a CPU: its square root is the processor's, not MKL's
            options["fused"] = all(p.device.type == "cpu" for _, p in parameters)
        optimizers[name] = OPTIMIZERS[settings.name](parameter_groups(parameters, settings.bias_lr_factor), **options)
    spans = {name: epochs_of(method.stages(), name, experiment.epochs) for name in optimizers}

    def rate(name: str, epoch: int) -> float:
        settings, (first, end) = experiment.optimizers[name], spans[name]
        if not first <= epoch < end:
            return settings.lr  # it does not step
        return settings.lr * factor(settings.schedule, epoch - first, end - first)

    return Optimization(optimizers, rate)


def build_chosen_strategy(experiment: Experiment) -> Strategy:
    """The experiment's strategy in this process and its group, if any."""
    chosen = experiment.strategy
    return build_strategy(chosen.name, stage=chosen.stage, offload=chosen.offload == "cpu")


def parameter_groups(parameters: Sequence[tuple[str, Parameter]], bias_lr_factor: float) -> list[dict[str, Any]]:
    """An optimizer's groups: all parameters, or biases apart where their learning rate has a factor of its own."""
    if bias_lr_factor == 1:
        return [{"params": [p for _, p in parameters]}]
    by_factor: dict[float, list[Parameter]] = {1.0: [], bias_lr_factor: []}
    for name, parameter in parameters:
        by_factor[bias_lr_factor if name.endswith("bias") else 1.0].append(parameter)  # attention has in_proj_bias
    return [{"params": owned, LR_FACTOR: factor} for factor, owned in by_factor.items() if owned]


def build_augmentation(experiment: Experiment) -> Augmentation:
    return Augmentation(**experiment.augment.model_dump(exclude={"clothes_sampling"}))


def build_clothes_sampling(experiment: Experiment, label_map: str | None) -> ClothesSampling | None:
    """How images get other clothes, by the data set's label map; None where they keep theirs."""
    settings = experiment.augment.clothes_sampling
    if settings is None or label_map is None:
        return None
    return ClothesSampling(LABEL_MAPS[label_map].part_table(), **settings.model_dump())


def method_needs(experiment: Experiment) -> Needs:
    """What the method needs of the training set with its settings."""
    return METHODS[experiment.method.name].needs(experiment.method)


def needs_parsing(experiment: Experiment) -> bool:
    """Whether training images must come with their masks."""
    return method_needs(experiment).parsing or experiment.augment.clothes_sampling is not None


def open_data(experiment: Experiment) -> Dataset:
    """The experiment's data set as its workers read it: through the node's disk cache where there is one."""
    settings = experiment.stream
    cache = (
        DiskCache(Path(settings.disk_cache).expanduser(), settings.disk_cache_bytes) if settings.disk_cache else None
    )
    if settings.index_cache is None:
        return Dataset.open(experiment.data, disk_cache=cache)
    is_auto = settings.index_cache == "auto"
    folder = temporary_folder() if is_auto else Path(settings.index_cache).expanduser()
    return Dataset.open(
        experiment.data,
        disk_cache=cache,
        shared=SharedArrays(folder),
        share_from_rows=SHARED_FROM_ROWS if is_auto else 0,
    )


def build_feed(
    experiment: Experiment,
    dataset: Dataset,
    worker: int,
    workers: int,
    stages: Sequence[Stage],
    index: SplitIndex | None = None,
) -> tuple[Feed, Stream]:
    """This worker's batches of the `train` split, and the stream that they come from (for its statistics).

    stages: of the experiment's method. index: of the `train` split, where the caller has it.
    """
    index = dataset.index("train") if index is None else index
    augmentation = build_augmentation(experiment)
    stream = Stream(
        dataset,
        "train",
        parsing=needs_parsing(experiment),
        size=(augmentation.height, augmentation.width),
        threads=experiment.stream.threads,
        cache_bytes=experiment.stream.cache_bytes,
        index=index,
    )
    batch = experiment.batch
    pieces = build_pieces(experiment, dataset, index)
    latest: dict[int, Plan] = {}

    def plan(epoch: int) -> Plan:
        if epoch not in latest:
            latest.clear()  # before its successor takes memory
            if dataset.shared is None:
                latest[epoch] = new_plan(epoch)
            else:
                latest[epoch] = shared_plan(dataset.shared, describe_plan(epoch), lambda: new_plan(epoch))
        return latest[epoch]

    def describe_plan(epoch: int) -> str:
        settings = batch.model_dump(exclude={"recompute", "micro_batch"}) | {"seed": experiment.seed, "epoch": epoch}
        samples = stage_of(stages, epoch).samples
        return f"{dataset.fingerprint}, {samples} samples, {json.dumps(settings, sort_keys=True)}"

    def new_plan(epoch: int) -> Plan:
        if samples := stage_of(stages, epoch).samples:
            return plan_samples(len(index), dataset.fingerprint, samples=samples, seed=experiment.seed, epoch=epoch)
        return plan_epoch(
            index,
            dataset.fingerprint,
            sampler=batch.sampler,
            people=batch.people,
            images=batch.images,
            window=batch.window,
            lanes=batch.lanes,
            seed=experiment.seed,
            epoch=epoch,
            appearances=batch.appearances,
            pieces=pieces,
        )

    def batches(epoch: int, first_batch: int) -> Iterator[HostBatch]:
        deliver = stream.labels if stage_of(stages, epoch).samples else stream.epoch
        return deliver(plan(epoch), first_batch=first_batch, worker=worker, workers=workers)

    def num_batches(epoch: int) -> int:
        return plan(epoch).num_batches

    def survey() -> Iterator[HostBatch]:
        return stream.survey(experiment.evaluate.batch, worker=worker, workers=workers)

    clothes = build_clothes_sampling(experiment, dataset.manifest.label_map)
    size = batch.people * batch.images
    return Feed(batches, num_batches, survey, augmentation, size, experiment.seed, clothes), stream


def build_pieces(experiment: Experiment, dataset: Dataset, index: SplitIndex) -> Pieces | None:
    """The pieces of the training split's tracklets; None where samples are images."""
    clip = experiment.batch.clip
    if clip is None:
        return None
    if dataset.shared is None:
        return cut_pieces(index, clip.length, clip.stride)
    described = f"{dataset.fingerprint}, {clip.length} frames, {clip.stride} apart"
    return shared_pieces(dataset.shared, described, lambda: cut_pieces(index, clip.length, clip.stride))


def input_dtype(experiment: Experiment) -> torch.dtype:
    return DTYPES[experiment.precision]
