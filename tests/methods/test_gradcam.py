"""Grad-CAM: a network small enough to know the answer, a loop over images with hooks, and every method."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from pydantic import BaseModel
from torch import Tensor

from methods.backbones.clip_vit import CLIPViT
from methods.gradcam import gradcam
from methods.method import Batch, Method, Update
from tests.methods.test_methods import embed_inputs, variants
from tests.methods.variants import batch, build, facts

ITSELF, NEXT = torch.arange(16), (torch.arange(16) + 1) % 16


class NoSettings(BaseModel):
    pass


class Colours(Method):
    """Its maps are the image, its descriptor the mean colour."""

    Settings = NoSettings

    def updates(self, batch: Batch) -> Iterator[Update]:
        raise NotImplementedError

    def embed(self, images: Tensor) -> Tensor:
        return self.describe(self.maps(images))

    def maps(self, images: Tensor) -> Tensor:
        return images.clone()

    def describe(self, maps: Tensor) -> Tensor:
        return maps.mean((2, 3))

    def heat(self, cam: Tensor, images: Tensor) -> Tensor:
        return cam


def colours() -> Method:
    return Colours(NoSettings(), facts()).eval()


def test_an_image_is_like_its_partner_where_it_has_the_partners_colour() -> None:
    red_over_green = torch.tensor([[[1.0, 1.0], [0.0, 0.0]], [[0.0, 0.0], [1.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]])
    red = torch.tensor([1.0, 0.0, 0.0]).reshape(3, 1, 1).expand(3, 2, 2)
    found = gradcam(colours(), [torch.stack([red_over_green, red])], torch.tensor([1, 0]))
    upper = 1 / (4 * 0.5**0.5)  # ∂s/∂map = g / (4 |f|) with g red and f half red, half green
    torch.testing.assert_close(found[0], torch.tensor([[upper, upper], [0, 0]]))
    torch.testing.assert_close(found[1], torch.full((2, 2), 0.5**0.5 / 4))


def test_what_makes_an_image_unlike_its_partner_is_not_shown() -> None:
    red_over_cyan = torch.tensor([[[1.0], [-1.0]], [[0.0], [0.0]], [[0.0], [0.5]]])
    red = torch.tensor([1.0, 0.0, 0.0]).reshape(3, 1, 1).expand(3, 2, 1)
    found = gradcam(colours(), [torch.stack([red_over_cyan, red])], torch.tensor([1, 0]))
    assert found[0, 0, 0] > 0
    assert found[0, 1, 0] == 0


def test_of_averaged_maps_the_similarity_is_shared_out_over_the_places() -> None:
    images = torch.rand(16, 3, 6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for partner in (ITSELF, NEXT):
        means = F.normalize(images.mean((2, 3)), dim=1)
        torch.testing.assert_close(gradcam(colours(), [images], partner).sum((1, 2)), (means * means[partner]).sum(1))


@variants
def test_maps_are_those_of_a_loop_over_images(variant: str) -> None:
    """One image at a time through `embed`, its gradient caught where `describe` takes the maps over."""
    method = build(variant).eval()
    inputs = embed_inputs(method, batch())
    found = gradcam(method, inputs, NEXT)
    assert found.isfinite().all()
    shows = found.amax((1, 2)) > 0
    assert shows.any() if has_tokens(method) else shows.all()  # all that is positive may be the class token's
    descriptors = method.embed(*inputs).detach()
    for image in (0, 7, 15):
        maps = method.maps(*(tensor[image : image + 1] for tensor in inputs))
        maps.retain_grad()
        mine, other = method.describe(maps)[0], descriptors[(image + 1) % 16]
        (sum(a * b for a, b in zip(mine, other, strict=True)) / other.norm() / descriptors[image].norm()).backward()
        channels, height, width = maps[0].shape
        summed = torch.zeros(height, width, dtype=torch.float64)
        for channel in range(channels):
            assert maps.grad is not None
            summed += maps.grad[0, channel].sum() / (height * width) * maps[0, channel].detach()
        torch.testing.assert_close(found[image], over_the_image(method, summed.clamp(min=0)))


def over_the_image(method: Method, cam: Tensor) -> Tensor:
    """A map of tokens without the class token, as a grid of the patches; others as they are."""
    if not has_tokens(method):
        return cam
    return cam[1:, 0, None]  # patches of 16 × 16 stand one below another in an image of 32 × 16


def has_tokens(method: Method) -> bool:
    return any(isinstance(module, CLIPViT) for module in method.modules())


@variants
def test_a_descriptor_is_made_of_the_maps(variant: str) -> None:
    method = build(variant).eval()
    inputs = embed_inputs(method, batch())
    maps = method.maps(*inputs)
    assert maps.ndim == 4
    assert min(maps.shape[2:]) >= 1
    torch.testing.assert_close(method.describe(maps), method.embed(*inputs))


@variants
def test_what_a_method_shows_beside_is_maps_or_images(variant: str) -> None:
    method = build(variant).eval()
    inputs = embed_inputs(method, batch())
    for title, view in method.views(*inputs).items():
        assert title
        if view.ndim == 3:
            assert view.shape[0] == 16
            assert ((view >= 0) & (view <= 1)).all()
        else:
            assert view.shape == inputs[0].shape


@variants
def test_it_leaves_nothing_behind(variant: str) -> None:
    method = build(variant).eval()
    before = {name: tensor.clone() for name, tensor in method.state_dict().items()}
    inputs = [tensor.clone() for tensor in embed_inputs(method, batch())]
    with torch.no_grad():  # nor does it mind who calls it
        gradcam(method, inputs, ITSELF)
    assert all(torch.equal(tensor, before[name]) for name, tensor in method.state_dict().items())
    assert all(parameter.grad is None for parameter in method.parameters())
    assert not method.training
    assert not any(tensor.requires_grad for tensor in inputs)


def test_an_image_alone_has_the_map_that_it_has_among_others() -> None:
    method = build("baseline").eval()
    (images,) = embed_inputs(method, batch())
    alone = gradcam(method, [images[3:4]], torch.tensor([0]))
    torch.testing.assert_close(alone[0], gradcam(method, [images], ITSELF)[3])


def test_a_method_in_training_is_refused() -> None:
    with pytest.raises(ValueError, match=r"call eval\(\) first"):
        gradcam(build("baseline"), [batch().images], ITSELF)
