"""Constraints between settings: combinations of allowed values that cannot be trained, and how to fix each."""

from __future__ import annotations

from collections.abc import Iterator

from methods import METHODS
from methods.backbones.bodies import BODIES
from methods.method import MethodError
from orchestration.addresses import split_stage
from orchestration.config.diagnostics import either
from orchestration.config.epochs import end_epoch, first_epoch
from orchestration.config.meta import Outline, outline
from orchestration.config.settings import Experiment, WorkerRange
from orchestration.engine.weights import DIGEST, HUB

Violation = tuple[tuple[str, ...], str]  # keys that disagree; the rule and the fix


def violations(experiment: Experiment) -> Iterator[Violation]:
    """Every constraint that the experiment violates."""
    yield from batches_divide(experiment)
    yield from sizes_are_one_training(experiment)
    yield from batch_norm_has_two_samples(experiment)
    yield from appearances_fit(experiment)
    yield from selection_fits(experiment)
    yield from strategy_fits(experiment)
    try:
        method = outline(experiment)
    except MethodError as error:
        yield ("method",), str(error)
        return
    yield from classes_are_divided(experiment, method)
    yield from clips_fit(experiment, method)
    yield from memory_is_saved(experiment, method)
    yield from pairs_exist(experiment, method)
    yield from stages_are_reached(experiment, method)
    yield from named_stages_exist(experiment, method)
    yield from samples_divide(experiment, method)
    yield from optimizers_fit(experiment, method)
    yield from weights_are_published(experiment, method)


def weights_are_published(experiment: Experiment, method: Outline) -> Iterator[Violation]:
    if experiment.weights not in HUB:
        return
    if method.weights_address is None:
        yield ("weights", "method"), "no published weights have this backbone's shape. Set weights=null"
    elif experiment.weights == "imagenet" and DIGEST in method.weights_address:
        yield ("weights", "method.body"), "the published weights of this body are not ImageNet's. Set weights=published"


def batches_divide(experiment: Experiment) -> Iterator[Violation]:
    batch, workers = experiment.batch, experiment.workers
    product = f"{batch.people} people × {batch.images} images"
    if isinstance(workers, WorkerRange):
        yield from a_size_divides(experiment, workers)
        workers = 1  # of the sizes, all divide the lanes
    if batch.people % workers:
        yield (
            ("batch.people", "workers"),
            f"{workers} workers cannot share {product} equally. Set workers to {either(divisors(batch.people))}, "
            f"or batch.people to {either(multiples(workers, batch.people))} (and batch.lanes to a multiple of workers)",
        )
    elif batch.people % batch.lanes:
        yield (
            ("batch.lanes", "batch.people"),
            f"{batch.lanes} lanes cannot share {product} equally. Set batch.lanes to "
            f"{either(divisors(batch.people, multiple_of=workers))}, or batch.people to "
            f"{either(multiples(batch.lanes, batch.people))}",
        )
    elif batch.lanes % workers:
        yield (
            ("workers", "batch.lanes"),
            f"{workers} workers cannot share {count(batch.lanes, 'lane')} equally. Set workers to "
            f"{either(divisors(batch.lanes))}, "
            f"or batch.lanes to {either(divisors(batch.people, multiple_of=workers))}",
        )


def a_size_divides(experiment: Experiment, wanted: WorkerRange) -> Iterator[Violation]:
    lanes, span = experiment.batch.lanes, f"{wanted.min} to {wanted.max} workers"
    if wanted.min > wanted.max:
        yield ("workers.min", "workers.max"), f"no number is {span}. Set workers.min to at most {wanted.max}"
    elif not experiment.group_sizes():
        many = [
            str(number) for number in (12, 24, 48) if any(number % n == 0 for n in range(wanted.min, wanted.max + 1))
        ]
        more = f", or batch.lanes to a number with more divisors, such as {either(many)}" if many else ""
        yield (
            ("workers", "batch.lanes"),
            f"none of {span} can share {count(lanes, 'lane')} equally. Let workers.min to workers.max include "
            f"{either(divisors(lanes))}{more} (and batch.people to a multiple of it)",
        )


def sizes_are_one_training(experiment: Experiment) -> Iterator[Violation]:
    if not experiment.sync_batch_norm and len(experiment.group_sizes()) > 1:
        sizes = [str(size) for size in experiment.group_sizes()]
        yield (
            ("sync_batch_norm", "workers"),
            "each worker would normalise its own share, and the result would depend on how many there are. Set "
            f"sync_batch_norm=true, or workers to {either(sizes)}",
        )


