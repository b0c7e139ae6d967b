"""The losses of CAL: golden values and gradients, extreme logits, and the paper's sums written out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from methods.losses.cal import clothes_adversarial_loss, clothes_classification_loss
from methods.losses.cosine import cosines
from tests import golden

dtypes = pytest.mark.parametrize("dtype", golden.DTYPES, ids=str)


@dtypes
@pytest.mark.parametrize("case", golden.cases("cal_loss"))
def test_golden_clothes_adversarial_loss(case: golden.Case, dtype: torch.dtype) -> None:
    given = case.inputs(dtype)
    logits = given["logits"].requires_grad_()
    own = given["pid2clothes"].bool()[given["pids"]]
    loss = clothes_adversarial_loss(logits * case.params["scale"], given["clothes_ids"], own, case.params["epsilon"])
    loss.backward()
    case.check("loss", loss)
    case.check("grad_logits", logits.grad)


@dtypes
@pytest.mark.parametrize("case", golden.cases("clothes_classifier"))
def test_golden_clothes_classifier(case: golden.Case, dtype: torch.dtype) -> None:
    given, scale = case.inputs(dtype), case.params["scale"]
    features, weight = given["features"].requires_grad_(), given["weight"].requires_grad_()
    own = given["pid2clothes"].bool()[given["pids"]]

    clothes = clothes_classification_loss(scale * cosines(features.detach(), weight), given["clothes_ids"])
    clothes.backward()
    assert features.grad is None
    case.check("clothes_loss", clothes)
    case.check("grad_weight_clothes_loss", weight.grad)

    logits = cosines(features, weight.detach())
    adversarial = clothes_adversarial_loss(scale * logits, given["clothes_ids"], own, case.params["epsilon"])
    adversarial.backward()
    case.check("logits", logits)
    case.check("cal_loss", adversarial)
    case.check("grad_features_cal", features.grad)


def as_printed(logits: Tensor, clothes: Tensor, own: Tensor, epsilon: float) -> float:
    """Eqs. 3 and 5, term by term."""
    total = 0.0
    for s, y, positive in zip(logits.tolist(), clothes.tolist(), own.tolist(), strict=True):
        negatives = sum(math.exp(s[j]) for j in range(len(s)) if not positive[j])
        for c in range(len(s)):
            if positive[c]:
                q = epsilon / sum(positive) + (1 - epsilon if c == y else 0)
                total -= q * math.log(math.exp(s[c]) / (math.exp(s[c]) + negatives))
    return total / len(logits)


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 1.0])
def test_adversarial_loss_is_the_papers_sum_over_the_batch_size(epsilon: float) -> None:
    logits = 4 * torch.randn(7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    own = torch.tensor([[1, 1, 0, 0, 0], [0, 0, 1, 1, 1]]).bool()[[0, 0, 0, 1, 1, 1, 1]]
    clothes = torch.tensor([0, 1, 1, 2, 3, 4, 4])
    loss = clothes_adversarial_loss(logits, clothes, own, epsilon)
    assert loss.item() == pytest.approx(as_printed(logits, clothes, own, epsilon), rel=1e-12)


@pytest.mark.parametrize("scale", [64, 1e3, 1e5, 1e30])
def test_adversarial_loss_and_gradient_are_finite_for_any_scale_in_float32(scale: float) -> None:
    cosine = torch.tensor([[1.0, -1.0, 0.5, -0.5], [-1.0, 1.0, 1.0, -1.0]], requires_grad=True)
    own = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1]]).bool()
    loss = clothes_adversarial_loss(cosine * scale, torch.tensor([1, 3]), own, 0.1)
    loss.backward()
    assert loss.isfinite()
    assert cosine.grad is not None
    assert cosine.grad.isfinite().all()


def test_without_clothes_of_others_there_is_nothing_to_confuse() -> None:
    logits = torch.randn(3, 2, requires_grad=True)
    loss = clothes_adversarial_loss(logits, torch.tensor([0, 1, 1]), torch.ones(3, 2, dtype=torch.bool), 0.1)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert logits.grad.abs().max() == 0


def test_classes_never_seen_are_neither_positives_nor_negatives() -> None:
    logits = torch.randn(3, 5, dtype=torch.float64)
    own = torch.tensor([[1, 1, 1, 0, 0]]).bool().expand(3, 5)
    clothes = torch.tensor([0, 2, 2])
    seen = torch.tensor([True, False, True, True, False])
    among_seen = clothes_adversarial_loss(logits[:, seen], torch.tensor([0, 1, 1]), own[:, seen], 0.3)
    torch.testing.assert_close(clothes_adversarial_loss(logits, clothes, own, 0.3, seen), among_seen)


def test_cosines_keep_float32_under_autocast() -> None:
    features, proxies = torch.randn(4, 8), torch.randn(3, 8)
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = cosines(features, proxies)
    assert under_autocast.dtype == torch.float32
    torch.testing.assert_close(under_autocast, cosines(features, proxies))
