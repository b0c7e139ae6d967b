"""Every strategy beside the training that it must be: method by method, stage by stage.

`make strategies` walks all cells and writes docs/strategies.md; the suite walks one for each strategy and method.
"""

from __future__ import annotations

import argparse
import functools
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import SGD, Adam, Optimizer

from datasets.streaming.stream import HostBatch
from methods import METHODS
from methods.distributed import gather_uneven, synchronise
from methods.method import Method
from orchestration.engine.arithmetic import DTYPES
from orchestration.engine.loop import Optimization, TrainingProgress, train_step
from orchestration.engine.strategies.choice import build_strategy
from orchestration.engine.strategies.strategy import FullState, Strategy, state_name
from tests.methods.variants import PARTS, PROMPTED, SMALL, VARIANTS, batch, begin, facts, share
from tests.orchestration.processes import in_processes

STEPS = 2  # of an epoch
STRATEGIES: dict[str, dict[str, Any]] = {
    "data-parallel": {},
    "fsdp": {"name": "fsdp"},
    "zero-1": {"name": "zero", "stage": 1},
    "zero-2": {"name": "zero", "stage": 2},
}
# One case a method, through all its stages.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "baseline, refined PCB": (
        "baseline",
        PARTS | {"body": "pcb", "refine_from_epoch": 1, "finetune_from_epoch": 2, "triplet_weight": 1.0},
    ),
    "cal": ("cal", SMALL | {"clothes_classifier_from_epoch": 1, "adversarial_from_epoch": 2, "triplet_weight": 1.0}),
    "cal, sharded": (
        "cal",
        SMALL | {"clothes_classifier_from_epoch": 1, "adversarial_from_epoch": 2, "shard_classes": True},
    ),
    "ifd": ("ifd", SMALL | {"joint_from_epoch": 2, "triplet_weight": 1.0}),
    "pixel sampling": ("pixel-sampling", SMALL),
    "ccaf": ("ccaf", PROMPTED | {"body": "clip-cnn", "width": 1 / 4}),
}
NONE = torch.empty(0, dtype=torch.int64)
HOST = HostBatch(NONE, None, NONE, NONE, NONE, NONE, number=0, wait_s=0.0)


@dataclass(frozen=True)
class Cell:
    """A strategy, a method with its settings, a precision; what trains beside it, and how near it must be: 0 is bit-equal."""

    strategy: str
    case: str
    precision: str
    beside: str
    tolerance: float


class Ended(NamedTuple):
    """How a stage ended: its title, the whole state, and the norm of every update in it."""

    stage: str
    state: FullState
    norms: list[float]


def cells(cases: Sequence[str], *, all_precisions: bool) -> list[Cell]:
    """fsdp beside one process in float64; zero beside data-parallel with two workers, whose sum of two numbers commutes.

    zero cannot divide classes over workers, and data-parallel does not where there is one.
    """
    found = []
    for case in cases:
        found.append(Cell("fsdp", case, "float64", "one process", 1e-9))
        is_divided = (VARIANTS | CASES)[case][1].get("shard_classes", False)
        if is_divided:
            found.append(Cell("data-parallel", case, "float64", "one process", 1e-9))
        for strategy in () if is_divided else ("zero-1", "zero-2"):
            found.append(Cell(strategy, case, "float32", "data-parallel", 0.0))
            if all_precisions:
                found.append(Cell(strategy, case, "bfloat16", "data-parallel", 0.0))
        if all_precisions:
            found.append(Cell("fsdp", case, "float32", "data-parallel", 0.0))
            found.append(Cell("fsdp", case, "bfloat16", "data-parallel", 0.0))
    return found


def build(case: str, precision: str) -> Method:
    name, settings = (VARIANTS | CASES)[case]
    torch.manual_seed(7)
    method = METHODS[name](METHODS[name].Settings(**settings), facts())
    synchronise(method)
    return method.to(DTYPES[precision])


