"""The beginning and the end of a stage: a method may look at the whole training set once, as at test images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from datasets.images.augment import Augmentation, preprocess, preprocess_parsing
from datasets.streaming.stream import HostBatch
from methods.method import Batch, Method
from methods.separation import Separation
from orchestration.engine.strategies.strategy import Strategy


@dataclass(frozen=True)
class Survey:
    """This worker's share of the training set, in the order of its rows: `methods.method.Survey`.

    host_batches: reads the share. on_images: called after each batch with the number of images so far.
    """

    host_batches: Callable[[], Iterator[HostBatch]]
    augmentation: Augmentation
    dtype: torch.dtype
    device: torch.device | str
    on_images: Callable[[int], None]

    def __iter__(self) -> Iterator[Batch]:
        done = 0
        for host in self.host_batches():
            yield self.as_test_images(host)
            done += len(host.rows)
            self.on_images(done)

    def as_test_images(self, host: HostBatch) -> Batch:
        images = preprocess(host.images.to(self.device, non_blocking=True), self.augmentation, self.dtype)
        parsing = None
        if host.parsing is not None:
            parsing = preprocess_parsing(host.parsing.to(self.device, non_blocking=True), self.augmentation)
        person, clothes, rows = (labels.to(self.device) for labels in (host.person, host.clothes, host.rows))
        return Batch(images, person, clothes, parsing, rows=rows)


def begin_stage(method: Method, survey: Survey, seed: int, strategy: Strategy) -> None:
    """Call `method.begin_stage` for the stage of its epoch, unless this process has called it for that stage."""
    if method.begun == method.stage:
        return
    with surveying(method, survey, seed), strategy.whole():
        method.begin_stage(method.stage, survey)
    method.begun = method.stage


def end_stage(method: Method, survey: Survey, seed: int, strategy: Strategy) -> Mapping[str, Separation]:
    """Call `method.end_stage` for the stage of its epoch."""
    with surveying(method, survey, seed), strategy.whole():
        return method.end_stage(method.stage, survey)


@contextmanager
def surveying(method: Method, survey: Survey, seed: int) -> Iterator[None]:
    """Eval mode, no gradients, random numbers from the seed. Mode and torch's random state are afterwards what they were."""
    devices = [torch.device(survey.device)] if torch.device(survey.device).type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        method.eval()
        yield
    method.train()
