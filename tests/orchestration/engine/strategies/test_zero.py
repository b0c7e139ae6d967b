"""What ZeRO holds where: engines over what an update reaches, parts of states, and nothing said on standard output.

That it trains what data-parallel trains is in test_choice.py.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import linear

from orchestration.engine.strategies.zero import ZeRO, leaves, settings
from tests.orchestration.engine.strategies.cells import Training
from tests.orchestration.processes import in_processes

ROOT = Path(__file__).resolve().parents[4]


def test_the_leaves_of_a_loss_are_the_parameters_that_get_a_gradient() -> None:
    torch.manual_seed(0)
    used, unused, held, frozen = (nn.Linear(3, 3) for _ in range(4))
    frozen.requires_grad_(False)
    hidden = frozen(used(torch.randn(2, 3)))
    loss = linear(hidden, held.weight.detach()).sum() + 0 * unused(torch.randn(2, 3)).detach().sum()
    found = leaves(loss)
    loss.backward()
    every = [p for module in (used, unused, held, frozen) for p in module.parameters()]
    assert found == {p for p in every if p.grad is not None} == set(used.parameters())


def test_nothing_of_deepspeed_is_left_to_defaults_that_would_change_training() -> None:
    given = settings(2, offload=False)
    assert given["gradient_clipping"] == 0.0, "its own default is 1"
    assert given["zero_optimization"]["stage"] == 2
    assert not any(given[name]["enabled"] for name in ("fp16", "bf16", "torch_autocast"))


def held() -> dict[str, Any]:
    """Of a worker, epoch by epoch: what the engine of IFD's optimizer covers, its groups, and the size of its parts."""
    training = Training("ifd", "zero-1", "float32")
    strategy = training.strategy
    assert isinstance(strategy, ZeRO)
    optimizer = training.optimizers["model"]
    found: dict[str, Any] = {"covers": [], "groups": [], "sizes": []}
    for epoch in range(3):
        training.epoch(epoch)
        parts = [group["params"][0] for group in optimizer.param_groups]
        found["covers"].append(set(strategy.names["model"]))
        found["groups"].append(sorted(float(optimizer.state[part]["step"]) for part in parts))
        found["sizes"].append(sum(part.numel() for part in parts))
    found["numbers"] = {name: parameter.numel() for name, parameter in strategy.owned["model"]}
    return found


@pytest.fixture(scope="module")
def workers() -> list[dict[str, Any]]:
    return in_processes(2, held)


def test_an_engine_covers_what_the_stage_reaches_with_a_group_for_each_number_of_steps(
    workers: list[dict[str, Any]],
) -> None:
    """Two epochs of two steps of the attention stream alone, then one of both."""
    for found in workers:
        attention = {name for name in found["numbers"] if name.startswith("attention")}
        assert found["covers"] == [attention, attention, found["numbers"].keys()]
        assert found["groups"] == [[2.0], [4.0], [2.0, 6.0]]


def test_each_worker_holds_half_of_the_numbers_of_its_engine(workers: list[dict[str, Any]]) -> None:
    for found in workers:
        for covers, size in zip(found["covers"], found["sizes"], strict=True):
            whole = sum(found["numbers"][name] for name in covers)
            assert whole / 2 <= size <= whole / 2 + 64, "padding apart"


QUIET = """
import os
os.environ["PATH"] = ""
from orchestration.engine.strategies.zero import import_deepspeed
import_deepspeed()
"""


def test_deepspeed_prints_nothing_and_needs_no_compiler() -> None:
    done = subprocess.run([sys.executable, "-c", QUIET], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == ""
