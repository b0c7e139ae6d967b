"""All bodies: the papers' shapes and sizes, pooling against plain loops, what is shared and what is not."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from methods.backbones.bodies import BODIES, BodySettings, build_body
from methods.backbones.body import classify
from methods.backbones.hpm import HPM
from methods.backbones.mgn import MGN
from methods.backbones.pooling import bounds, stripes
from methods.backbones.resnet import ResNet
from methods.backbones.resnet_body import ResNetBody
from methods.baseline import Baseline, BaselineSettings
from methods.classifiers import LinearClassifier
from tests.methods.backbones.small import images, refined, settings_of, small
from tests.methods.variants import SMALL, batch, facts

RESNET50, REDUCTION = (
    23_508_032,
    2048 * 256 + 2 * 256,
)  # torchvision's without its classifier; convolution and batch norm
LAYER3_0, LAYER3 = 1_512_448, 7_098_368  # bottleneck 512 → 256 → 1,024 with its shortcut; and the five after it, too
LAYER4 = 14_964_736


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("body", "maps", "dim", "widths", "parameters"),
    [
        ("global", 2048, 4096, [4096], RESNET50 + 2 * 4096),
        ("pcb", 2048, 6 * 2048, [256] * 6, RESNET50 + REDUCTION),
        ("mgn", 3 * 2048, 8 * 256, [2048] * 3 + [256] * 5, RESNET50 + 2 * (LAYER3 - LAYER3_0 + LAYER4) + 8 * REDUCTION),
        ("hpm", 2048, 15 * 256, [256] * 15, RESNET50 + 15 * REDUCTION),
    ],
)
def test_at_the_papers_image_size_maps_embeddings_and_parameters_are_the_papers(
    body: str, maps: int, dim: int, widths: list[int], parameters: int
) -> None:
    """Sizes are derived by hand from the papers' structure, without classifiers."""
    with torch.device("meta"):
        network = build_body(BodySettings(body=body))
        given = torch.empty(2, 3, 384, 128)
        found = network.embeddings(given)
        assert network.maps(given).shape == (2, maps, 24, 8)
    assert size(network) == parameters
    assert (network.dim, network.channels) == (dim, maps)
    assert found.features.shape == (2, dim)
    assert [one.shape for one in found.classified] == [(2, width) for width in widths]
    assert list(network.widths) == widths


def test_with_persons_of_market_1501_the_whole_networks_have_the_sizes_that_their_papers_structures_give() -> None:
    persons, expected = 751, {"pcb": 25_190_874, "mgn": 74_389_176, "hpm": 34_275_137}
    known = facts()
    many = type(known)(persons, torch.zeros(0, dtype=torch.int64))
    with torch.device("meta"):
        found = {body: size(Baseline(BaselineSettings(body=body), many)) for body in expected}
    per_part, per_whole = (256 + 1) * persons, (2048 + 1) * persons
    assert found["pcb"] == RESNET50 + REDUCTION + 6 * per_part
    assert found["hpm"] == RESNET50 + 15 * (REDUCTION + per_part)
    assert found["mgn"] == (RESNET50 + 2 * (LAYER3 - LAYER3_0 + LAYER4) + 8 * REDUCTION + 3 * per_whole + 5 * per_part)
    assert found == expected


