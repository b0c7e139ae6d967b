"""Learning-rate factors are the published codes', epoch by epoch, and mean what they say."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from orchestration.engine.schedule import Cosine, Multistep, Schedule, factor
from tests import golden


def offset(case: golden.Case) -> int:
    return 1 if str(case.params.get("step", "")).startswith("before") else 0


def multistep(case: golden.Case) -> tuple[list[float], str]:
    params = case.params
    warmup = {key: params[key] for key in ("warmup_epochs", "warmup_factor") if key in params}
    schedule = Multistep(milestones=params["milestones"], gamma=params["gamma"], offset=offset(case), **warmup)
    return [factor(schedule, epoch, params["epochs"]) for epoch in range(params["epochs"])], "lr_factor"


def cosine(case: golden.Case) -> tuple[list[float], str]:
    params = case.params
    base = params["base_lr"]
    schedule = Cosine(
        warmup_epochs=params["warmup_epochs"],
        warmup_factor=params["warmup_lr_init"] / base,
        final_factor=params["lr_min"] / base,
        offset=offset(case),
    )
    return [base * factor(schedule, epoch, params["epochs"]) for epoch in range(params["epochs"])], "lr"


OPERATIONS = {"multistep": multistep, "warmup_multistep": multistep, "cosine_warmup": cosine}


@pytest.mark.parametrize("case", golden.cases("schedules"))
def test_golden_schedules(case: golden.Case) -> None:
    factors, name = case.choose(OPERATIONS)(case)
    case.check(name, torch.tensor(factors, dtype=torch.float64))
    case.check(name, torch.tensor(factors, dtype=torch.float32))


def test_without_a_schedule_the_rate_stays() -> None:
    assert [factor(None, epoch, 60) for epoch in (0, 30, 59)] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    "schedule",
    [
        Multistep(milestones=(3, 6), warmup_epochs=4, warmup_factor=0.25),
        Cosine(warmup_epochs=4, warmup_factor=0.25, final_factor=0.1),
    ],
    ids=["multistep", "cosine"],
)
def test_a_warm_up_rises_linearly_from_its_factor_then_the_schedule_falls(schedule: Schedule) -> None:
    factors = [factor(schedule, epoch, 10) for epoch in range(10)]
    assert factors[:3] == pytest.approx([0.25, 0.4375, 0.625])
    assert all(later <= earlier for earlier, later in pairwise(factors[4:]))
    assert factors[-1] < 0.3


def test_a_cosine_ends_at_its_final_factor() -> None:
    assert factor(Cosine(final_factor=0.1, offset=1), 9, 10) == pytest.approx(0.1)
