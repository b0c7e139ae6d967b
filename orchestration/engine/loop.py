"""The training loop: data → updates → step → report. Plain torch: what it has to say goes to a callback."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer

from datasets.images.augment import Augmentation, Draws, augment_colour, augment_geometry, draw, normalise_and_erase
from datasets.streaming.stream import HostBatch
from methods.clothes_sampling import ClothesSampling, draw_clothes, in_other_clothes
from methods.method import Batch, Method, Stage, ended_stage
from methods.separation import Separation
from orchestration.engine.arithmetic import DTYPES
from orchestration.engine.pace import Pace
from orchestration.engine.step_backup import StepBackup
from orchestration.engine.strategies.strategy import Strategy
from orchestration.engine.survey import Survey, begin_stage, end_stage

LR_FACTOR = "lr_factor"  # of a group of an optimizer's parameters: on the optimizer's rate
AUC = "auc/"  # metrics of the last step of a stage
STOP = "stop"  # the share of workers that are asked to stop


@dataclass(frozen=True)
class TrainingProgress:
    """How far training is: the next batch to train on, and the number of steps before it."""

    epoch: int = 0
    batch: int = 0
    step: int = 0


@dataclass(frozen=True)
class StepReport:
    """One finished step. Metrics are means over the workers; seconds are this worker's."""

    step: int
    epoch: int
    batch: int
    stage: str
    metrics: dict[str, float]


class NonFiniteLossError(RuntimeError):
    """A loss or gradient became NaN or infinite; the state is that before the step."""

    def __init__(self, message: str, progress: TrainingProgress, rows: list[int]) -> None:
        super().__init__(message)
        self.progress, self.rows = progress, rows


class OutOfMemoryError(RuntimeError):
    """The device's memory did not hold a step."""


class Callbacks(Protocol):
    """What the loop calls: after each step, wherever training can be resumed, after each batch of a stage's survey of the
    training set, with the number of images that this worker has seen of it, and with what a stage has come to tell apart,
    before its last step is reported."""

    def on_step(self, report: StepReport) -> None: ...

    def on_progress(self, progress: TrainingProgress, end_of_epoch: bool) -> None: ...

    def on_survey(self, stage: Stage, images: int) -> None: ...

    def on_stage_end(self, stage: Stage, found: Mapping[str, Separation]) -> None: ...


@dataclass(frozen=True)
class Feed:
    """Where batches come from. `batches(epoch, first_batch)` yields this worker's share of each global batch;
    `num_batches(epoch)` is how many global batches the epoch has. `survey()` yields this worker's share of the whole
    training set. global_batch: samples, images or clips, in one. clothes: how these get other clothes, where they do; their
    masks come with them then."""

    batches: Callable[[int, int], Iterator[HostBatch]]
    num_batches: Callable[[int], int]
    survey: Callable[[], Iterator[HostBatch]]
    augmentation: Augmentation
    global_batch: int
    seed: int
    clothes: ClothesSampling | None = None


@dataclass(frozen=True)
class Optimization:
    """The optimizers by name, and `rate(name, epoch)`: the learning rate of one of them in an epoch (from 0)."""

    optimizers: dict[str, Optimizer]
    rate: Callable[[str, int], float]


