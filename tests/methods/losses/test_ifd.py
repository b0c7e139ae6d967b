"""IFD's clothing contrastive loss: golden values and gradients, the paper's sum written out, workers, edges."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from methods.losses.cosine import cosines
from methods.losses.ifd import clothing_contrastive_loss
from methods.losses.supervised_contrastive import supervised_contrastive_loss
from tests import golden

dtypes = pytest.mark.parametrize("dtype", golden.DTYPES, ids=str)
PERSON = torch.tensor([0, 0, 1, 1, 1, 2, 3, 3])  # 2 has nobody
CLOTHES = torch.tensor([0, 1, 2, 2, 3, 4, 5, 5])


def random_features(seed: int = 0) -> Tensor:
    return torch.randn(8, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def loss_of(features: Tensor, given: dict[str, Tensor], case: golden.Case, count_all: bool, normalise: bool) -> Tensor:
    similarity = cosines(features, features) if normalise else features @ features.T
    who, what = given["ids"], given["clothes"]
    return clothing_contrastive_loss(
        similarity / case.params["tau"], who, what, who, what, case.params["T"], count_all=count_all
    )


@dtypes
@pytest.mark.parametrize("case", golden.cases("ifd_ccl"))
def test_golden_clothing_contrastive_loss(case: golden.Case, dtype: torch.dtype) -> None:
    given = case.inputs(dtype)
    features = given["features"].requires_grad_()
    for normalise, suffix in ((False, ""), (True, "_l2")):
        case.check(f"loss{suffix}", loss_of(features, given, case, True, normalise))
        case.check(f"loss{suffix}_mean_over_anchors_with_positives", loss_of(features, given, case, False, normalise))
    loss_of(features, given, case, True, True).backward()
    if "grad_loss_l2" in case.expected:
        expected = torch.as_tensor(case.expected["grad_loss_l2"])
        tolerance: dict[str, Any] = (
            {"rtol": 1e-6, "atol": 1e-6} if dtype == torch.float64 else {"rtol": 2e-4, "atol": 1e-4}
        )
        torch.testing.assert_close(features.grad.double(), expected, **tolerance)  # by central differences


def as_printed(s: Tensor, T: float, in_denominator: str) -> list[float]:
    """Each anchor's term of Eq. 4 (of Khosla et al., Eq. 2, with "all"), from similarities over τ."""
    terms = []
    for i in range(len(s)):
        positives = [p for p in range(len(s)) if p != i and PERSON[p] == PERSON[i]]
        total = 0.0
        for p in positives:
            others = [j for j in range(len(s)) if PERSON[j] != PERSON[i]]
            others = [p, *others] if in_denominator == "one positive" else [j for j in range(len(s)) if j != i]
            weight = 1 / T if CLOTHES[p] != CLOTHES[i] else 1.0
            total -= weight * math.log(math.exp(s[i, p]) / sum(math.exp(s[i, j]) for j in others))
        terms.append(total / len(positives) if positives else 0.0)
    return terms


@pytest.mark.parametrize("T", [0.25, 1.0, 3.0])
def test_the_loss_is_the_papers_sum_over_anchors_that_have_a_positive(T: float) -> None:
    s = 3 * cosines(random_features(), random_features())
    terms = as_printed(s, T, "one positive")
    counted = clothing_contrastive_loss(s, PERSON, CLOTHES, PERSON, CLOTHES, T)
    assert counted.item() == pytest.approx(sum(terms) / 7, rel=1e-12)
    all_counted = clothing_contrastive_loss(s, PERSON, CLOTHES, PERSON, CLOTHES, T, count_all=True)
    assert all_counted.item() == pytest.approx(sum(terms) / 8, rel=1e-12)


def test_supervised_contrastive_loss_is_khoslas_sum() -> None:
    s = 3 * cosines(random_features(), random_features())
    terms = as_printed(s, 1.0, "all")
    assert supervised_contrastive_loss(s, PERSON, PERSON).item() == pytest.approx(sum(terms) / 7, rel=1e-12)
    assert supervised_contrastive_loss(s, PERSON, PERSON, count_all=True).item() == pytest.approx(sum(terms) / 8)


