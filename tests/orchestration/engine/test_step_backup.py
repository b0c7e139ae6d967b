"""A step that is not finite leaves parameters, buffers and optimizers bit for bit as they were before it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import SGD, Adam, Optimizer

from datasets.streaming.stream import HostBatch
from methods.method import Batch, Method
from orchestration.engine.loop import NonFiniteLossError, Optimization, TrainingProgress, train_step
from orchestration.engine.step_backup import StepBackup
from orchestration.engine.strategies.choice import build_strategy
from orchestration.engine.strategies.single_process import optimizer_tensors
from tests.methods.variants import batch, build, share
from tests.orchestration.processes import in_processes

ROWS = torch.arange(16)
HOST = HostBatch(ROWS, None, ROWS, ROWS, ROWS, ROWS, 0, 0.0)
Poison = Callable[[Method, Batch], Batch]


def a_pixel(_: Method, whole: Batch) -> Batch:
    images = whole.images.clone()
    images[0, 0, 3, 3] = torch.nan
    return replace(whole, images=images)


def the_last_update(method: Method, whole: Batch) -> Batch:
    """The loss of the last update alone is not a number; the ones before it step."""

    def spoil(_: Any, inputs: Any, output: Any) -> Any:
        return output * torch.nan

    method.get_submodule("classifier").register_forward_hook(spoil)
    return whole


def the_first_update(method: Method, whole: Batch) -> Batch:
    def spoil(_: Any, inputs: Any, output: Any) -> Any:
        return output * torch.inf

    method.get_submodule("clothes_classifier").register_forward_hook(spoil)
    return whole


def optimizers_of(method: Method) -> dict[str, Optimizer]:
    """Adam, and SGD with momentum for CAL's clothes classifier: their states differ."""
    kinds: dict[str, Callable[..., Optimizer]] = {"model": Adam, "clothes_classifier": SGD}
    options = {"model": {"lr": 1e-3}, "clothes_classifier": {"lr": 0.1, "momentum": 0.9}}
    return {name: kinds[name]([p for _, p in owned], **options[name]) for name, owned in method.parameters_of().items()}


def state(method: Method, optimizers: dict[str, Optimizer]) -> dict[str, Tensor]:
    tensors = {**method.state_dict(), **optimizer_tensors(method, optimizers)}
    return {name: tensor.clone() for name, tensor in tensors.items()}


def before_and_after(variant: str, epoch: int, steps: int, poison: Poison) -> list[dict[str, Tensor]]:
    """The state before a step that is not finite, and after it."""
    method = build(variant).train()
    method.begin_epoch(epoch)
    optimizers = optimizers_of(method)
    strategy = build_strategy()
    strategy.prepare(method, optimizers)
    optimization = Optimization(optimizers, lambda name, epoch: 1.0)

    def step(seed: int, change: Poison = lambda _, same: same) -> None:
        own = change(method, share(batch(seed=seed), strategy.rank, strategy.workers))
        train_step(method, own, optimization, strategy, "float64", TrainingProgress(epoch, seed, seed), HOST)

    for seed in range(steps):
        step(seed)
    before = state(method, optimizers)
    with pytest.raises(NonFiniteLossError, match="as they were before this step"):
        step(steps, poison if strategy.rank == strategy.workers - 1 else lambda _, same: same)
    return [before, state(method, optimizers)]


def assert_equal(found: list[dict[str, Tensor]]) -> None:
    before, after = found
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert torch.equal(value, after[name]), name


@pytest.mark.parametrize("steps", [0, 2], ids=["first step", "later step"])
@pytest.mark.parametrize(
    ("variant", "epoch", "poison"),
    [
        ("cal", 0, the_last_update),
        ("cal", 0, the_first_update),
        ("cal", 0, a_pixel),
        ("cal with memory", 0, the_last_update),
        ("baseline on PCB with refined parts", 1, a_pixel),
        ("ifd", 0, a_pixel),
        ("pixel sampling", 0, a_pixel),
    ],
)
def test_a_step_that_is_not_finite_leaves_nothing_behind(variant: str, epoch: int, poison: Poison, steps: int) -> None:
    assert_equal(before_and_after(variant, epoch, steps, poison))


def test_a_pixel_of_one_worker_leaves_nothing_behind_on_any() -> None:
    for found in in_processes(4, before_and_after, "cal", 0, 1, a_pixel):
        assert_equal(found)


def test_what_the_last_update_steps_is_not_copied() -> None:
    method = build("cal").train()
    backup = StepBackup(method)
    optimizers = optimizers_of(method)
    for name in ("clothes_classifier", "model"):
        backup.before(name, optimizers[name])
    assert [p.shape for p in backup.parameters] == [method.get_parameter("clothes_classifier.weight").shape]
