"""Several workers compute what one would: gathering, batch norm, pair losses, whole methods.

Processes are started once per number of workers; each test reads what it asks about from what they returned.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector
from torch.optim import Adam

from methods.clothes_sampling import ClothesSampling, draw_clothes, in_other_clothes
from methods.distributed import SyncBatchNorm, gather, gather_uneven, rank, synchronise, world_size
from methods.losses.contrastive import contrastive_loss
from methods.losses.triplet import triplet_cosine_loss
from methods.method import Batch, Method
from methods.sharded.share import parts_of
from tests import golden
from tests.methods.variants import SHARDED, VARIANTS, batch, begin, build, of_rows, share
from tests.orchestration.processes import in_processes

PAIR_CASES = {case.id: case for (case,) in (p.values for p in golden.cases("distributed_pair_losses"))}
PAIR_LOSSES: dict[str, Callable[..., Tensor]] = {
    "triplet_cosine_hard": triplet_cosine_loss,
    "contrastive": contrastive_loss,
}
WORKERS = (2, 4)
STEPS = 5
TRAINED = ("baseline with triplet loss", "cal", "cal with memory", "ifd", "pixel sampling", "ccaf")
TRAINED_SHARDED = ("cal with memory, sharded", "cal on MGN, half of the classes")
SHORT = dict.fromkeys((*TRAINED, *SHARDED, *(f"{name}, sharded" for name in SHARDED)))  # the others take long


def everything() -> dict[str, Any]:
    """What one worker computes of all that is tested below."""
    return {
        "gather": gathering(),
        "batch norm": {str(dtype): batch_norm(dtype) for dtype in (torch.float64, torch.float32, torch.bfloat16)},
        "uneven": uneven_batch_norm(),
        "gradients": {name: gradients(name) for name in SHORT},
        "trained": {name: trained(name) for name in (*TRAINED, *TRAINED_SHARDED)},
        "clothes": other_clothes(),
    }


@pytest.fixture(scope="module")
def results() -> dict[int, list[dict[str, Any]]]:
    """Number of workers → each worker's results."""
    return {1: [everything()]} | {workers: in_processes(workers, everything) for workers in WORKERS}


@pytest.fixture(scope="module")
def pair_results() -> dict[int, list[dict[str, Any]]]:
    """Number of workers → each worker's results of the golden cases for so many."""
    sizes = {workers_of(case) for case in PAIR_CASES.values() if not case.problem}
    return {workers: in_processes(workers, pair_losses) for workers in sizes if workers}


# What the workers compute


def gathering() -> dict[str, Tensor]:
    local = torch.arange(6.0).view(2, 3) + 10 * rank()
    rows = local.clone().requires_grad_()
    everybodys = gather(rows)
    (everybodys * weights(everybodys)).sum().backward()
    labels = gather(torch.tensor([rank()]))
    return {"rows": everybodys.detach(), "labels": labels, "d": rows.grad}


def summed(local: Tensor) -> Tensor:
    """Over the workers, on each of them."""
    return gather(local[None]).sum(0)


def weights(like: Tensor) -> Tensor:
    """Another weighting on each worker."""
    return torch.arange(1.0, like.numel() + 1).view_as(like) * (rank() + 1)


def norms_under_test(dtype: torch.dtype) -> tuple[nn.Sequential, Tensor, Tensor]:
    """A 2-D and a 1-D batch norm, an input of 8 rows far from zero mean, and weights for the outputs."""
    torch.manual_seed(3)
    norms = nn.Sequential(nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.BatchNorm1d(24, momentum=0.3)).to(dtype)
    for parameter in norms.parameters():
        nn.init.normal_(parameter)
    return norms, 5 + 3 * torch.randn(8, 4, 3, 2, dtype=dtype), torch.randn(8, 24, dtype=dtype)


def run_norms(norms: nn.Module, images: Tensor, output_weights: Tensor) -> dict[str, Tensor]:
    images = images.clone().requires_grad_()
    for _ in range(2):
        outputs = norms(images)
    (outputs * output_weights).sum().backward()
    assert images.grad is not None
    return {"outputs": outputs.detach(), "grad": images.grad, **parameter_gradients(norms), **dict(norms.state_dict())}


def parameter_gradients(module: nn.Module) -> dict[str, Tensor]:
    return {f"grad of {n}": summed(p.grad) for n, p in module.named_parameters() if p.grad is not None}


