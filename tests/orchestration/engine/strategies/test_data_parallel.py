"""Data-parallel gradients equal those of one process, in whatever order they arrive."""

from typing import cast

import pytest
import torch
from torch import nn
from torch.optim import SGD, Optimizer

from methods.method import Method
from orchestration.engine.strategies.data_parallel import DataParallel, fixed_buckets
from orchestration.engine.strategies.single_process import SingleProcess
from tests.orchestration.processes import in_processes


class TwoHeads(nn.Module):
    """`late` is registered first and used last; `unused` is reached by no update."""

    def __init__(self) -> None:
        super().__init__()
        self.late = nn.Linear(6, 3)
        self.body = nn.Linear(4, 6)
        self.unused = nn.Linear(2, 2)
        self.other = nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = self.body(x).tanh()
        return self.late(hidden), self.other(hidden.detach())

    def parameters_of(self) -> dict[str, list[tuple[str, nn.Parameter]]]:
        named = list(self.named_parameters())
        return {
            "model": [pair for pair in named if not pair[0].startswith("other")],
            "other": [pair for pair in named if pair[0].startswith("other")],
        }


def build() -> TwoHeads:
    torch.manual_seed(0)
    return TwoHeads().double()


def gradients(workers: int, bucket_bytes: int) -> dict[str, torch.Tensor | None]:
    """Two updates from one forward pass, as methods make them."""
    model = build()
    x = torch.randn(8, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    strategy = DataParallel(bucket_bytes) if workers > 1 else SingleProcess()
    optimizers: dict[str, Optimizer] = {n: SGD([p for _, p in pairs]) for n, pairs in model.parameters_of().items()}
    strategy.prepare(cast("Method", model), optimizers)
    share = 8 // workers
    main, other = model(x[strategy.rank * share : (strategy.rank + 1) * share])
    strategy.backward("other", other.square().mean())
    strategy.backward("model", main.pow(4).mean())
    return {name: p.grad for name, p in model.named_parameters()}


BUCKET_BYTES = {"one each": 1, "several": 200, "all in one": 1 << 20}


def everything() -> tuple[dict[str, dict[str, torch.Tensor | None]], list[float]]:
    """What the tests ask of two workers, in one start of processes: gradients by bucket size, and a mean over ranks."""
    strategy = DataParallel()
    mean = strategy.mean(torch.tensor([float(strategy.rank), 1.0]))
    return {name: gradients(2, size) for name, size in BUCKET_BYTES.items()}, mean.tolist()


@pytest.fixture(scope="module")
def two_workers() -> list[tuple[dict[str, dict[str, torch.Tensor | None]], list[float]]]:
    return in_processes(2, everything)


@pytest.mark.parametrize("buckets", BUCKET_BYTES)
def test_two_workers_give_the_gradient_of_one(two_workers, buckets: str) -> None:
    alone = gradients(1, BUCKET_BYTES[buckets])
    for shared, _ in two_workers:
        for name, gradient in alone.items():
            if gradient is None:
                assert shared[buckets][name] is None
            else:
                torch.testing.assert_close(shared[buckets][name], gradient, rtol=1e-12, atol=1e-14)


def test_means_are_taken_over_workers(two_workers) -> None:
    assert [mean for _, mean in two_workers] == [[0.5, 1.0], [0.5, 1.0]]


def test_a_parameter_that_no_update_reaches_keeps_no_gradient() -> None:
    assert gradients(1, 1)["unused.weight"] is None


def test_buckets_keep_registration_order_backwards_and_split_by_size_and_dtype() -> None:
    parameters = [
        nn.Parameter(torch.zeros(n, dtype=d))
        for n, d in [(4, torch.float32), (2, torch.float32), (3, torch.float64), (1, torch.float64)]
    ]
    buckets = fixed_buckets(parameters, 24)  # bytes
    sizes = [[p.numel() for p in bucket.parameters] for bucket in buckets]
    assert sizes == [[1], [3], [2, 4]]
    assert [p.numel() for bucket in buckets for p in bucket.parameters] == [1, 3, 2, 4]
