"""The parts of `Method` that need no network: facts that are checked, stages cut by a body's phases."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from pydantic import BaseModel
from torch import nn

from methods.backbones.body import Phase
from methods.method import Batch, DataFacts, Method, MethodError, Needs, Stage, Update, trainable, with_phases
from tests.methods.variants import facts


class NoSettings(BaseModel):
    pass


class TwoStages(Method):
    """Parameters that are trained and held fixed, and a second stage from epoch 3 on."""

    Settings = NoSettings

    def __init__(self, settings: BaseModel, known: DataFacts) -> None:
        super().__init__(settings, known)
        self.trained, self.fixed = nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False)
        self.fixed.requires_grad_(False)

    def stages(self) -> tuple[Stage, ...]:
        return Stage("first", 0, ("model",)), Stage("second", 3, ("model",))

    def updates(self, batch: Batch) -> Iterator[Update]:
        raise NotImplementedError


class NeedsEverything(TwoStages):
    @classmethod
    def needs(cls, settings: BaseModel) -> Needs:
        return Needs(clothes=True, parsing=True)


def test_the_stage_follows_the_epoch_that_began_last() -> None:
    method = TwoStages(NoSettings(), facts())
    assert method.stage.name == "first"
    for epoch, name in ((2, "first"), (3, "second"), (9, "second"), (0, "first")):
        method.begin_epoch(epoch)
        assert (method.epoch, method.stage.name, method.stage_at(epoch).name) == (epoch, name, name)


def test_only_parameters_that_require_a_gradient_have_an_optimizer() -> None:
    method = TwoStages(NoSettings(), facts())
    assert method.parameters_of() == {"model": trainable(method)}
    assert [name for name, _ in trainable(method)] == ["trained.weight"]


def test_stages_are_cut_where_the_bodys_phases_begin() -> None:
    stages = Stage("identity", 0, ("model",)), Stage("adversarial", 5, ("model", "clothes"))
    assert with_phases(stages, ()) == stages
    phases = Phase("stripes", 0), Phase("parts", 3, is_alone=True), Phase("refined", 7)
    assert with_phases(stages, phases) == (
        Stage("identity", 0, ("model",), "stripes"),
        Stage("identity", 3, ("model",), "parts"),
        Stage("adversarial", 5, ("model",), "parts"),  # where the body trains alone only its own optimizer steps
        Stage("adversarial", 7, ("model", "clothes"), "refined"),
    )
    assert Stage("identity", 3, ("model",), "parts").title == "identity, parts"
    assert stages[0].title == "identity"


def test_a_phase_that_another_follows_in_the_same_epoch_is_left_out() -> None:
    phases = Phase("stripes", 0), Phase("parts", 3, is_alone=True), Phase("refined", 3)
    found = with_phases((Stage("identity", 0, ("model",)),), phases)
    assert [(stage.first_epoch, stage.phase) for stage in found] == [(0, "stripes"), (3, "refined")]


@pytest.mark.parametrize(
    ("known", "told"),
    [
        (DataFacts(5, torch.ones(8, 5, dtype=torch.int64)), r"int64 \[8, 5\]; expected int64 \[num_clothes\]"),
        (DataFacts(5, torch.ones(8)), r"clothes_owner is torch.float32 \[8\]; expected int64 \[num_clothes\]"),
        (DataFacts(5, torch.tensor([0, -1, 4])), "clothes_owner is from -1 to 4; expected persons from 0 to 4"),
        (DataFacts(0, torch.zeros(0, dtype=torch.int64)), "the training set has no persons"),
        (DataFacts(2, torch.tensor([0]), (1,)), "NeedsEverything needs clothes labels.*some of its"),
        (DataFacts(1, torch.tensor([0])), "NeedsEverything needs parsing maps"),
    ],
    ids=["shape", "dtype", "owner", "persons", "clothes", "parsing"],
)
def test_facts_that_do_not_fit_are_refused(known: DataFacts, told: str) -> None:
    with pytest.raises(MethodError, match=told):
        NeedsEverything(NoSettings(), known)
