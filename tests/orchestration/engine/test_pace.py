"""The slowest worker is told from those who wait for it."""

from __future__ import annotations

import time

import pytest
import torch

from methods.distributed import gather, waited_s, waiting
from orchestration.engine.pace import PACE, Pace
from tests.orchestration.processes import in_processes

SLOW_S = 0.4


def test_one_worker_sends_and_reports_nothing() -> None:
    pace = Pace(0, 1)
    pace.finish(3.0)
    assert pace.asides() == {}
    assert pace.metrics({"loss/model": 1.0}) == {}


def test_a_step_is_told_with_the_mean_of_the_next() -> None:
    pace = Pace(1, 2)
    logs = {"loss/model": 1.0, f"{PACE}0": 0.0, f"{PACE}1": 0.0}
    assert pace.metrics(logs) == {}
    assert logs == {"loss/model": 1.0}
    with waiting():
        time.sleep(0.05)
    pace.finish(1.0)
    asides = pace.asides()
    assert asides[f"{PACE}0"] == 0
    assert 0 < asides[f"{PACE}1"] < 0.96
    found = pace.metrics({f"{PACE}0": 1.0, f"{PACE}1": 0.25})
    assert found.pop("speed/group-wait-s") == pytest.approx(1 - asides[f"{PACE}1"])
    assert found == {"speed/slowest-rank": 0.0, "speed/slowest-step-s": 2.0, "speed/mean-step-s": 1.25}


def seconds_of_a_step() -> tuple[float, float]:
    """Own and waiting seconds of a step in which rank 1 computes for longer."""
    rank = torch.distributed.get_rank()
    gather(torch.zeros(1))
    pace, began = Pace(rank, 2), time.perf_counter()
    time.sleep(SLOW_S * rank)
    gather(torch.zeros(1))
    pace.finish(time.perf_counter() - began)
    assert waited_s() >= pace.wait_s
    return pace.own_s, pace.wait_s


def test_those_who_wait_for_a_slow_worker_are_not_slow() -> None:
    (_, wait_of_fast), (own_of_slow, wait_of_slow) = in_processes(2, seconds_of_a_step)
    assert own_of_slow >= SLOW_S
    assert wait_of_fast > wait_of_slow
