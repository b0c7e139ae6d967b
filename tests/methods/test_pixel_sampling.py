"""Pixel sampling as a method: Eq. 6 over pairs, what each loss is of, the rows of Table II, what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from methods.losses.triplet import triplet_euclidean_loss
from methods.method import Batch, MethodError, Update
from methods.pixel_sampling import PixelSampling, PixelSamplingSettings
from tests.methods.variants import SMALL, batch, facts


def pixel_sampling(**settings: Any) -> PixelSampling:
    torch.manual_seed(1)
    return PixelSampling(PixelSamplingSettings(**SMALL | settings), facts()).double()


def the_update(method: PixelSampling, whole: Batch) -> Update:
    (update,) = method.updates(whole)
    return update


def test_the_defaults_are_the_papers_numbers() -> None:
    settings = PixelSamplingSettings()
    assert (settings.backbone, settings.triplet_margin, settings.label_smoothing) == ("resnet50", 0.3, 0)
    assert (settings.consistency, settings.consistency_weight, settings.triplet_weight) == ("norm", 1, 1)


def test_the_network_is_the_strong_baselines() -> None:
    method = pixel_sampling()
    assert method.encoder.dim == method.encoder.backbone.channels, "global average pooling alone"
    assert not method.encoder.neck.bias.requires_grad
    assert method.classifier.bias is None


def test_training_minimises_eq_6_over_images_and_the_same_in_other_clothes() -> None:
    method, whole = pixel_sampling(consistency_weight=0.7, triplet_weight=0.6), batch()
    maps = method.encoder.backbone(whole.images)
    before = maps.mean((2, 3))
    norm = method.encoder.neck
    behind = F.batch_norm(before, None, None, norm.weight, norm.bias, training=True)
    identity = F.cross_entropy(method.classifier(behind), whole.person)
    triplet = triplet_euclidean_loss(before, whole.person, before, whole.person, 0.3)
    consistency = (before[:8] - before[8:]).norm(dim=1).mean()
    update = the_update(method, whole)
    torch.testing.assert_close(update.loss, identity + 0.6 * triplet + 0.7 * consistency)
    for name, value in (("identity", identity), ("triplet", triplet), ("consistency", consistency)):
        torch.testing.assert_close(update.logs[f"loss/{name}"], value.detach())


def test_the_published_codes_consistency_is_a_setting() -> None:
    whole = batch()
    features = pixel_sampling().encoder.backbone(whole.images).mean((2, 3))
    update = the_update(pixel_sampling(consistency="sigmoid"), whole)
    expected = (features[:8] - features[8:]).pow(2).sum(1).sigmoid().mean()
    torch.testing.assert_close(update.logs["loss/consistency"], expected.detach())


def test_without_consistency_images_may_come_alone_and_the_loss_is_not_computed() -> None:
    method = pixel_sampling(consistency_weight=0)
    assert not method.pairs_for
    update = the_update(method, replace(batch(), is_paired=False))
    assert "loss/consistency" not in update.logs


def test_images_that_come_alone_are_refused_with_the_mend() -> None:
    method = pixel_sampling()
    assert method.pairs_for == "consistency_weight"
    with pytest.raises(MethodError, match=r"set augment.clothes_sampling=\{\}, or method.consistency_weight=0"):
        the_update(method, replace(batch(), is_paired=False))


def test_a_clip_of_one_frame_is_that_image() -> None:
    whole = batch()
    images, clips = (
        the_update(pixel_sampling(), given) for given in (whole, replace(whole, images=whole.images[:, None]))
    )
    torch.testing.assert_close(clips.loss, images.loss)


def test_the_descriptor_is_behind_the_neck() -> None:
    method, whole = pixel_sampling().eval(), batch()
    torch.testing.assert_close(method.embed(whole.images), method.encoder.neck(method.maps(whole.images).mean((2, 3))))


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"consistency": "mse"}, "'norm' or 'sigmoid'"), ({"consistency_weight": -1}, "greater than or equal to 0")],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PixelSamplingSettings(**settings)


def test_features_under_autocast_are_compared_in_float32() -> None:
    torch.manual_seed(1)
    method = PixelSampling(PixelSamplingSettings(**SMALL), facts())
    with torch.autocast("cpu", torch.bfloat16):
        update = the_update(method, batch(torch.float32))
    assert update.loss.dtype == torch.float32
    update.loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters() if p.requires_grad)