def optimizers_of(method: Method) -> dict[str, Optimizer]:
    """Adam with weight decay, which moves a parameter of zero gradient, and SGD with momentum for all but the first.

    Adam is not fused: fused, torch rounds the last numbers of a tensor in another way, and a partition has other ends. By its
    eps a gradient that is rounding alone, such as that of a bias in front of a batch norm, moves nothing.
    """
    kinds: list[Any] = [lambda p: Adam(p, lr=1e-3, eps=1e-4, weight_decay=0.1), lambda p: SGD(p, lr=0.05, momentum=0.9)]
    owned = {name: [p for _, p in pairs] for name, pairs in method.parameters_of().items()}
    return {name: kinds[min(index, 1)](parameters) for index, (name, parameters) in enumerate(owned.items())}


@contextmanager
def lost_hooks_are_errors() -> Iterator[None]:
    """FSDP loses a backward hook where a view is changed in place, and torch only warns."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*[hH]ook.*")
        yield


class Training:
    """A method under a strategy, in this process."""

    def __init__(
        self,
        case: str,
        strategy: str,
        precision: str,
        before: FullState | None = None,
        change: Callable[[Method], None] = lambda method: None,
    ) -> None:
        """change: what is done to the method before the strategy has it."""
        self.method, self.precision = build(case, precision).train(), precision
        change(self.method)
        self.optimizers = optimizers_of(self.method)
        self.strategy: Strategy = build_strategy(**STRATEGIES[strategy])
        if before is not None:
            self.method.load_state_dict(before.model)
        self.strategy.prepare(self.method, self.optimizers)
        if before is not None:
            self.strategy.load_optimizers(states_of(self.method, before))

    def epoch(self, epoch: int) -> Ended:
        norms: list[float] = []
        own = [share(self.batch(seed), self.strategy.rank, self.strategy.workers) for seed in range(STEPS)]
        with self.strategy.whole():
            begin(self.method, epoch, own[0])
        for seed, one in enumerate(own):
            at = TrainingProgress(epoch, seed, epoch * STEPS + seed)
            optimization = Optimization(self.optimizers, lambda name, epoch: 1.0)
            with lost_hooks_are_errors():
                logs = train_step(self.method, one, optimization, self.strategy, self.precision, at, HOST)
            norms += [value for name, value in logs.items() if name.startswith("gradient-norm/")]
        return Ended(self.method.stage.title, self.state(), norms)

    def batch(self, seed: int) -> Any:
        return batch(DTYPES[self.precision], seed=seed)

    def state(self) -> FullState:
        """The whole state, on rank 0. Rows that are divided over workers are put together."""
        found, own = self.strategy.full_state(), self.strategy.own_rows()
        divided = [
            {name: gather_uneven(tensor) if name in rows else tensor for name, tensor in tensors.items()}
            for tensors, rows in zip(own.state, (own.model, own.optimizers), strict=True)
        ]
        if self.strategy.rank:
            return FullState({}, {})
        whole = (held | rows for held, rows in zip(found, divided, strict=True))
        return FullState(*({name: tensor.clone() for name, tensor in tensors.items()} for tensors in whole))


def states_of(method: Method, state: FullState) -> dict[tuple[str, str], dict[str, Tensor]]:
    found: dict[tuple[str, str], dict[str, Tensor]] = {}
    for name, pairs in method.parameters_of().items():
        for parameter, _ in pairs:
            keys = ("step", "exp_avg", "exp_avg_sq", "momentum_buffer")
            paths = {key: state_name(name, parameter, key) for key in keys}
            own = {key: state.optimizers[path].clone() for key, path in paths.items() if path in state.optimizers}
            if own:
                found[name, parameter] = own
    return found


def trained(case: str, strategy: str, precision: str) -> list[Ended]:
    training = Training(case, strategy, precision)
    last = min(3, training.method.stages()[-1].first_epoch)  # a stage that begins later is none of this case
    return [training.epoch(epoch) for epoch in range(last + 1)]


def difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest one of any tensor, relative to its largest number; infinite where one has other tensors."""
    if found.keys() != expected.keys():
        return float("inf")
    return max((apart(found[name].double(), value.double()) for name, value in expected.items()), default=0.0)


