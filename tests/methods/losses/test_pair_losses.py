"""Losses on pairs of samples, in one process (under several workers: ../test_distributed.py)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from methods.losses.contrastive import contrastive_loss
from methods.losses.identity import identity_loss
from methods.losses.pairwise import pairwise_circle_loss, pairwise_cosface_loss
from methods.losses.triplet import triplet_cosine_loss, triplet_euclidean_loss
from tests import golden

LOSSES: dict[str, Callable[..., Tensor]] = {
    "triplet_cosine_hard": triplet_cosine_loss,
    "contrastive": contrastive_loss,
    "pairwise_cosface": pairwise_cosface_loss,
    "pairwise_circle": pairwise_circle_loss,
}
dtypes = pytest.mark.parametrize("dtype", golden.DTYPES, ids=str)


@dtypes
@pytest.mark.parametrize("case", golden.cases("pair_losses_cosine"))
def test_golden_pair_loss_on_cosines(case: golden.Case, dtype: torch.dtype) -> None:
    given = case.inputs(dtype)
    features, labels = given["features"].requires_grad_(), given["targets"]
    loss = case.bind(case.choose(LOSSES))(features, labels, features, labels)
    loss.backward()
    case.check("loss", loss)
    case.check("grad", features.grad)


@dtypes
@pytest.mark.parametrize("case", golden.cases("sps_losses", "triplet_euclid_hard"))
def test_golden_triplet_loss_on_euclidean_distance(case: golden.Case, dtype: torch.dtype) -> None:
    given = case.inputs(dtype)
    leaf = given["features"].requires_grad_()
    features = F.normalize(leaf, dim=1) if case.params["normalize"] else leaf
    loss = triplet_euclidean_loss(features, given["targets"], features, given["targets"], case.params["margin"])
    loss.backward()
    case.check("loss_independent", loss)
    assert leaf.grad is not None
    if "grad" in case.expected:
        case.check("grad", leaf.grad)
    assert leaf.grad.isfinite().all()


@dtypes
@pytest.mark.parametrize("case", golden.cases("sps_losses", "sps_total"))
def test_golden_cross_entropy_and_triplet_of_pixel_sampling(case: golden.Case, dtype: torch.dtype) -> None:
    given, params = case.inputs(dtype), case.params
    features, scores, targets = given["features"], given["scores"], given["targets"]
    case.check("ce_plain", identity_loss(scores, targets))
    case.check("ce_label_smooth", identity_loss(scores, targets, params["label_smooth"]))
    case.check("triplet", triplet_euclidean_loss(features, targets, features, targets, params["margin"]))


@pytest.mark.parametrize("loss", [contrastive_loss, pairwise_cosface_loss, pairwise_circle_loss])
def test_an_anchor_without_positives_adds_nothing_and_breaks_nothing(loss: Callable[..., Tensor]) -> None:
    features = torch.randn(4, 3, requires_grad=True)
    labels = torch.arange(4)
    settings = {"scale": 16.0} if loss is contrastive_loss else {"scale": 16.0, "margin": 0.1}
    value = loss(features, labels, features, labels, **settings)
    value.backward()
    assert value.item() == 0
    assert features.grad is not None
    assert features.grad.isfinite().all()


@pytest.mark.parametrize("loss", [triplet_cosine_loss, triplet_euclidean_loss])
def test_equal_features_have_a_finite_triplet_gradient(loss: Callable[..., Tensor]) -> None:
    features = torch.ones(4, 3, requires_grad=True)
    labels = torch.tensor([0, 0, 1, 1])
    loss(features, labels, features, labels, margin=0.3).backward()
    assert features.grad is not None
    assert features.grad.isfinite().all()


@pytest.mark.parametrize("loss", [contrastive_loss, pairwise_cosface_loss, pairwise_circle_loss])
def test_pair_losses_are_finite_for_scales_of_a_thousand_in_float32(loss: Callable[..., Tensor]) -> None:
    features = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    settings = {"scale": 1000.0} if loss is contrastive_loss else {"scale": 1000.0, "margin": 0.3}
    value = loss(features, labels, features, labels, **settings)
    value.backward()
    assert value.isfinite()
    assert features.grad is not None
    assert features.grad.isfinite().all()
