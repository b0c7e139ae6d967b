"""Every strategy is the same training: fsdp as one process in float64, zero bit for bit as data-parallel."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestration.engine.strategies.choice import build_strategy
from orchestration.engine.strategies.single_process import SingleProcess
from tests.orchestration.engine.strategies.cells import CASES, Cell, Ended, Training, cells, compared, walk
from tests.orchestration.processes import in_processes

ROOT = Path(__file__).resolve().parents[4]
Found = dict[Cell, list[tuple[str, float, float]]]
WANTED = cells(list(CASES), all_precisions=False)


@pytest.fixture(scope="module")
def found() -> Found:
    return walk(WANTED)


@pytest.mark.parametrize("cell", WANTED, ids=lambda cell: f"{cell.strategy}, {cell.case}")
def test_a_strategy_trains_what_it_is_beside_in_every_stage(found: Found, cell: Cell) -> None:
    for stage, states, norms in found[cell]:
        assert states <= cell.tolerance, stage
        assert norms <= max(cell.tolerance, 1e-5), "sums of squares have another order"


def test_the_cases_go_through_all_stages(found: Found) -> None:
    stages = {case: {stage for cell in WANTED if cell.case == case for stage, _, _ in found[cell]} for case in CASES}
    assert {case: len(titles) for case, titles in stages.items()} == {
        "baseline, refined PCB": 3,
        "cal": 3,
        "cal, sharded": 3,
        "ifd": 2,
        "pixel sampling": 1,
        "ccaf": 2,
    }


def handed_on(chain: list[str], case: str, precision: str) -> list[Ended]:
    """Each epoch under another strategy, from the state that the one before has left on rank 0."""
    ends, before = [], None
    for epoch, strategy in enumerate(chain):
        training = Training(case, strategy, precision, before)
        ends.append(training.epoch(epoch))
        box: list[Any] = [ends[-1].state]
        torch.distributed.broadcast_object_list(box, src=0)
        before = copy.deepcopy(box[0])
    return ends


def test_a_run_goes_on_under_another_strategy() -> None:
    """In mid-run, with momenta and numbers of steps, over the beginnings of stages."""
    case = "cal"
    chain, all_zero = ["zero-2", "fsdp", "data-parallel"], ["zero-1", "data-parallel", "zero-2"]
    mixed, zero, plain = (
        in_processes(2, handed_on, one, case, "float32")[0] for one in (chain, all_zero, ["data-parallel"] * 3)
    )
    for one, other in zip(zero, plain, strict=True):
        assert compared(one, other)[1] == 0
    for one, other in zip(mixed, plain, strict=True):
        assert compared(one, other)[1] <= 1e-3


def test_one_process_needs_no_strategy() -> None:
    for name in ("data-parallel", "fsdp", "zero"):
        assert isinstance(build_strategy(name), SingleProcess)


def test_training_alone_does_not_import_deepspeed() -> None:
    code = "import sys, orchestration.training.worker; print('deepspeed' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