def batch_norm_has_two_samples(experiment: Experiment) -> Iterator[Violation]:
    batch, sampling = experiment.batch, experiment.augment.clothes_sampling
    samples = batch.people * batch.images * (2 if sampling is not None and sampling.beside else 1)
    if samples == 1:
        yield (
            ("batch.people", "batch.images"),
            "batch norm cannot normalise a batch of one sample. Set batch.images to at least 2",
        )
    elif experiment.group_sizes() == (samples,) and not experiment.sync_batch_norm:
        yield (
            ("sync_batch_norm", "workers", "batch.people", "batch.images"),
            f"batch norm cannot normalise one sample, and each of {samples} workers has one of its own. Set "
            "sync_batch_norm=true, or batch.images to at least 2",
        )


def appearances_fit(experiment: Experiment) -> Iterator[Violation]:
    batch = experiment.batch
    keys = ("batch.appearances", "batch.sampler", "batch.images")
    if batch.sampler != "appearance" and batch.appearances is not None:
        yield (
            keys,
            f"sampler {batch.sampler!r} does not sample by outfit. Set batch.appearances=null, or batch.sampler=appearance",
        )
    elif batch.sampler == "appearance" and batch.appearances is None:
        yield (
            keys,
            "is required by sampler 'appearance': the outfits of each person in a batch. Set batch.appearances=2",
        )
    elif batch.appearances is not None and batch.appearances > batch.images:
        yield (
            keys,
            f"{count(batch.images, 'image')} of a person cannot show {batch.appearances} outfits. "
            f"Set batch.appearances to at most {batch.images}, or batch.images to at least {batch.appearances}",
        )


def clips_fit(experiment: Experiment, method: Outline) -> Iterator[Violation]:
    if experiment.batch.clip is not None and not method.takes_clips:
        yield (
            ("batch.clip", "method"),
            f'"{experiment.method.name}" takes images, not clips. Set batch.clip=null, or method.name to '
            f"{either([name for name, other in METHODS.items() if other.takes_clips])}",
        )


def memory_is_saved(experiment: Experiment, method: Outline) -> Iterator[Violation]:
    batch, name = experiment.batch, experiment.method.name
    if batch.recompute and not method.recomputes:
        yield (
            ("batch.recompute", "method"),
            f'the network of "{name}" with these settings has no blocks between which activations could be dropped. Set '
            "batch.recompute=false, or method.body to one made of a ResNet or a transformer",
        )
    if batch.micro_batch is None:
        return
    if not method.is_per_image:
        able = [body for body, kind in BODIES.items() if kind.is_per_image]
        yield (
            ("batch.micro_batch", "method"),
            f'batch norm in the network of "{name}" with these settings would normalise {batch.micro_batch} images at a time, '
            "which is another training. Set batch.micro_batch=null and batch.recompute=true, which keeps every number, "
            f"workers to more, or method.body to {either(able)}, without batch norm",
        )
    elif experiment.strategy.name == "fsdp":
        yield (
            ("batch.micro_batch", "strategy.name"),
            "fsdp would gather the weights of each block for every micro-batch, twice. Set batch.micro_batch=null and "
            "batch.recompute=true, or strategy.name=data-parallel",
        )


def pairs_exist(experiment: Experiment, method: Outline) -> Iterator[Violation]:
    sampling = experiment.augment.clothes_sampling
    if method.pairs_for and (sampling is None or not sampling.beside):
        yield (
            ("augment.clothes_sampling", "method"),
            f'is required: "{experiment.method.name}" with these settings compares each image with a copy in other clothes. '
            f"Set augment.clothes_sampling={{}}, or method.{method.pairs_for}=0",
        )


def selection_fits(experiment: Experiment) -> Iterator[Violation]:
    if experiment.select == "last":
        if experiment.select_on_test:
            yield (
                ("select_on_test", "select"),
                "has no effect while select is last. Set select=best:query/<metric>, or remove it",
            )
        return
    split = experiment.select.removeprefix("best:").partition("/")[0]
    is_test = not split.startswith("val_")
    if is_test and not experiment.select_on_test:
        yield (
            ("select", "select_on_test"),
            f"{split!r} belongs to the test set. Select on val_query (`redress data holdout` creates it), or confirm with "
            "select_on_test=true",
        )
    if not is_test and experiment.select_on_test:
        yield ("select_on_test", "select"), f"has no effect: {split!r} does not belong to the test set. Remove it"
    if experiment.checkpoint.keep == 1:
        yield (
            ("checkpoint.keep", "select"),
            "the best checkpoint and the newest are kept. Set checkpoint.keep to at least 2, or to null to keep all",
        )