def apart(found: Tensor, expected: Tensor) -> float:
    if torch.equal(found, expected):
        return 0.0
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-12))


def compared(one: Ended, other: Ended) -> tuple[str, float, float]:
    """The stage, and how far states and norms are apart."""
    assert one.stage == other.stage
    states = max(
        difference(one.state.model, other.state.model), difference(one.state.optimizers, other.state.optimizers)
    )
    norms = max(abs(a - b) / max(abs(b), 1e-12) for a, b in zip(one.norms, other.norms, strict=True))
    return one.stage, states, norms


def walked(wanted: Sequence[Cell]) -> list[tuple[list[Ended], list[Ended]]]:
    """For each cell what its strategy ended with, and what data-parallel did where that is beside it. In each worker."""
    found, beside = [], functools.cache(trained)
    for cell in wanted:
        ours = trained(cell.case, cell.strategy, cell.precision)
        is_beside = cell.beside == "data-parallel"
        found.append((ours, beside(cell.case, "data-parallel", cell.precision) if is_beside else []))
    return found if dist.get_rank() == 0 else []


def walk(wanted: Sequence[Cell]) -> dict[Cell, list[tuple[str, float, float]]]:
    """All cells in one set of two workers: for each epoch the stage, and how far states and norms are apart."""
    [ends, _] = in_processes(2, walked, list(wanted))
    found = {}
    for cell, (ours, others) in zip(wanted, ends, strict=True):
        others = others or trained(cell.case, "data-parallel", cell.precision)
        found[cell] = [compared(one, other) for one, other in zip(ours, others, strict=True)]
    return found


PAGE = Path(__file__).resolve().parents[4] / "docs" / "strategies.md"
HEAD = """# Strategies: the same training, held in other ways

`strategy={name: data-parallel}` holds all state on every worker, `fsdp` weights, gradients and optimizers in parts,
`{name: zero, stage: 1}` optimizers in parts, `stage: 2` gradients, too. None changes what is trained, and a run may be resumed
under another one. More workers never change the global batch or the learning rate.

Each line is a method with its settings on two workers, beside the training that it must be, in epochs of two steps through
all of its stages. The number is the largest difference of any weight, buffer or optimizer state, relative to the
largest number of its tensor; 0 is bit for bit. Adam is not fused here: fused, torch rounds the last numbers of a tensor
differently on a CPU, and zero's parts end elsewhere, which is 1e-7 after a step.

"""
TAIL = """
`zero` is refused with `precision=float64`, because DeepSpeed keeps 32-bit weights; `fsdp` holds them. It is refused with
`method.shard_classes` ("sharded" above), too: its flat copy of all parameters is the same on all workers. With three workers or
more sums have another order in `zero` and `fsdp`, so that they agree by rounding. `strategy.offload=cpu` was never run: it
needs a GPU. `make strategies` writes this page.
"""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument(
        "--all", action="store_true", help="every variant of every method, half an hour; else one a method"
    )
    cases = list(CASES) + [name for name in VARIANTS if name not in CASES and options.parse_args().all]
    lines = ["| method | strategy | precision | beside | by stage |", "|---|---|---|---|---|"]
    failed = 0
    for case in cases:
        for cell, ends in walk(cells([case], all_precisions=True)).items():
            by_stage = {stage: max(apart for title, apart, _ in ends if title == stage) for stage, _, _ in ends}
            failed += max(by_stage.values()) > cell.tolerance
            found = ", ".join(f"{stage}: {apart:.0e}" if apart else f"{stage}: 0" for stage, apart in by_stage.items())
            lines.append(f"| {cell.case} | {cell.strategy} | {cell.precision} | {cell.beside} | {found} |")
            print(lines[-1], flush=True)
    PAGE.write_text(HEAD + "\n".join(lines) + "\n" + TAIL, encoding="utf-8")
    sys.exit(f"{failed} cells are not the same training" if failed else 0)


if __name__ == "__main__":
    main()
