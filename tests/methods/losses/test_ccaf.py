"""The losses of CCAF: golden values and gradients; what golden cases lack as plain sums in float64; workers; edges."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from hypothesis import given as given_values
from hypothesis import strategies as st
from torch import Tensor

from methods.losses.ccaf import (
    Disentanglement,
    centre_consistency_loss,
    disentanglement_loss,
    paired_contrast_loss,
    similarities,
    text_alignment_loss,
)
from methods.losses.identity import identity_loss
from methods.losses.triplet import triplet_euclidean_loss
from tests import golden

dtypes = pytest.mark.parametrize("dtype", golden.DTYPES, ids=str)
readings = pytest.mark.parametrize("reading", get_args(Disentanglement))
SCALE = 1 / 0.07


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def both_ways(images: Tensor, texts: Tensor, scale: float | None) -> tuple[Tensor, Tensor]:
    """Eqs. 5 and 6 of one worker."""
    return (
        paired_contrast_loss(similarities(images, texts, scale)),
        paired_contrast_loss(similarities(texts, images, scale)),
    )


# Eqs. 5, 6, 12, 13


@dtypes
@pytest.mark.parametrize("case", golden.cases("image_text_contrastive"))
def test_golden_image_text_contrast(case: golden.Case, dtype: torch.dtype) -> None:
    given = case.inputs(dtype)
    images, texts = given["image_features"].requires_grad_(), given["text_rows"]
    assert case.params == {"temperature": 1.0}
    for scale, name in ((None, "dot"), (1.0, "cosine")):
        to_text, to_image = both_ways(images, texts, scale)
        for kind in ("paired", "supcon"):
            suffix = name if kind == "paired" else f"{name}_independent"
            case.check(f"{kind}_i2t_{suffix}", to_text)
            case.check(f"{kind}_t2i_{suffix}", to_image)
    case.check("paired_i2t_cosine_scale_1_over_0.07", both_ways(images, texts, SCALE)[0])
    case.check("paired_i2t_dot_scale_1_over_0.07", both_ways(images * SCALE, texts, None)[0])
    to_text, to_image = both_ways(images, texts, None)
    case.check("supcon_i2t", to_text)
    case.check("supcon_t2i", to_image)
    (to_text + to_image).backward()
    case.check("supcon_grad_image", images.grad)


@dtypes
@pytest.mark.parametrize("case", golden.cases("image_text_contrastive"))
def test_golden_image_text_contrast_with_each_class_encoded_once(case: golden.Case, dtype: torch.dtype) -> None:
    """The gradient of a class's text is the sum over its rows. Which row has which part of it differs with the positives."""
    given = case.inputs(dtype)
    classes, row = given["labels"].unique(return_inverse=True)
    texts = given["text_table"][classes].requires_grad_()
    to_text, to_image = both_ways(given["image_features"], texts[row], None)
    (to_text + to_image).backward()
    assert texts.grad is not None
    expected = torch.zeros_like(texts, dtype=torch.float64)
    expected.index_add_(0, row, torch.as_tensor(case.expected["supcon_grad_text_rows"], dtype=torch.float64))
    tolerance = case.tolerance(dtype)
    torch.testing.assert_close(texts.grad.double(), expected, rtol=tolerance["rtol"], atol=tolerance["atol"])


def as_printed(images: Tensor, texts: Tensor, labels: list[int], both: bool) -> Tensor:
    """Eqs. 5 + 6; with `both` all samples of the class are positives, as in CLIP-ReID's code."""
    total = torch.zeros((), dtype=images.dtype)
    number = len(labels)
    for i in range(number):
        positives = [j for j in range(number) if labels[j] == labels[i]] if both else [i]
        for p in positives:
            over_texts = sum((images[i] @ texts[labels[j]]).exp() for j in range(number))
            over_images = sum((images[j] @ texts[labels[i]]).exp() for j in range(number))
            total = total - ((images[i] @ texts[labels[p]]).exp() / over_texts).log() / len(positives) / number
            total = total - ((images[p] @ texts[labels[i]]).exp() / over_images).log() / len(positives) / number
    return total


