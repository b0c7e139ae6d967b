"""Losses on identity logits: cross-entropy with smoothed labels, CosFace, ArcFace, circle."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from methods.losses.arcface import arcface_loss
from methods.losses.circle import circle_loss
from methods.losses.cosface import cosface_loss
from methods.losses.identity import identity_loss
from tests import golden

LOSSES: dict[str, Callable[..., Tensor]] = {
    "label_smooth_ce": lambda logits, targets, epsilon: identity_loss(logits, targets, epsilon),
    "cosface": cosface_loss,
    "arcface": arcface_loss,
    "circle_cls": circle_loss,
}


@pytest.mark.parametrize("dtype", golden.DTYPES, ids=str)
@pytest.mark.parametrize("case", golden.cases("classification_losses"))
def test_golden_classification_loss(case: golden.Case, dtype: torch.dtype) -> None:
    given = case.inputs(dtype)
    logits = given["logits"].requires_grad_()
    loss = case.bind(case.choose(LOSSES))(logits, given["targets"])
    loss.backward()
    case.check("loss", loss)
    case.check("grad", logits.grad)


@pytest.mark.parametrize("loss", [cosface_loss, arcface_loss, circle_loss])
def test_cosines_of_one_and_scales_of_a_thousand_are_finite_in_float32(loss: Callable[..., Tensor]) -> None:
    cosine = torch.tensor([[1.0, -1.0, 0.0], [-1.0, 1.0, 1.0]], requires_grad=True)
    value = loss(cosine, torch.tensor([0, 0]), scale=1000.0, margin=0.3)
    value.backward()
    assert value.isfinite()
    assert cosine.grad is not None
    assert cosine.grad.isfinite().all()


def test_arcface_score_falls_as_the_angle_grows_past_pi() -> None:
    cosine = torch.linspace(-1, 1, 101, dtype=torch.float64)
    logits = torch.stack([cosine, torch.zeros_like(cosine)], 1)
    values = torch.stack([arcface_loss(row[None], torch.tensor([0]), scale=8.0, margin=0.5) for row in logits])
    assert (values.diff() < 0).all()