def batch_norm(dtype: torch.dtype) -> dict[str, Tensor]:
    norms, images, output_weights = norms_under_test(torch.float32 if dtype == torch.bfloat16 else dtype)
    rows = slice(rank() * 8 // world_size(), (rank() + 1) * 8 // world_size())
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        return run_norms(synchronise(norms), images.to(dtype)[rows], output_weights[rows])


def uneven_batch_norm() -> dict[str, Tensor]:
    norms, images, output_weights = norms_under_test(torch.float64)
    bounds = {1: [0, 8], 2: [0, 3, 8], 4: [0, 1, 3, 4, 8]}.get(world_size()) or [*range(world_size()), 8]
    rows = slice(bounds[rank()], bounds[rank() + 1])
    return run_norms(synchronise(norms), images[rows], output_weights[rows])


def workers_of(case: golden.Case) -> int:
    """The number of workers that a golden case asks for, at most 8; else 0."""
    workers = case.params.get("world_size")
    return workers if isinstance(workers, int) and 1 <= workers <= 8 else 0


def pair_losses() -> dict[str, dict[torch.dtype, dict[str, Tensor]] | Exception]:
    """Case → its results by dtype, or what it raised on every worker alike."""
    found: dict[str, dict[torch.dtype, dict[str, Tensor]] | Exception] = {}
    for name, case in PAIR_CASES.items():
        if not case.problem and workers_of(case) == world_size():
            try:
                found[name] = {dtype: pair_loss(case, dtype) for dtype in golden.DTYPES}
            except Exception as error:  # an unknown kind fails its own case and no other
                found[name] = error
    return found


def pair_loss(case: golden.Case, dtype: torch.dtype) -> dict[str, Tensor]:
    given = case.inputs(dtype)
    rows, uneven = divmod(len(given["features"]), world_size())
    if uneven or not rows:
        raise golden.GoldenError(f"{case}: {len(given['features'])} rows do not divide")
    own = slice(rank() * rows, (rank() + 1) * rows)
    features = given["features"][own].clone().requires_grad_()
    loss = loss_of_kind(case, features, given["targets"][own])
    loss.backward()
    assert features.grad is not None
    return {"loss": loss.detach(), "grad": gather(features.grad) / world_size()}


def loss_of_kind(case: golden.Case, features: Tensor, labels: Tensor) -> Tensor:
    """A kind is a loss and its setting: "contrastive scale 16"."""
    name, _, settings = case.params["kind"].partition(" ")
    first = rank() * len(features)
    loss = case.choose(PAIR_LOSSES, name)
    value = float(re.findall(r"[\d.]+", settings)[-1])
    setting = {"margin": value} if loss is triplet_cosine_loss else {"scale": value, "first": first}
    return loss(features, labels, gather(features), gather(labels), **setting)


def backward(method: Method, whole: Batch, optimizers: dict[str, Adam]) -> dict[str, Tensor]:
    """One step on this worker's share; gradients are averaged over the workers, as a strategy would."""
    averaged = {}
    for update in method.updates(share(whole, rank(), world_size())):
        method.zero_grad()
        update.loss.backward()
        divided = parts_of(method)
        for name, parameter in method.named_parameters():
            if name in divided and parameter.grad is not None:
                parameter.grad /= world_size()
                averaged[f"{update.optimizer}: {name}"] = gather_uneven(parameter.grad)
        reached = {n: p for n, p in method.named_parameters() if n not in divided and p.grad is not None}
        none = whole.images.new_empty(0)
        means = summed(parameters_to_vector([none, *(p.grad for p in reached.values())])) / world_size()
        for (name, parameter), mean in zip(
            reached.items(), means.split([p.numel() for p in reached.values()]), strict=True
        ):
            parameter.grad = mean.view_as(parameter)
            averaged[f"{update.optimizer}: {name}"] = parameter.grad.clone()
        if optimizers:
            optimizers[update.optimizer].step()
    return averaged


def of_three() -> Batch:
    """Six samples, and the same in other clothes: a person has two, one or three images. The last third shows no clothes."""
    found = of_rows(batch(), torch.tensor([0, 1, 2, 4, 5, 6]).repeat(2) + torch.tensor([0, 8]).repeat_interleave(6))
    assert found.parsing is not None
    found.parsing.view(2, 6, 32, 16)[:, 4:] = 0
    return found


def gradients(variant: str, whole: Batch | None = None) -> dict[str, Tensor]:
    """Of the first stage, and of all stages where one works with a survey."""
    whole = whole or batch()
    method = synchronise_all(build(variant))
    if not any(stage.samples for stage in method.stages()):
        return backward(method, whole, optimizers={})
    found = {}
    for stage in method.stages():
        begin(method, stage.first_epoch, uneven_share(batch()))
        found |= {f"{stage.name}, {name}": value for name, value in backward(method, whole, {}).items()}
    return found


def uneven_share(whole: Batch) -> Batch:
    """This worker's rows of a survey: one more on the first, one less on the last."""
    bounds = [0, *(worker * 16 // world_size() + 1 for worker in range(1, world_size())), 16]
    return of_rows(whole, torch.arange(bounds[rank()], bounds[rank() + 1]))


def trained(variant: str) -> dict[str, Tensor]:
    method = synchronise_all(build(variant))
    begin(method, method.stages()[-1].first_epoch if method.stages()[0].samples else 0, uneven_share(batch()))
    owned = method.parameters_of()
    optimizers = {name: Adam([p for _, p in pairs], lr=3.5e-3, weight_decay=5e-4) for name, pairs in owned.items()}
    for step in range(STEPS):
        backward(method, batch(seed=step), optimizers)
    divided = parts_of(method)
    state = method.state_dict()
    return {name: gather_uneven(value) if name in divided else value.clone() for name, value in state.items()}


def synchronise_all(method: Method) -> Method:
    assert synchronise(method) is method
    assert not any(type(m) in (nn.BatchNorm1d, nn.BatchNorm2d) for m in method.modules())
    return method.train()


def other_clothes() -> Tensor:
    """This worker's part of eight samples, uint8, in clothes from all of them."""
    random = torch.Generator().manual_seed(9)
    images = torch.randint(0, 256, (8, 3, 16, 8), dtype=torch.uint8, generator=random)
    parsing = torch.randint(0, 6, (8, 16, 8), dtype=torch.uint8, generator=random)
    settings = ClothesSampling(torch.arange(256, dtype=torch.uint8), probability=0.8)
    rows = slice(rank() * 8 // world_size(), (rank() + 1) * 8 // world_size())
    return in_other_clothes(images[rows], parsing[rows], settings, draw_clothes(settings, 8, (1, 2, 3)))


# What must hold


Results = dict[int, list[dict[str, Any]]]
at_workers = pytest.mark.parametrize("workers", WORKERS)


def assert_same(actual: dict[str, Tensor], expected: dict[str, Tensor], rtol: float, atol: float = 1e-12) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        scale = value.double().abs().max().item() if value.numel() else 0.0
        torch.testing.assert_close(
            actual[name], value, rtol=rtol, atol=atol + rtol * scale, msg=lambda text, n=name: f"{n}\n{text}"
        )


@at_workers
def test_gather_holds_all_rows_in_rank_order_and_sums_their_gradients(results: Results, workers: int) -> None:
    per_worker = [result["gather"] for result in results[workers]]
    rows = torch.cat([torch.arange(6.0).view(2, 3) + 10 * worker for worker in range(workers)])
    factor = workers * (workers + 1) / 2  # Σ of the workers' weights
    for worker, found in enumerate(per_worker):
        assert torch.equal(found["rows"], rows)
        assert found["labels"].tolist() == list(range(workers))
        assert torch.equal(found["d"], factor * torch.arange(1.0, 6 * workers + 1).view(-1, 3)[2 * worker :][:2])


def test_one_worker_gathers_itself() -> None:
    x = torch.randn(2, 3)
    assert gather(x) is x
    assert (rank(), world_size()) == (0, 1)


@at_workers
@pytest.mark.parametrize("dtype", golden.DTYPES, ids=str)
def test_batch_norm_of_several_workers_is_that_of_the_global_batch(
    results: Results, workers: int, dtype: torch.dtype
) -> None:
    check_norms([result["batch norm"][str(dtype)] for result in results[workers]], dtype)


@at_workers
def test_batch_norm_weighs_workers_by_their_rows(results: Results, workers: int) -> None:
    check_norms([result["uneven"] for result in results[workers]], torch.float64)


def check_norms(found: list[dict[str, Tensor]], dtype: torch.dtype) -> None:
    expected = run_norms(*norms_under_test(dtype))
    whole = {name: torch.cat([part[name] for part in found]) for name in ("outputs", "grad")}
    for part in found:
        assert_same(part | whole, expected, rtol=1e-11 if dtype == torch.float64 else 2e-4)
    for name in expected.keys() - whole.keys():
        assert all(torch.equal(part[name], found[0][name]) for part in found), f"{name} differs between workers"


@at_workers
def test_batch_norm_keeps_its_statistics_in_float32_under_autocast(results: Results, workers: int) -> None:
    found = [result["batch norm"]["torch.bfloat16"] for result in results[workers]]
    alone = results[1][0]["batch norm"]["torch.bfloat16"]
    for part in found:
        assert part["outputs"].dtype == alone["outputs"].dtype
        assert part["grad"].dtype == torch.bfloat16
        statistics = {n: v for n, v in part.items() if "running" in n}
        assert_same(statistics, {n: alone[n] for n in statistics}, rtol=1e-2)
    whole = torch.cat([part["grad"] for part in found])
    torch.testing.assert_close(whole, alone["grad"], rtol=0.05, atol=0.05)


def test_synchronise_keeps_the_objects_that_optimizers_and_checkpoints_hold() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Sequential(nn.BatchNorm2d(4, affine=False)))
    before = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    network.eval()
    assert synchronise(network) is network
    after = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    assert list(after) == list(before)
    assert all(after[name] is value for name, value in before.items())
    assert isinstance(network[1], SyncBatchNorm)
    assert not network[1].training
    assert isinstance(synchronise(nn.BatchNorm1d(2)), SyncBatchNorm)


@pytest.mark.parametrize("dtype", golden.DTYPES, ids=str)
@pytest.mark.parametrize("case", golden.cases("distributed_pair_losses"))
def test_golden_distributed_pair_loss(case: golden.Case, dtype: torch.dtype, pair_results: Results) -> None:
    assert workers_of(case), f"{case}: as many workers are not tested"
    by_worker = [result[case.id] for result in pair_results[workers_of(case)]]
    if isinstance(by_worker[0], Exception):
        if case.allows(by_worker[0], ours=True):
            return
        raise by_worker[0]
    found = [result[dtype] for result in by_worker]
    case.check("loss_per_rank", torch.stack([part["loss"] for part in found]))
    case.check("global_loss", torch.stack([part["loss"] for part in found]).mean())
    for part in found:
        case.check("grad_global", part["grad"])


@at_workers
def test_clothes_come_from_the_global_batch_whatever_the_number_of_workers(results: Results, workers: int) -> None:
    alone = results[1][0]["clothes"]
    assert torch.equal(torch.cat([result["clothes"] for result in results[workers]]), alone)


def gradients_of_three() -> dict[str, dict[str, Tensor]]:
    return {name: gradients(name, of_three()) for name in VARIANTS}


@pytest.fixture(scope="module")
def thirds() -> list[dict[str, dict[str, Tensor]]]:
    return in_processes(3, gradients_of_three)


@pytest.mark.parametrize("variant", VARIANTS)
def test_three_workers_give_the_gradient_of_one(thirds: list[dict[str, dict[str, Tensor]]], variant: str) -> None:
    """An odd number; persons with uneven numbers of images; a worker that sees no clothes."""
    expected = gradients(variant, of_three())
    for found in thirds:
        assert_same(found[variant], expected, rtol=1e-10)


def test_eight_workers_give_the_gradient_of_one() -> None:
    """A sample each."""
    variant = "baseline with triplet loss"
    for found in in_processes(8, gradients, variant):
        assert_same(found, gradients(variant), rtol=1e-10)


@pytest.mark.parametrize("variant", TRAINED)
def test_same_global_batch_gives_the_same_gradient_on_1_2_4_workers(results: Results, variant: str) -> None:
    expected = results[1][0]["gradients"][variant]
    for workers in WORKERS:
        for result in results[workers]:
            assert_same(result["gradients"][variant], expected, rtol=1e-9)


def gradients_of_the_others() -> dict[str, dict[str, Tensor]]:
    return {name: gradients(name) for name in VARIANTS if name not in SHORT}


@pytest.mark.long
@pytest.mark.parametrize("workers", WORKERS)
def test_so_does_every_other_variant(workers: int) -> None:
    expected = gradients_of_the_others()
    for found in in_processes(workers, gradients_of_the_others):
        for variant, gradient in expected.items():
            assert_same(found[variant], gradient, rtol=1e-9)


@pytest.mark.parametrize("variant", SHARDED)
def test_sharded_classes_give_the_gradient_of_whole_ones(results: Results, variant: str) -> None:
    expected = results[1][0]["gradients"][variant]
    for workers in (1, *WORKERS):
        for result in results[workers]:
            assert_same(result["gradients"][f"{variant}, sharded"], expected, rtol=1e-9)


@pytest.mark.parametrize("variant", [*TRAINED, *TRAINED_SHARDED])
def test_five_steps_give_the_same_weights_and_statistics_on_1_2_4_workers(results: Results, variant: str) -> None:
    expected = results[1][0]["trained"][variant]
    for workers in WORKERS:
        for result in results[workers]:
            assert_same(result["trained"][variant], expected, rtol=1e-9)
            for name, value in results[workers][0]["trained"][variant].items():
                assert torch.equal(result["trained"][variant][name], value), f"{name} differs between workers"