@given_values(labels=st.lists(st.integers(0, 4), min_size=1, max_size=7), seed=st.integers(0, 2**20))
def test_own_and_same_class_positives_are_the_same_loss_with_the_same_gradient(labels: list[int], seed: int) -> None:
    images, texts = random(len(labels), 3, seed=seed), random(5, 3, seed=seed + 1).requires_grad_()
    losses = [as_printed(images, texts, labels, both) for both in (False, True)]
    losses.append(sum(both_ways(images, texts[labels], None), torch.zeros(())))
    gradients = [torch.autograd.grad(loss, texts)[0] for loss in losses]
    for loss, gradient in zip(losses[1:], gradients[1:], strict=True):
        torch.testing.assert_close(loss, losses[0], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(gradient, gradients[0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_workers_values_and_gradients_average_to_those_of_the_global_batch(workers: int) -> None:
    labels = torch.tensor([0, 0, 1, 2, 2, 2, 3, 0])
    images, texts = random(8, 6), random(4, 6, seed=1).requires_grad_()
    (expected,) = torch.autograd.grad(sum(both_ways(images, texts[labels], 3.0), torch.zeros(())), texts)
    share = 8 // workers
    losses = []
    for first in range(0, 8, share):
        own = slice(first, first + share)
        losses.append(
            paired_contrast_loss(similarities(images[own], texts[labels], 3.0), first)
            + paired_contrast_loss(similarities(texts[labels[own]], images, 3.0), first)
        )
    (found,) = torch.autograd.grad(torch.stack(losses).mean(), texts)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-13)


# Eqs. 7, 9, 14


@dtypes
@pytest.mark.parametrize("case", golden.cases("clip_stage2", "i2t_cross_entropy"))
def test_golden_text_alignment(case: golden.Case, dtype: torch.dtype) -> None:
    given = case.inputs(dtype)
    features, texts, labels = given["features"].requires_grad_(), given["text_features"], given["targets"]
    assert case.params == {"label_smooth": 0.1}
    case.check("logits", similarities(features, texts, None))
    case.check("ce_label_smooth_01_dot", text_alignment_loss(features, texts, labels, None, 0.1))
    case.check("ce_cosine", text_alignment_loss(features, texts, labels, 1.0))
    case.check("ce_cosine_scale_1_over_0_07", text_alignment_loss(features, texts, labels, SCALE))
    loss = text_alignment_loss(features, texts, labels, None)
    loss.backward()
    case.check("ce_dot", loss)
    case.check("grad_features_ce_dot", features.grad)


@dtypes
@pytest.mark.parametrize("case", golden.cases("clip_stage2", "clip_reid_stage2_total"))
def test_golden_total_of_clip_reids_second_stage(case: golden.Case, dtype: torch.dtype) -> None:
    given, params = case.inputs(dtype), case.params
    targets, smoothing = given["targets"], params["label_smooth"]
    identity = [identity_loss(given[f"score_{at}"], targets, smoothing) for at in (0, 1)]
    features = [given[f"feat_{at}"] for at in (0, 1, 2)]
    triplet = [triplet_euclidean_loss(one, targets, one, targets, params["margin"]) for one in features]
    alignment = identity_loss(given["i2t_logits"], targets, smoothing)
    for at, loss in enumerate(identity):
        case.check(f"id_{at}", loss)
    for at, loss in enumerate(triplet):
        case.check(f"tri_{at}", loss)
    case.check("i2t", alignment)
    weights = params["id_weight"], params["triplet_weight"], params["i2t_weight"]
    sums = torch.stack(identity).sum(), torch.stack(triplet).sum(), alignment
    case.check("total", sum((w * s for w, s in zip(weights, sums, strict=True)), torch.zeros((), dtype=dtype)))


# Eq. 10


@dtypes
@pytest.mark.parametrize("case", golden.cases("ccaf", "ccaf_center_consistency"))
def test_golden_centre_consistency(case: golden.Case, dtype: torch.dtype) -> None:
    given = case.inputs(dtype)
    features, shielding = given["features"].requires_grad_(), given["shield_features"].requires_grad_()
    loss = centre_consistency_loss(features, shielding, given["ids"])
    loss.backward()
    case.check("loss", loss)
    case.check("grad_features", features.grad)
    assert features.grad is not None
    assert shielding.grad is not None
    torch.testing.assert_close(shielding.grad, -features.grad)


@given_values(labels=st.lists(st.integers(0, 90), min_size=1, max_size=9), seed=st.integers(0, 2**20))
def test_centres_are_those_of_a_loop_over_persons(labels: list[int], seed: int) -> None:
    features, shielding = random(len(labels), 3, seed=seed).requires_grad_(), random(len(labels), 3, seed=seed + 1)
    loss = centre_consistency_loss(features, shielding, torch.tensor(labels))
    terms = []
    for person in set(labels):
        own = [at for at, label in enumerate(labels) if label == person]
        centre, other = features[own].mean(0), shielding[own].mean(0)
        terms.append(((centre - other) ** 2).sum())
    expected = torch.stack(terms).mean()
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad(one, features)[0] for one in (loss, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)


# Eqs. 14, 15: examine, then disentangle


@dtypes
@pytest.mark.parametrize("case", golden.cases("ccaf", "ccaf_clothes_projection"))
def test_golden_examination_and_disentanglement(case: golden.Case, dtype: torch.dtype) -> None:
    given = case.inputs(dtype)
    features, projection = given["features"].requires_grad_(), given["projection"]
    clothes = features @ projection
    texts, labels = given["clothes_text"], given["clothes_ids"]
    case.check("clothes_features", clothes)
    rows = zip(features, clothes, strict=True)
    case.check("cosines", torch.stack([disentanglement_loss(f[None], c[None], "away") for f, c in rows]))
    names: dict[str, Disentanglement] = {
        "dis_paper": "printed",
        "dis_minimise_similarity": "away",
        "dis_square": "orthogonal",
    }
    for name, reading in names.items():
        case.check(name, disentanglement_loss(features, clothes, reading))
    for scale, name in ((None, "dot"), (1.0, "cosine"), (SCALE, "cosine_scale_1_over_0_07")):
        case.check(f"i2tce_c_{name}", text_alignment_loss(clothes, texts, labels, scale))
    disentanglement_loss(features, clothes.detach(), "printed").backward()
    name, found = "grad_features_dis_paper_clothes_detached", features.grad
    expected = torch.as_tensor(case.expected[name])
    assert found is not None
    tolerance: dict[str, Any] = {"rtol": 1e-6, "atol": 1e-6} if dtype == torch.float64 else case.tolerance(dtype)
    torch.testing.assert_close(found.double(), expected, **tolerance)  # by central differences


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum() / (a * a).sum().sqrt() / (b * b).sum().sqrt()


@readings
@pytest.mark.parametrize("is_held", [True, False], ids=["clothes held", "clothes follow"])
def test_gradients_of_eq_15_are_those_worked_out_by_hand(reading: Disentanglement, is_held: bool) -> None:
    """d cos(f, g) / df = g / (|f||g|) − cos · f / |f|², and as much again for g where it follows from f."""
    features, projection = random(5, 4).requires_grad_(), random(4, 4, seed=1)
    clothes = features @ projection
    loss = disentanglement_loss(features, clothes.detach() if is_held else clothes, reading)
    (found,) = torch.autograd.grad(loss, features)
    for f, g, own in zip(features.detach(), clothes.detach(), found, strict=True):
        cos, lengths = cosine(f, g), f.norm() * g.norm()
        by_f = g / lengths - cos * f / f.norm() ** 2
        by_g = torch.zeros_like(f) if is_held else projection @ (f / lengths - cos * g / g.norm() ** 2)
        factor = {"away": 1.0, "printed": -1.0, "orthogonal": 2 * float(cos)}[reading]
        torch.testing.assert_close(own, factor * (by_f + by_g) / 5, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("scale", [None, 12.7])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_gradient_of_the_projection_in_eq_14_is_that_of_the_sums_as_printed(
    scale: float | None, smoothing: float
) -> None:
    features, projection, texts = random(6, 4), random(4, 4, seed=1).requires_grad_(), random(7, 4, seed=2)
    labels = torch.tensor([0, 6, 3, 3, 1, 6])
    loss = text_alignment_loss(features @ projection, texts, labels, scale, smoothing)
    total = torch.zeros((), dtype=torch.float64)
    for feature, label in zip(features, labels.tolist(), strict=True):
        clothes = feature @ projection
        s = [clothes @ text if scale is None else scale * cosine(clothes, text) for text in texts]
        denominator = sum((one.exp() for one in s), torch.zeros((), dtype=torch.float64))
        log_p = [one - denominator.log() for one in s]
        target = [smoothing / 7 + (1 - smoothing) * (at == label) for at in range(7)]
        total = total - sum((q * p for q, p in zip(target, log_p, strict=True)), torch.zeros(())) / 6
    torch.testing.assert_close(loss, total, rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad(one, projection)[0] for one in (loss, total)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)


# Precision and edges


@readings
def test_a_feature_that_is_all_clothes_or_nothing_has_a_finite_gradient(reading: Disentanglement) -> None:
    features = torch.stack([torch.ones(4), torch.zeros(4), -torch.ones(4)]).requires_grad_()
    loss = disentanglement_loss(features, torch.ones(3, 4), reading)
    loss.backward()
    assert loss.isfinite()
    assert features.grad is not None
    assert features.grad.isfinite().all()


def test_the_readings_of_eq_15_lead_where_they_say() -> None:
    """What gradient descent on a feature that starts near its clothes feature ends at."""
    ends = {}
    for reading in get_args(Disentanglement):
        feature, clothes = torch.tensor([[1.0, 0.3, 0.0]], requires_grad=True), torch.tensor([[1.0, 0.0, 0.0]])
        optimizer = torch.optim.SGD([feature], 0.5)
        for _ in range(400):
            optimizer.zero_grad()
            disentanglement_loss(feature, clothes, reading).backward()
            optimizer.step()
        ends[reading] = float(cosine(feature.detach()[0], clothes[0]))
    assert ends["away"] == pytest.approx(-1, abs=1e-3)
    assert ends["orthogonal"] == pytest.approx(0, abs=1e-3)
    assert ends["printed"] == pytest.approx(1, abs=1e-3)


def test_under_autocast_similarities_and_losses_are_in_float32() -> None:
    features, others = random(4, 8).to(torch.bfloat16), random(5, 8, seed=1).to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        found = [similarities(features, others, None), similarities(features, others, 100.0)]
        found.append(centre_consistency_loss(features, others[:4], torch.tensor([0, 0, 1, 2])))
        found.append(disentanglement_loss(features, others[:4], "away"))
    assert {one.dtype for one in found} == {torch.float32}
    exact = features.double() @ others.double().T
    torch.testing.assert_close(found[0].double(), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scale", [1e2, 1e4])
def test_extreme_scales_stay_finite_in_float32(scale: float) -> None:
    images, texts = random(6, 5).float().requires_grad_(), random(6, 5, seed=1).float()
    loss = sum(both_ways(images, texts, scale), torch.zeros(())) + text_alignment_loss(
        images, texts, torch.arange(6), scale
    )
    loss.backward()
    assert loss.isfinite()
    assert images.grad is not None
    assert images.grad.isfinite().all()
