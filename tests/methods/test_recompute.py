"""Recomputed activations leave every bit of a training as it is, on one worker and on several, and take less memory.

Processes are started once per number of workers; each test reads what it asks about from what they returned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.optim import Adam

from methods.backbones.resnet import ResNet
from methods.distributed import gather, synchronise
from methods.method import Method
from methods.micro_batches import use_micro_batches
from methods.recompute import blocks_of, recompute_blocks
from tests.methods.variants import batch, begin, build, of_rows, share
from tests.orchestration.processes import in_processes

VARIANTS = (
    "cal with triplet loss",
    "cal on PCB with refined parts",
    "baseline on MGN",
    "ifd on HPM",
    "pixel sampling",
    "ccaf",
    "baseline on CLIP's ViT, both features of overlapping patches",
)
PER_IMAGE = ("ccaf", "ifd on CLIP's ViT", "cal on CLIP's ViT")
FEW, FEW_PER_IMAGE = VARIANTS[:1], PER_IMAGE[-1:]  # on several workers: the collectives are batch norm's, in any body
WORKERS = (2, 3)
STEPS = 2  # of each stage


def in_parts(method: Method) -> None:
    use_micro_batches(method, 3)


def both_ways(variant: str) -> list[dict[str, Tensor]]:
    return [trained(variant, prepare=prepare) for prepare in (nothing, recompute_blocks)]


def both_gradients(variant: str) -> list[dict[str, Tensor]]:
    return [gradients(variant, prepare) for prepare in (nothing, in_parts)]


def on_several() -> dict[str, Any]:
    """What one of several workers computes. The collectives are batch norm's and the pair losses', whatever the body."""
    return {"ways": both_ways(VARIANTS[0]), "gradients": both_gradients(PER_IMAGE[-1])}


@pytest.fixture(scope="module", params=WORKERS)
def workers(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    return in_processes(request.param, on_several)


def nothing(method: Method) -> None:
    pass


def ready(variant: str, dtype: torch.dtype, prepare: Callable[[Method], None]) -> Method:
    method = build(variant, dtype)
    synchronise(method)
    prepare(method)
    return method.train()


def trained(
    variant: str, dtype: torch.dtype = torch.float32, prepare: Callable[[Method], None] = nothing
) -> dict[str, Tensor]:
    """The state after some steps of each stage. bfloat16: under autocast."""
    method = ready(variant, torch.float32, prepare)
    owned = method.parameters_of()
    optimizers = {name: Adam([p for _, p in pairs], lr=3.5e-3) for name, pairs in owned.items()}
    for stage in method.stages():
        begin(method, stage.first_epoch, share_of(0, torch.float32))
        for step in range(STEPS):
            updates = method.updates(share_of(step, torch.float32))
            for update in stepped(updates, dtype):
                optimizers[update.optimizer].zero_grad()
                update.loss.backward()
                average(optimizers[update.optimizer])
                optimizers[update.optimizer].step()
    return {name: value.clone() for name, value in method.state_dict().items()}


def stepped(updates: Iterator[Any], dtype: torch.dtype) -> Iterator[Any]:
    """Autocast around each update, as the loop has it: the backward pass is outside."""
    while True:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            update = next(updates, None)
        if update is None:
            return
        yield update


def gradients(variant: str, prepare: Callable[[Method], None] = nothing) -> dict[str, Tensor]:
    """Loss, gradients and buffers of the last stage in float64, summed over the workers."""
    method = ready(variant, torch.float64, prepare)
    begin(method, method.stages()[-1].first_epoch, share_of(0, torch.float64))
    found = {}
    for update in method.updates(share_of(1, torch.float64)):
        update.loss.backward()
        found[f"loss of {update.optimizer}"] = summed(update.loss.detach())
    found |= {name: summed(p.grad) for name, p in method.named_parameters() if p.grad is not None}
    return found | {name: buffer.double() for name, buffer in method.named_buffers()}


def share_of(seed: int, dtype: torch.dtype) -> Any:
    import torch.distributed as dist

    workers, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
    return (
        share(batch(dtype, seed), rank, workers)
        if 16 % (2 * workers) == 0
        else share(twelve(dtype, seed), rank, workers)
    )


def twelve(dtype: torch.dtype, seed: int) -> Any:
    """Six samples and the same in other clothes: three workers can share them."""

    return of_rows(batch(dtype, seed), torch.tensor([0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13]))


def summed(local: Tensor) -> Tensor:
    return gather(local[None]).sum(0)


def average(optimizer: Adam) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                parameter.grad.copy_(gather(parameter.grad[None]).mean(0))


def check_bits(plain: dict[str, Tensor], again: dict[str, Tensor]) -> None:
    assert plain.keys() == again.keys()
    assert not [name for name in plain if not torch.equal(plain[name], again[name])]


def check_gradients(whole: dict[str, Tensor], parts: dict[str, Tensor]) -> None:
    """Every entry within 1e-12 of the largest of its tensor. A gradient that is 0 but for rounding, such as that of a bias in
    front of a batch norm, is so both ways."""
    assert whole.keys() == parts.keys()
    assert any("tower" in name for name in whole)
    rounding = 1e-13 * max(float(value.abs().max()) for name, value in whole.items() if name.endswith("weight"))
    for name, expected in whole.items():
        largest, error = float(expected.abs().max()), float((parts[name] - expected).abs().max())
        assert error <= (1e-12 * largest if largest > rounding else rounding), name


@pytest.mark.parametrize("variant", VARIANTS)
def test_weights_and_buffers_are_the_same_bits(variant: str) -> None:
    check_bits(*both_ways(variant))


def test_under_autocast_they_are_the_same_bits() -> None:
    check_bits(*(trained(VARIANTS[0], torch.bfloat16, prepare) for prepare in (nothing, recompute_blocks)))


def test_on_several_workers_they_are_the_same_bits(workers: list[dict[str, Any]]) -> None:
    for found in workers:
        check_bits(*found["ways"])


@pytest.mark.parametrize("variant", PER_IMAGE)
def test_micro_batches_give_the_gradient_of_the_whole_batch(variant: str) -> None:
    check_gradients(*both_gradients(variant))


def test_on_several_workers_they_give_the_gradient_of_the_whole_batch(workers: list[dict[str, Any]]) -> None:
    for found in workers:
        check_gradients(*found["gradients"])


# What is kept for the backward pass


def kept_bytes(method: nn.Module, images: Tensor) -> int:
    """Bytes of different tensors that the forward pass keeps, parameters aside."""
    seen = {parameter.untyped_storage().data_ptr() for parameter in method.parameters()}
    found: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in seen:
            found[place] = tensor
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = method(images).square().sum()
    del loss
    return sum(tensor.untyped_storage().nbytes() for tensor in found.values())


def test_a_resnet_keeps_a_third() -> None:
    torch.manual_seed(0)
    network, images = ResNet("resnet50", width=1 / 8).train(), torch.randn(4, 3, 64, 32)
    before = kept_bytes(network, images)
    assert len(blocks_of(network)) == 16
    recompute_blocks(network)
    assert kept_bytes(network, images) < before / 2.5


def counting(network: nn.Module) -> list[str]:
    """To which a name is added for each call of a block's first convolution."""
    calls: list[str] = []
    for name, block in network.named_modules():
        if name.endswith("conv1") and "." in name:
            block.register_forward_hook(lambda *_, name=name: calls.append(name))
    return calls


