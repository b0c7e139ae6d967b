"""The baseline's network and loss as CAL's published code has them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

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