def train(
    method: Method,
    feed: Feed,
    optimization: Optimization,
    strategy: Strategy,
    callbacks: Callbacks,
    *,
    epochs: int,
    precision: str = "float32",
    device: torch.device | str = "cpu",
    start: TrainingProgress = TrainingProgress(),
    last: int | None = None,
    is_asked_to_stop: Callable[[], bool] = lambda: False,
) -> TrainingProgress:
    """Train `method` from `start` to the end of epoch `epochs - 1` and return the progress after it.

    last: the epoch behind the whole training, where `epochs` is a pause in it: the last stage ends there.
    is_asked_to_stop: called before each step. Where it is true on one worker, all return after this step.
    Raises: NonFiniteLossError at the step whose loss or gradient is not finite. Parameters, buffers and optimizers are then
    bit for bit those before this step. OutOfMemoryError naming the batch and two settings that help.
    """
    method.train()
    step, first_batch = start.step, start.batch
    pace = Pace(strategy.rank, strategy.workers)
    for epoch in range(start.epoch, epochs):
        method.begin_epoch(epoch)
        set_rates(optimization, epoch)
        stage = method.stage
        on_images = partial(callbacks.on_survey, stage)
        survey = Survey(feed.survey, feed.augmentation, DTYPES[precision], device, on_images)
        begin_stage(method, survey, feed.seed, strategy)
        is_last = ended_stage(method.stages(), epoch + 1, last or epochs) is not None
        final = feed.num_batches(epoch) - 1 if is_last else None
        started = time.perf_counter()
        for host in feed.batches(epoch, first_batch):
            batch = (
                rows_alone(host, device)
                if stage.samples
                else to_device(host, feed, epoch, strategy, device, DTYPES[precision])
            )
            progress = TrainingProgress(epoch, host.number, step)
            asked = is_asked_to_stop()
            logs = train_step(
                method, batch, optimization, strategy, precision, progress, host, {STOP: float(asked)} | pace.asides()
            )
            is_stopped = logs.pop(STOP) > 0
            speed = pace.metrics(logs)
            finished = time.perf_counter()
            unit = "rows" if stage.samples else "images"
            pace.finish(finished - started)
            metrics = (
                logs | speed | throughput(unit, host.rows.numel() * strategy.workers, finished - started, host.wait_s)
            )
            if host.number == final and (found := end_stage(method, survey, feed.seed, strategy)):
                callbacks.on_stage_end(stage, found)
                metrics |= {f"{AUC}{name}": one.auc for name, one in found.items()}
            callbacks.on_step(StepReport(step, epoch, host.number, stage.title, metrics))
            step, started = step + 1, finished
            callbacks.on_progress(TrainingProgress(epoch, host.number + 1, step), end_of_epoch=False)
            if is_stopped:
                return TrainingProgress(epoch, host.number + 1, step)
        first_batch = 0
        callbacks.on_progress(TrainingProgress(epoch + 1, 0, step), end_of_epoch=True)
    return TrainingProgress(epochs, 0, step)


def train_step(
    method: Method,
    batch: Batch,
    optimization: Optimization,
    strategy: Strategy,
    precision: str,
    progress: TrainingProgress,
    host: HostBatch,
    asides: dict[str, float] | None = None,
) -> dict[str, float]:
    """All updates of one step, in the method's order; returns what they logged, averaged over the workers.

    asides: other numbers of this worker, averaged in the same collective.
    Raises: NonFiniteLossError after the state before the step is restored.
    """
    names: list[str] = []
    values: list[Tensor] = []
    device = batch.person.device
    asides = asides or {}
    own = torch.tensor([*asides.values()], dtype=torch.float64, device=device)
    backup = StepBackup(method)
    updates = method.updates(batch)
    try:
        while True:
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
                update = next(updates, None)
            if update is None:
                break
            strategy.backward(update.optimizer, update.loss)
            logs = {f"loss/{update.optimizer}": update.loss, **update.logs}
            means = strategy.mean(torch.cat([torch.stack([v.detach().double() for v in logs.values()]), own]))
            norm = strategy.gradient_norm(update.optimizer)
            stop_unless_finite(means[0], norm, update.optimizer, progress, host)
            backup.before(update.optimizer, optimization.optimizers[update.optimizer])
            strategy.step(update.optimizer)
            names += [*logs, *asides, f"gradient-norm/{update.optimizer}"]
            values += [*means, norm.double()]
    except NonFiniteLossError:
        backup.restore()
        raise
    except torch.OutOfMemoryError as error:
        raise OutOfMemoryError(out_of_memory_message(batch, progress)) from error
    return dict(zip(names, torch.stack(values).tolist(), strict=True))


