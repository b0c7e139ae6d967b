"""CLIP's image tower as a body: what is pooled, both features, tokens and places, weights, settings."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from methods.backbones.bodies import BodySettings, build_body
from methods.backbones.clip.image_tower import ImageTower
from methods.backbones.clip.sizes import TOWERS
from methods.backbones.clip_vit import CLIPViT
from methods.baseline import Baseline, BaselineSettings
from methods.ifd import IFD, IFDSettings
from methods.method import MethodError
from orchestration.engine.weights import WITH_DIGEST
from tests.methods.backbones.clip.reference import randomised
from tests.methods.variants import batch, facts

SMALL = {"body": "clip-vit", "width": 1 / 16}  # 48 channels, 12 layers, 32 dimensions


def body(**settings: object) -> CLIPViT:
    torch.manual_seed(3)
    made = build_body(BodySettings(**SMALL | settings)).double()
    assert isinstance(made, CLIPViT)
    return made


def images(*size: int) -> Tensor:
    return torch.randn(4, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("stride", [None, 8])
def test_the_descriptor_is_the_projected_class_token_behind_the_neck(stride: int | None) -> None:
    made, given = body(patch_stride=stride), images(48, 32)
    made.train()
    found = made.embeddings(given)
    tokens = made.tower(given)
    torch.testing.assert_close(found.before_neck, tokens.projected[:, 0])
    raw = tokens.projected[:, 0]
    normal = (raw - raw.mean(0)) / (raw.var(0, unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(found.features, normal)
    for (one,) in (found.classified, found.compared):
        assert torch.equal(one, found.features)
    assert made.dim == 32


def test_both_features_have_a_neck_each_and_three_tokens_are_compared_before_them() -> None:
    made, given = body(clip_features="both", triplet_before_neck=True, neck_bias=False).eval(), images(48, 32)
    for neck in made.necks:
        assert isinstance(neck, torch.nn.BatchNorm1d)
        torch.nn.init.normal_(neck.weight)
    found, tokens = made.embeddings(given), made.tower(given)
    class_tokens = [one[:, 0] for one in tokens]
    for one, expected in zip(found.compared, class_tokens, strict=True):
        torch.testing.assert_close(one, expected)
    torch.testing.assert_close(found.before_neck, torch.cat(class_tokens[1:], 1))
    expected = [neck(one) for neck, one in zip(made.necks, class_tokens[1:], strict=True)]
    torch.testing.assert_close(found.features, torch.cat(expected, 1))
    torch.testing.assert_close(found.classified[0], expected[0])
    torch.testing.assert_close(found.classified[1], expected[1])
    assert made.widths == (48, 32)
    assert made.dim == 80
    assert not any(neck.bias.requires_grad for neck in made.necks)


def test_at_the_papers_sizes_descriptor_and_maps_are_the_papers() -> None:
    for settings, dim, places in (
        ({}, 512, 129),
        ({"patch_stride": 12}, 512, 211),
        ({"clip_features": "both"}, 1280, 129),
        ({"tower": "vit-l14"}, 768, 1 + 18 * 9),
    ):
        with torch.device("meta"):
            made = build_body(BodySettings(body="clip-vit", **settings))
            given = torch.empty(2, 3, 256, 128)
            assert made.maps(given).shape == (2, made.channels, places, 1)
            assert made(given).shape == (2, dim)
        assert made.dim == dim


@pytest.mark.parametrize(("size", "stride"), [((48, 32), None), ((49, 40), 9), ((16, 16), None)])
def test_places_are_the_patches_row_by_row_and_the_class_token_has_none(
    size: tuple[int, int], stride: int | None
) -> None:
    made, given = body(patch_stride=stride), images(*size)
    maps = made.maps(given)
    places = made.over_places(maps, size)
    height, width = made.tower.grid(*size)
    assert places.shape == (4, made.channels, height, width)
    for y in range(height):
        for x in range(width):
            assert torch.equal(places[:, :, y, x], maps[:, :, 1 + y * width + x, 0])
    heat = made.heat(maps[:, 5], size)
    assert torch.equal(heat, places[:, 5])


def test_weighing_places_leaves_the_class_token_as_it_is() -> None:
    made, size = body(), (48, 32)
    maps = made.maps(images(*size))
    weights = torch.rand(4, 1, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    weighed = made.weighed(maps, weights)
    assert torch.equal(weighed[:, :, 0], maps[:, :, 0])
    assert torch.equal(made.over_places(weighed, size), weights * made.over_places(maps, size))


def test_a_patch_that_changes_shows_in_its_place() -> None:
    """Before the first block, so that no other place has seen it: the tower has no block before its last one."""
    made, given = body(), images(48, 32)
    made.tower.transformer.resblocks = made.tower.transformer.resblocks[:1]
    changed = given.clone()
    changed[:, :, 16:32, 16:32] += 1.0  # the second row, the second column
    difference = (made.over_places(made.maps(changed) - made.maps(given), (48, 32)) != 0).any(1)
    expected = torch.zeros(4, 3, 2, dtype=torch.bool)
    expected[:, 1, 1] = True
    assert torch.equal(difference, expected)


def test_weights_load_by_the_body_and_start_both_streams_of_ifd_alike() -> None:
    torch.manual_seed(0)
    source = ImageTower(TOWERS["vit-b16"].scaled(1 / 16))
    randomised(source)
    state = {f"visual.{key}": value for key, value in source.state_dict().items()}
    baseline = Baseline(BaselineSettings(**SMALL), facts())
    baseline.load_backbone(state)
    ifd = IFD(IFDSettings(**SMALL), facts())
    ifd.load_backbone(state)
    assert isinstance(baseline.encoder, CLIPViT)
    streams = [baseline.encoder, ifd.main, ifd.attention]
    for stream in streams:
        assert isinstance(stream, CLIPViT)
        for name, value in source.state_dict().items():
            assert torch.equal(stream.tower.state_dict()[name], value)
    assert len({stream.tower.proj.data_ptr() for stream in streams if isinstance(stream, CLIPViT)}) == 3
    with pytest.raises(MethodError, match="a ResNet, named as torchvision names it"):
        baseline.load_backbone({"layer1.0.conv1.weight": torch.zeros(1)})
    assert baseline.weights_address() is None


@pytest.mark.parametrize("tower", TOWERS)
def test_published_weights_are_for_the_published_width(tower: str) -> None:
    with torch.device("meta"):
        address = CLIPViT(tower=tower).weights_address()
        assert CLIPViT(tower=tower, width=0.5).weights_address() is None
    assert address is not None
    assert WITH_DIGEST.fullmatch(address)


def test_ifd_weighs_patches_by_what_the_attention_stream_sees() -> None:
    torch.manual_seed(1)
    method, whole = IFD(IFDSettings(**SMALL, joint_from_epoch=0, kernel=3), facts()).double(), batch()
    assert whole.parsing is not None
    clothing = method.clothing(whole.parsing)
    seen = method.attention_maps(whole.images, clothing)[:, :, 1:, 0].unflatten(2, (2, 1))
    pooled = torch.cat([seen.amax(1, keepdim=True), seen.mean(1, keepdim=True)], 1)
    weights = method.knowledge_transfer.convolution(pooled).sigmoid()  # Eq. 1
    maps, plain = method.maps(whole.images, whole.parsing), method.main.maps(whole.images)
    torch.testing.assert_close(maps[:, :, 1:, 0], plain[:, :, 1:, 0] * weights.flatten(2))  # Eq. 2
    torch.testing.assert_close(maps[:, :, 0], plain[:, :, 0])
    torch.testing.assert_close(method.views(whole.images, whole.parsing)["attention W_I"], weights[:, 0])
    (update,) = method.updates(whole)
    update.loss.backward()
    assert all(parameter.grad is not None for parameter in method.parameters() if parameter.requires_grad)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            {"backbone": "resnet18"},
            r"has no backbone .'resnet18'.: leave it out.*method.backbone=\"resnet50\" takes it back",
        ),
        ({"last_stride": 2}, "body 'clip-vit' has no last_stride"),
        ({"pooling": "max"}, "body 'clip-vit' has no pooling"),
        ({"body": "global", "patch_stride": 12}, "body 'global' has no patch_stride .12.*set body to clip-vit"),
        ({"body": "global", "tower": "vit-l14"}, "body 'global' has no tower"),
        ({"body": "pcb", "clip_features": "both"}, "body 'pcb' has no clip_features"),
        ({"patch_stride": 17}, "patch_stride 17 leaves gaps between the patches of vit-b16: set it to at most 16"),
        ({"patch_stride": 15, "tower": "vit-l14"}, "at most 14"),
        ({"tower": "vit-h14"}, "'vit-b16' or 'vit-l14'"),
    ],
)
def test_settings_that_do_not_fit_are_refused_with_the_fix(settings: dict[str, object], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        BodySettings(**SMALL | settings)
