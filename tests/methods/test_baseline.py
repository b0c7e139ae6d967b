"""The baseline's network and loss as CAL's published code has them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import grad

from methods.baseline import Baseline, BaselineSettings
from methods.losses.triplet import triplet_cosine_loss
from methods.method import MethodError
from tests.methods.variants import SMALL, batch, build, facts


def test_the_neck_starts_near_one_and_the_classifier_near_zero() -> None:
    torch.manual_seed(0)
    method = Baseline(BaselineSettings(backbone="resnet18"), facts())
    neck, classifier = method.encoder.neck, method.classifier
    assert method.encoder.dim == 1024
    assert neck.weight.mean().item() == pytest.approx(1, abs=0.005)
    assert neck.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert neck.bias.abs().max() == 0
    assert classifier.weight.std().item() == pytest.approx(0.001, rel=0.1)
    assert classifier.bias.abs().max() == 0


@pytest.mark.parametrize("neck_bias", [True, False])
def test_the_necks_bias_is_trained_unless_the_setting_says_no(neck_bias: bool) -> None:
    method = Baseline(BaselineSettings(**SMALL, neck_bias=neck_bias), facts())
    assert ("encoder.neck.bias" in dict(method.parameters_of()["model"])) is neck_bias


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_the_loss_is_smoothed_cross_entropy_plus_weighted_triplet_behind_the_neck(label_smoothing: float) -> None:
    settings = BaselineSettings(**SMALL, label_smoothing=label_smoothing, triplet_weight=0.5, triplet_margin=0.2)
    method, whole = Baseline(settings, facts()).double(), batch()
    update = next(method.updates(whole))
    features = method.encoder(whole.images)
    log_p = method.classifier(features).log_softmax(1)
    target = (1 - label_smoothing) * F.one_hot(whole.person, 5) + label_smoothing / 5
    expected = -(target * log_p).sum(1).mean()
    expected = expected + 0.5 * triplet_cosine_loss(features, whole.person, features, whole.person, 0.2)
    torch.testing.assert_close(update.loss, expected)
    assert update.loss.item() == pytest.approx(
        update.logs["loss/identity"].item() + 0.5 * update.logs["loss/triplet"].item()
    )


def test_pretrained_weights_replace_the_backbone_alone() -> None:
    method, other = build("baseline"), build("baseline with triplet loss")
    classifier = method.classifier.weight.clone()
    with torch.no_grad():
        other.encoder.backbone.conv1.weight.fill_(0.5)
    method.load_backbone(other.encoder.backbone.state_dict() | {"fc.weight": torch.zeros(1)})
    assert method.encoder.backbone.conv1.weight.unique().tolist() == [0.5]
    assert torch.equal(method.classifier.weight, classifier)
    with pytest.raises(MethodError, match=r"missing: conv1\.weight"):
        method.load_backbone({})


def test_only_the_full_width_has_published_weights() -> None:
    address = Baseline(BaselineSettings(backbone="resnet18"), facts()).weights_address()
    assert address is not None
    assert address.endswith(".pth")
    assert build("baseline").weights_address() is None


def log_sum_exp(values: Tensor) -> Tensor:
    return values.exp().sum().log()


def loss_by_hand(kind: str, cosine: Tensor, person: Tensor, scale: float, margin: float) -> Tensor:
    """The pair losses and those of cosine classifiers, sample by sample from their formulas."""
    terms = []
    for row, label in zip(cosine, person.tolist(), strict=True):
        own, others = row[label], torch.cat([row[:label], row[label + 1 :]])
        if kind == "cosface":
            own_score, other_scores = scale * (own - margin), scale * others
        elif kind == "arcface":
            own_score, other_scores = scale * (own.acos() + margin).cos(), scale * others
        else:  # circle: the weights α are constants
            own_score = scale * (1 + margin - own.detach()).clamp(min=0) * (own - (1 - margin))
            other_scores = scale * (others.detach() + margin).clamp(min=0) * (others - margin)
        terms.append(log_sum_exp(torch.cat([own_score[None], other_scores])) - own_score)
    return torch.stack(terms).mean()


@pytest.mark.parametrize("kind", ["cosface", "arcface", "circle"])
def test_an_identity_loss_of_cosines_has_a_cosine_classifier(kind: str) -> None:
    settings = BaselineSettings(**SMALL, identity_loss=kind, identity_scale=8.0, identity_margin=0.2)
    method, whole = Baseline(settings, facts()).double(), batch()
    update = next(method.updates(whole))
    assert list(dict(method.classifier.named_parameters())) == ["weight"]
    cosine = F.normalize(method.encoder(whole.images), dim=1) @ F.normalize(method.classifier.weight, dim=1).T
    expected = loss_by_hand(kind, cosine, whole.person, 8.0, 0.2)
    torch.testing.assert_close(update.loss, expected)
    weights = method.classifier.weight, method.encoder.backbone.conv1.weight
    for found, wanted in zip(grad(update.loss, weights), grad(expected, weights), strict=True):
        torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(update.logs["accuracy/person"], (cosine.argmax(1) == whole.person).double().mean())


def pair_loss_by_hand(kind: str, cosine: Tensor, person: Tensor, scale: float, margin: float) -> Tensor:
    terms = []
    for at, row in enumerate(cosine):
        same = person == person[at]
        negatives, positives = row[~same], row[same & (torch.arange(len(row)) != at)]
        if kind == "contrastive":
            sums = (scale * positives).exp() + (scale * negatives).exp().sum()
            terms.append(-(scale * positives - sums.log()).mean())
            continue
        if kind == "cosface":
            own, others = -scale * positives, scale * (negatives + margin)
        else:
            own = -scale * (1 + margin - positives.detach()).clamp(min=0) * (positives - (1 - margin))
            others = scale * (negatives.detach() + margin).clamp(min=0) * (negatives - margin)
        terms.append((1 + others.exp().sum() * own.exp().sum()).log())
    return torch.stack(terms).mean()


@pytest.mark.parametrize("kind", ["contrastive", "cosface", "circle"])
def test_another_pair_loss_takes_the_place_of_the_triplet_loss(kind: str) -> None:
    settings = BaselineSettings(**SMALL, pair_loss=kind, pair_scale=4.0, triplet_weight=0.5, triplet_margin=0.2)
    method, whole = Baseline(settings, facts()).double(), batch()
    update = next(method.updates(whole))
    features = F.normalize(method.encoder(whole.images), dim=1)
    expected = pair_loss_by_hand(kind, features @ features.T, whole.person, 4.0, 0.2)
    torch.testing.assert_close(update.logs[f"loss/{kind}"], expected.detach())
    identity = next(Baseline.updates(without_pairs(method), whole)).loss
    weight = method.encoder.backbone.conv1.weight
    torch.testing.assert_close(grad(update.loss, weight)[0], grad(identity + 0.5 * expected, weight)[0])


def without_pairs(method: Baseline) -> Baseline:
    method.settings = method.settings.model_copy(update={"triplet_weight": 0.0})
    return method


def test_losses_are_those_of_the_paper_unless_set() -> None:
    settings = BaselineSettings()
    assert (settings.identity_loss, settings.pair_loss, settings.triplet.weight) == ("cross-entropy", "triplet", 0)
    assert (settings.identity_scale, settings.identity_margin, settings.pair_scale) == (16, 0, 16)  # of CAL's code
