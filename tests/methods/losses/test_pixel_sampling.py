"""The losses of pixel sampling: golden values and gradients of Eqs. 3 to 6, and what happens at distance 0."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from methods.losses.identity import identity_loss
from methods.losses.pixel_sampling import feature_consistency_loss, saturating_consistency_loss
from methods.losses.triplet import triplet_euclidean_loss
from tests import golden

dtypes = pytest.mark.parametrize("dtype", golden.DTYPES, ids=str)


@dtypes
@pytest.mark.parametrize("case", golden.cases("sps_losses", "sps_consistency"))
def test_golden_feature_consistency(case: golden.Case, dtype: torch.dtype) -> None:
    for loss_of, value, gradient in (
        (feature_consistency_loss, "paper_l2_norm", "paper_grad_f"),
        (saturating_consistency_loss, "reference_code_sigmoid", "reference_code_grad_f"),
    ):
        given = case.inputs(dtype)
        features = given["f"].requires_grad_()
        loss = loss_of(features, given["f_changed"])
        loss.backward()
        case.check(value, loss)
        case.check(gradient, features.grad)


def triplet(given: dict[str, Tensor], margin: float | None) -> Tensor:
    features, targets = given["features"], given["targets"]
    return triplet_euclidean_loss(features, targets, features, targets, margin)


@dtypes
@pytest.mark.parametrize("case", golden.cases("sps_losses", "sps_total"))
def test_golden_total_loss_over_originals_and_changed_images(case: golden.Case, dtype: torch.dtype) -> None:
    given = case.inputs(dtype)
    features, scores = given["features"].requires_grad_(), given["scores"].requires_grad_()
    smoothing, margin = case.params["label_smooth"], case.params["margin"]
    pairs = features.chunk(2)
    smoothed, plain = (identity_loss(scores, given["targets"], epsilon) for epsilon in (smoothing, 0.0))  # Eq. 4
    hard, norm = triplet(given, margin), feature_consistency_loss(*pairs)  # Eqs. 5, 3
    for name, value in (("ce_label_smooth", smoothed), ("ce_plain", plain), ("triplet", hard)):
        case.check(name, value)
    case.check("consistency_paper", norm)
    case.check("total_paper", norm + plain + hard)  # Eq. 6
    published = smoothed + hard + saturating_consistency_loss(*pairs)
    published.backward()
    case.check("reference_total", published)
    case.check("grad_features", features.grad)
    case.check("grad_scores", scores.grad)


def test_equal_features_have_no_distance_and_no_gradient() -> None:
    features = torch.randn(3, 5, requires_grad=True)
    loss = feature_consistency_loss(features, features.detach().clone())
    loss.backward()
    assert loss.item() == 0
    assert features.grad is not None
    assert features.grad.abs().max() == 0