def strategy_fits(experiment: Experiment) -> Iterator[Violation]:
    chosen = experiment.strategy
    if chosen.name == "zero" and experiment.precision == "float64":
        yield (
            ("strategy.name", "precision"),
            "zero keeps 32-bit copies of the weights it steps, so training would be another one. Set strategy.name=fsdp, "
            "which holds weights in parts in float64, too, or precision=float32",
        )
    if chosen.name != "zero" and chosen.stage != 1:
        yield ("strategy.stage", "strategy.name"), "is of zero alone. Set strategy.name=zero, or remove strategy.stage"
    if chosen.name == "data-parallel" and chosen.offload != "none":
        yield (
            ("strategy.offload", "strategy.name"),
            "data-parallel holds nothing in parts that could wait in the CPU's memory. Set strategy.name=fsdp or zero, or "
            "strategy.offload=none",
        )


def classes_are_divided(experiment: Experiment, method: Outline) -> Iterator[Violation]:
    if method.divides_classes and experiment.strategy.name == "zero":
        yield (
            ("method.shard_classes", "strategy.name"),
            "zero cuts one flat copy of all parameters into parts, and each worker would have other classes in it. Set "
            "strategy.name=fsdp or data-parallel, or method.shard_classes=false",
        )


def stages_are_reached(experiment: Experiment, method: Outline) -> Iterator[Violation]:
    settings = experiment.method.model_dump()
    for stage in method.stages:
        if stage.first_epoch < experiment.epochs:
            continue
        epoch = stage.first_epoch
        keys = [f"method.{key}" for key, value in settings.items() if "epoch" in key and value == epoch]
        where = keys[0] if keys else "method"
        yield (
            (*keys, "epochs", "method"),
            f"stage {stage.title!r} would never start: it begins at epoch {epoch}, training ends with epoch "
            f"{experiment.epochs - 1}. "
            f"Set {where} below {experiment.epochs}, or epochs above {epoch}",
        )


def named_stages_exist(experiment: Experiment, method: Outline) -> Iterator[Violation]:
    names = list(dict.fromkeys(stage.name for stage in method.stages))
    behind = split_stage(experiment.init_from)[1] if experiment.init_from else None
    for key, stage in (("until", experiment.until), ("init_from", behind)):
        if stage is not None and stage not in names:
            yield (key, "method"), f'"{experiment.method.name}" has no stage {stage!r}. It has {", ".join(names)}'
            return
    if behind is not None and first_epoch(experiment, method.stages) >= end_epoch(experiment, method.stages):
        yield (
            ("init_from", "epochs", "until"),
            f"nothing is left to train behind stage {behind!r}. Name an earlier stage, or remove until",
        )


def samples_divide(experiment: Experiment, method: Outline) -> Iterator[Violation]:
    settings = experiment.method.model_dump()
    for stage in method.stages:
        wrong = [size for size in experiment.group_sizes() if stage.samples % size]
        if wrong:
            where = [f"method.{key}" for key, value in settings.items() if value == stage.samples]
            what = "workers" if isinstance(experiment.workers, int) else "workers.min and workers.max"
            yield (
                ("workers", *where[:1], "method"),
                f"{either([str(size) for size in wrong])} workers cannot share the {stage.samples} rows of a batch of stage "
                f"{stage.title!r} equally. Set {what} to {either(divisors(stage.samples))}",
            )


def optimizers_fit(experiment: Experiment, method: Outline) -> Iterator[Violation]:
    trained, given = set(method.trained), set(experiment.optimizers)
    name = experiment.method.name
    for optimizer in sorted(given - trained):
        yield (
            (f"optimizers.{optimizer}", "method"),
            f'"{name}" with these settings trains only {", ".join(sorted(trained))}. Set optimizers.{optimizer}=null',
        )
    for optimizer in sorted(trained - given):
        yield (
            (f"optimizers.{optimizer}", "method"),
            f'is required: "{name}" trains these parameters. Set optimizers.{optimizer}.name=adam '
            f"and optimizers.{optimizer}.lr=…",
        )


def count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def divisors(number: int, multiple_of: int = 1) -> list[str]:
    return [str(d) for d in range(multiple_of, number + 1, multiple_of) if number % d == 0]


def multiples(number: int, near: int) -> list[str]:
    """The multiples of `number` below and above `near`."""
    below = near // number * number
    return [str(m) for m in (below, below + number) if m]
