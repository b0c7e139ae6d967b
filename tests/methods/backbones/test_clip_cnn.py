"""The image tower of the small CLIP as a body: what is pooled, and its weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from methods.backbones.bodies import BodySettings, build_body
from methods.backbones.clip_cnn import CLIPCNN, STRIPES
from methods.backbones.pooling import bounds
from methods.method import MethodError


def body(**settings: object) -> CLIPCNN:
    torch.manual_seed(3)
    made = build_body(BodySettings(body="clip-cnn", width=1 / 4, **settings)).double()
    assert isinstance(made, CLIPCNN)
    return made.eval()


def images(*size: int) -> Tensor:
    return torch.randn(4, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [(96, 48), (256, 128), (32, 16)])
def test_the_projected_means_of_six_stripes_are_the_feature(size: tuple[int, int]) -> None:
    made, given = body(), images(*size)
    maps = made.maps(given)
    assert maps.shape == (4, made.channels, size[0] // 16, size[1] // 16)
    striped = torch.stack([maps[:, :, top:bottom].mean((2, 3)) for top, bottom in bounds(maps.shape[2], STRIPES)], 2)
    expected = striped.flatten(1) @ made.projection.weight.T
    found = made.embeddings(given)
    torch.testing.assert_close(found.before_neck, expected)
    torch.testing.assert_close(found.features, expected / (1 + 1e-5) ** 0.5)  # a neck that has seen nothing
    assert made.dim == 96


def test_both_features_have_a_neck_each_and_are_compared_before_or_behind_them() -> None:
    for is_before in (True, False):
        made = body(clip_features="both", triplet_before_neck=is_before, neck_bias=False)
        found = made.embeddings(images(96, 48))
        assert [one.shape[1] for one in found.classified] == list(made.widths) == [STRIPES * made.channels, 96]
        assert found.features.shape == (4, made.dim)
        expected = found.before_neck.split(made.widths, 1) if is_before else found.classified
        for one, other in zip(found.compared, expected, strict=True):
            assert torch.equal(one, other)


def test_weights_come_back_and_leave_the_necks_alone() -> None:
    source, target = body(), body()
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.add_(1.0)
    necks = {name: value.clone() for name, value in target.necks.state_dict().items()}
    state = source.tower_state()
    assert {name.split(".")[1] for name in state} == {"convolutions", "projection"}
    target.load(state | {"logit_scale": torch.zeros(())})
    for name, value in target.tower_state().items():
        assert torch.equal(value, state[name])
    assert all(torch.equal(value, necks[name]) for name, value in target.necks.state_dict().items())


def test_other_weights_are_refused_and_say_what_would_fit() -> None:
    made = body()
    with pytest.raises(MethodError, match=r"not of the small image tower.*redress clip train-tiny"):
        made.load({"visual.class_embedding": torch.zeros(1)})
    with pytest.raises(MethodError, match=r"of another shape: convolutions\.0\.weight"):
        made.load({name: torch.zeros(*value.shape, 1) for name, value in made.tower_state().items()})