@pytest.mark.parametrize(("height", "parts"), [(24, 6), (24, 8), (6, 6), (16, 6), (25, 3), (6, 8), (2, 6), (1, 3)])
def test_stripes_are_those_of_adaptive_pooling(height: int, parts: int) -> None:
    maps = torch.randn(2, 3, height, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = stripes(maps, parts)
    for part, one in enumerate(found):
        rows = range(height * part // parts, -(-height * (part + 1) // parts))
        assert torch.equal(one, maps[:, :, list(rows)])
    means = torch.stack([one.mean((2, 3)) for one in found], 2)
    torch.testing.assert_close(means, nn.functional.adaptive_avg_pool2d(maps, (parts, 1))[..., 0])
    edges = bounds(height, parts)
    assert (edges[0][0], edges[-1][1]) == (0, height)
    assert all(before[1] >= after[0] for before, after in pairwise(edges)), "a row that is in no stripe"


def test_hpm_adds_average_and_maximum_of_each_stripe_of_each_level() -> None:
    body = small("hpm").eval()
    assert isinstance(body, HPM)
    maps = body.maps(images())
    pooled = body.pooled(maps).detach().numpy()
    rows = maps.detach().numpy()
    levels = [(0, 6), (0, 3), (3, 6), (0, 2), (1, 3), (3, 5), (4, 6)]  # of 1, 2 and 4 stripes
    levels += [(0, 1), (0, 2), (1, 3), (2, 3), (3, 4), (3, 5), (4, 6), (5, 6)]  # 8 of them out of 6 rows: some overlap
    assert pooled.shape == (4, 15, body.channels)
    for at, (top, bottom) in enumerate(levels):
        stripe = rows[:, :, top:bottom].reshape(4, body.channels, -1)
        np.testing.assert_allclose(pooled[:, at], stripe.mean(2) + stripe.max(2), rtol=1e-12)


@pytest.mark.parametrize("body", ["pcb", "mgn", "hpm"])
def test_each_part_has_a_classifier_of_its_own_and_their_losses_add_up(body: str) -> None:
    settings = BaselineSettings(**SMALL, body=body, label_smoothing=0, triplet_weight=0)
    method, whole = Baseline(settings, facts()).double(), batch()
    assert len({id(one.weight) for one in method.classifier}) == len(method.encoder.widths)
    update = next(method.updates(whole))
    found = method.encoder.embeddings(whole.images)
    log_p = [
        (one @ classifier.weight.T + classifier.bias).log_softmax(1)
        for one, classifier in zip(found.classified, method.classifier, strict=True)
    ]
    expected = -sum(one[torch.arange(16), whole.person].mean() for one in log_p)
    torch.testing.assert_close(update.loss, torch.as_tensor(expected))
    right = (sum(log_p).argmax(1) == whole.person).double().mean()
    torch.testing.assert_close(update.logs["accuracy/person"], right)
    settings = settings.model_copy(update={"part_losses": "mean"})
    method.settings = settings
    torch.testing.assert_close(next(method.updates(whole)).loss, expected / len(log_p))


def test_a_body_of_the_same_weights_starts_all_branches_alike_from_a_resnet() -> None:
    torch.manual_seed(0)
    source = ResNet("resnet18", width=1 / 16).double()
    for name in (name for name, body in BODIES.items() if issubclass(body, ResNetBody)):
        body = small(name)
        body.load(source.state_dict() | {"fc.weight": torch.zeros(3, 32)})
        state = {key: value for key, value in source.state_dict().items() if key.endswith("weight")}
        networks = [body.trunk, *body.branches] if isinstance(body, MGN) else [body.backbone]
        found = [network.state_dict() for network in networks]
        for key, value in state.items():
            holders = [one[key] for one in found if key in one]
            assert len(holders) == (3 if name == "mgn" and key.startswith(("layer3.1", "layer4")) else 1), key
            assert all(torch.equal(one, value) for one in holders), f"{name}: {key}"


@pytest.mark.parametrize("body", BODIES)
def test_a_clip_is_pooled_frame_by_frame_and_averaged_before_the_heads(body: str) -> None:
    network = small(body).eval()
    clips = torch.stack([images(seed) for seed in range(3)], 1)
    pooled = torch.stack([network.pooled(network.maps(clips[:, t])) for t in range(3)]).mean(0)
    torch.testing.assert_close(network(clips), network.heads(pooled).features)
    torch.testing.assert_close(network(clips[:, :1]), network(images(0)))


@pytest.fixture
def no_onednn() -> Iterator[None]:
    """oneDNN in torch 2.15 leaves elements of a bfloat16 weight gradient unset: 3 × 3, stride 2, on maps of 2 × 1 (MGN)."""
    with torch.backends.mkldnn.flags(enabled=False):
        yield


@pytest.mark.usefixtures("no_onednn")
@pytest.mark.parametrize("body", BODIES)
def test_under_autocast_embeddings_are_as_precise_as_the_weights(body: str) -> None:
    settings = BaselineSettings(**settings_of(body), triplet_weight=1.0)
    method, whole = Baseline(settings, facts()), batch(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = method.encoder.embeddings(whole.images)
        loss = next(method.updates(whole)).loss
    assert {one.dtype for one in (found.features, *found.classified, *found.compared)} == {torch.float32}
    loss.backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in method.parameters())


def test_classifiers_can_be_held_fixed() -> None:
    body = refined(2)
    found = body.embeddings(images())
    classifiers = nn.ModuleList(LinearClassifier(width, 5).double() for width in body.widths)
    torch.stack(classify(classifiers, found)).sum().backward()
    assert all(parameter.grad is None for parameter in classifiers.parameters())
    assert body.part_classifier.weight.grad is not None


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"body": "mgn", "last_stride": 2}, "has no last_stride .2.: leave it out, or set body to global or pcb or hpm"),
        ({"body": "hpm", "neck_bias": False}, "body 'hpm' has no neck_bias"),
        ({"body": "pcb", "pooling": "max"}, "body 'pcb' has no pooling .'max'.*set body to global"),
        ({"refine_from_epoch": 3, "finetune_from_epoch": 4}, "body 'global' has no finetune_from_epoch .4.*set body to pcb"),
        ({"body": "pcb", "refine_from_epoch": 3}, "needs both refine_from_epoch"),
        ({"body": "pcb", "refine_from_epoch": 3, "finetune_from_epoch": 2}, "finetune_from_epoch .2. is before"),
        ({"body": "osnet"}, "'global', 'pcb', 'mgn', 'hpm', 'clip-vit' or 'clip-cnn'"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_the_body_are_refused_with_the_mend(settings: dict[str, object], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        BaselineSettings(**settings)