def test_blocks_run_twice_in_training_and_once_elsewhere() -> None:
    network, images = ResNet("resnet18", width=1 / 8), torch.randn(2, 3, 32, 16)
    recompute_blocks(network)
    calls = counting(network)
    network.train()(images).sum().backward()
    assert sorted(calls) == sorted(2 * list(dict.fromkeys(calls)))
    assert len(calls) == 2 * 8
    for mode, enabled in ((True, False), (False, True), (False, False)):
        calls.clear()
        with torch.set_grad_enabled(enabled):
            network.train(mode)(images)
        assert len(calls) == 8, "in the forward pass"
    assert {int(value) for name, value in network.state_dict().items() if "num_batches" in name} == {2}


def test_statistics_stay_where_the_repeated_pass_fails() -> None:
    """Recomputation ends in the middle of the forward pass, and may end in an error: the buffers are back in both."""
    network, images = ResNet("resnet18", width=1 / 8).train(), torch.randn(2, 3, 32, 16)
    recompute_blocks(network)
    loss = network(images).sum()
    before = {name: (value, value.clone()) for name, value in network.named_buffers()}
    conv = network.get_submodule("layer2.0.conv2")
    handle = conv.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("out of memory")))
    with pytest.raises(RuntimeError, match="out of memory"):
        loss.backward()
    handle.remove()
    for name, value in network.named_buffers():
        assert value is before[name][0], name
        assert torch.equal(value, before[name][1]), name