def to_device(
    host: HostBatch, feed: Feed, epoch: int, strategy: Strategy, device: torch.device | str, dtype: torch.dtype
) -> Batch:
    """Move this worker's share to the device and transform it there, by its slice of the global batch's draws."""
    images, parsing, changed, draws = place(host, feed, epoch, strategy.rank, device)
    person, clothes, rows = (labels.to(device, non_blocking=True) for labels in (host.person, host.clothes, host.rows))
    is_paired = feed.clothes is not None and feed.clothes.beside
    if changed is not None:
        images = torch.cat([images, changed]) if is_paired else changed
    if is_paired:
        draws, person, clothes = draws.twice(), torch.cat([person, person]), torch.cat([clothes, clothes])
        rows = torch.cat([rows, rows])
        parsing = None if parsing is None else torch.cat([parsing, parsing])
    return Batch(
        normalise_and_erase(images, draws, feed.augmentation, dtype), person, clothes, parsing, is_paired, rows
    )


def rows_alone(host: HostBatch, device: torch.device | str) -> Batch:
    """A batch of a stage of samples: rows and their labels."""
    person, clothes, rows = (labels.to(device, non_blocking=True) for labels in (host.person, host.clothes, host.rows))
    return Batch(host.images.to(device), person, clothes, rows=rows)


def place(
    host: HostBatch, feed: Feed, epoch: int, rank: int, device: torch.device | str
) -> tuple[Tensor, Tensor | None, Tensor | None, Draws]:
    """A worker's share on the device, cropped and flipped, but still uint8: images, masks, the images once more in other
    clothes where the feed has these; and the draws by which all are finished."""
    share, seed = len(host.person), (feed.seed, epoch, host.number)
    draws = draw(feed.augmentation, feed.global_batch, seed).slice(rank * share, (rank + 1) * share)
    parsing = None if host.parsing is None else host.parsing.to(device, non_blocking=True)
    images, parsing = augment_geometry(host.images.to(device, non_blocking=True), parsing, draws, feed.augmentation)
    images = augment_colour(images, draws, feed.augmentation)
    if feed.clothes is None or parsing is None:
        return images, parsing, None, draws
    others = draw_clothes(feed.clothes, feed.global_batch, seed)
    return images, parsing, in_other_clothes(images, parsing, feed.clothes, others), draws


def set_rates(optimization: Optimization, epoch: int) -> None:
    for name, optimizer in optimization.optimizers.items():
        for group in optimizer.param_groups:
            group["lr"] = optimization.rate(name, epoch) * group.get(LR_FACTOR, 1.0)


def stop_unless_finite(loss: Tensor, norm: Tensor, optimizer: str, progress: TrainingProgress, host: HostBatch) -> None:
    loss_value, norm_value = torch.stack([loss.double(), norm.double()]).tolist()
    if math.isfinite(loss_value) and math.isfinite(norm_value):
        return
    raise NonFiniteLossError(
        f"step {progress.step} (epoch {progress.epoch}, batch {progress.batch}): the loss of {optimizer!r} is "
        f"{loss_value}, its gradient's norm {norm_value}. Weights and optimizers are as they were before this step. "
        f"Look at the batch's images; a lower learning rate (optimizers.{optimizer}.lr) or precision=float32 often helps.",
        progress,
        host.rows.flatten().tolist(),
    )


def throughput(unit: str, count: int, seconds: float, wait_s: float) -> dict[str, float]:
    return {
        f"speed/{unit}-per-s": count / seconds,
        "speed/step-s": seconds,
        "speed/data-wait-s": wait_s,
    }


def out_of_memory_message(batch: Batch, progress: TrainingProgress) -> str:
    if not batch.images.numel():
        return (
            f"out of memory at step {progress.step}: a worker's batch is {len(batch.rows)} rows of a stage that reads no "
            "images. Set the method's number of rows in a batch lower, or workers higher."
        )
    shape = "×".join(str(n) for n in batch.images.shape)
    axes = f"{'clips × frames' if batch.images.ndim == 5 else 'images'} × channels × height × width"
    return (
        f"out of memory at step {progress.step}: a worker's batch is {shape} ({axes}). "
        "Set batch.recompute=true, batch.people lower or workers higher; precision=bfloat16 halves what the maps take."
    )