def test_pairs_in_other_clothes_are_pulled_harder_where_t_is_below_1() -> None:
    logits = torch.zeros(8, 8, dtype=torch.float64, requires_grad=True)
    clothing_contrastive_loss(logits, PERSON, CLOTHES, PERSON, CLOTHES, T=0.5).backward()
    assert logits.grad is not None
    assert logits.grad[2, 4] == 2 * logits.grad[2, 3] < 0  # the same person in other, and in the same clothes


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("count_all", [False, True])
def test_workers_values_and_gradients_average_to_those_of_the_global_batch(workers: int, count_all: bool) -> None:
    whole, parts = random_features().requires_grad_(), random_features().requires_grad_()
    one = clothing_contrastive_loss(
        9 * cosines(whole, whole), PERSON, CLOTHES, PERSON, CLOTHES, 0.5, count_all=count_all
    )
    one.backward()
    share = 8 // workers
    local = [slice(first, first + share) for first in range(0, 8, share)]
    losses = [
        clothing_contrastive_loss(
            9 * cosines(parts[own], parts), PERSON[own], CLOTHES[own], PERSON, CLOTHES, 0.5, own.start, count_all
        )
        for own in local
    ]
    torch.stack(losses).mean().backward()
    torch.testing.assert_close(torch.stack(losses).mean(), one, rtol=1e-12, atol=0)
    torch.testing.assert_close(parts.grad, whole.grad, rtol=1e-9, atol=1e-12)


PRESENT = torch.tensor([True, True, False, True, True, True, False, True, False])
NINE = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2])  # of those present, 0 and 1 have two images, 2 has two
WORN = torch.tensor([0, 1, 1, 2, 3, 4, 4, 5, 5])


@pytest.mark.parametrize("count_all", [False, True])
@pytest.mark.parametrize("kind", ["clothing", "supervised"])
def test_absent_samples_are_no_anchors_no_positives_and_no_negatives(kind: str, count_all: bool) -> None:
    """On 1 and on 3 workers the loss and its gradient are those of the batch without them."""
    features = torch.randn(9, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).requires_grad_()

    def loss(rows: slice, kept: Tensor, present: Tensor | None = None) -> Tensor:
        gallery, who, what = features[kept], NINE[kept], WORN[kept]
        logits = 9 * cosines(gallery[rows], gallery)
        if kind == "supervised":
            return supervised_contrastive_loss(logits, who[rows], who, rows.start, count_all, present)
        return clothing_contrastive_loss(logits, who[rows], what[rows], who, what, 3.0, rows.start, count_all, present)

    expected = loss(slice(0, 6), PRESENT)
    (gradient,) = torch.autograd.grad(expected, features)
    assert expected > 0
    for workers in (1, 3):
        shares = [slice(first, first + 9 // workers) for first in range(0, 9, 9 // workers)]
        found = torch.stack([loss(own, torch.ones_like(PRESENT), PRESENT) for own in shares]).mean()
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
        (found_gradient,) = torch.autograd.grad(found, features)
        torch.testing.assert_close(found_gradient, gradient, rtol=1e-9, atol=1e-12)
        assert not found_gradient[~PRESENT].any()


def test_nobody_with_a_positive_is_no_loss_and_no_gradient() -> None:
    features = random_features().requires_grad_()
    alone = torch.arange(8)
    for loss in (
        clothing_contrastive_loss(9 * cosines(features, features), alone, CLOTHES, alone, CLOTHES, 0.5),
        supervised_contrastive_loss(9 * cosines(features, features), alone, alone),
    ):
        (gradient,) = torch.autograd.grad(loss, features)
        assert loss.item() == 0
        assert gradient.abs().max() == 0


@pytest.mark.parametrize("scale", [1e2, 1e4])
def test_extreme_logits_stay_finite_in_float32(scale: float) -> None:
    features = random_features().float().requires_grad_()
    logits = scale * cosines(features, features)
    for loss in (
        clothing_contrastive_loss(logits, PERSON, CLOTHES, PERSON, CLOTHES, 0.5),
        supervised_contrastive_loss(logits, PERSON, PERSON),
    ):
        (gradient,) = torch.autograd.grad(loss, features, retain_graph=True)
        assert loss.isfinite()
        assert gradient.isfinite().all()


def test_equal_clothing_features_of_a_person_far_from_others_cost_nothing() -> None:
    directions = F.one_hot(PERSON, 4).double()
    loss = clothing_contrastive_loss(100 * cosines(directions, directions), PERSON, CLOTHES, PERSON, CLOTHES, 0.5)
    assert loss.item() < 1e-30
