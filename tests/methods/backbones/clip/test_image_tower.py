"""CLIP's image tower: golden position grids, a transcription in plain sums, overlapping patches, sizes, and its graph."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.export import Dim, export

from methods.backbones.clip.image_tower import ImageTower, resized
from methods.backbones.clip.sizes import TOWERS
from methods.method import MethodError
from orchestration.export.onnx_graph import session
from tests import golden
from tests.methods.backbones.clip import reference
from tests.methods.backbones.clip.reference import TINY


def tower(stride: int | None = None, dtype: torch.dtype = torch.float64) -> ImageTower:
    torch.manual_seed(0)
    made = ImageTower(TINY, stride).to(dtype)
    reference.randomised(made)
    return made


def images(*size: int, number: int = 2, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(number, 3, *size, dtype=dtype, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("dtype", golden.DTYPES, ids=str)
@pytest.mark.parametrize("case", golden.cases("clip_layout", "resize_pos_embed"))
def test_golden_position_grids(case: golden.Case, dtype: torch.dtype) -> None:
    grid = case.params["height"], case.params["width"]
    case.check("resized", resized(case.inputs(dtype)["pos_embed"], grid))


@pytest.mark.parametrize("grid", [(21, 10), (16, 8), (3, 3), (2, 5), (1, 1), (7, 2)])
def test_a_grid_of_positions_is_interpolated_place_by_place(grid: tuple[int, int]) -> None:
    for side in (14, 3):
        table = torch.randn(1 + side**2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        torch.testing.assert_close(resized(table, grid), reference.positions(table, *grid))
    square = torch.randn(10, 5)
    assert torch.equal(resized(square, (3, 3)), square)


@pytest.mark.parametrize(("stride", "size"), [(None, (24, 24)), (None, (32, 16)), (6, (32, 20)), (3, (16, 11))])
def test_tokens_are_those_of_the_plain_sums(stride: int | None, size: tuple[int, int]) -> None:
    made, given = tower(stride), images(*size)
    found = made(given)
    for image in range(2):
        expected = reference.image_tokens(made.state_dict(), given[image], stride or 8, TINY.image.heads)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one[image], other)


def test_gradients_are_those_of_the_plain_sums() -> None:
    made, given = tower(6), images(20, 14)
    state = {name: value.detach().clone().requires_grad_() for name, value in made.state_dict().items()}
    weights = torch.randn(TINY.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    (made(given).projected[:, 0] @ weights).sum().backward()
    for image in given:
        (reference.image_tokens(state, image, 6, TINY.image.heads)[2][0] @ weights).backward()
    for name, parameter in made.named_parameters():
        torch.testing.assert_close(parameter.grad, state[name].grad, msg=name)


def test_biases_of_keys_have_the_gradient_0_and_not_its_rounding() -> None:
    made = tower()
    made(images(24, 16)).projected[:, 0].square().sum().backward()
    for name, parameter in made.named_parameters():
        if name.endswith("in_proj_bias"):
            assert parameter.grad is not None
            of_query, of_key, of_value = parameter.grad.chunk(3)
            assert not of_key.any()
            assert of_query.all()
            assert of_value.all()


def test_overlapping_patches_of_a_person_image_are_21_by_10_and_others_16_by_8() -> None:
    with torch.device("meta"):
        for stride, grid in ((None, (16, 8)), (12, (21, 10))):
            made = ImageTower(TOWERS["vit-b16"], stride)
            assert made.grid(256, 128) == grid
            assert made(torch.empty(2, 3, 256, 128)).projected.shape == (2, 1 + grid[0] * grid[1], 512)


def test_the_published_towers_have_their_sizes() -> None:
    """CLIP's ViT-B/16 and ViT-L/14 image towers, by the papers' structure."""
    for name, expected in (("vit-b16", 86_192_640), ("vit-l14", 303_966_208)):
        size = TOWERS[name]
        width, each = size.image.width, 12 * size.image.width**2 + 13 * size.image.width
        by_hand = 3 * size.patch**2 * width + width * (2 + size.grid**2) + size.image.layers * each + 4 * width
        by_hand += width * size.dim
        with torch.device("meta"):
            found = sum(parameter.numel() for parameter in ImageTower(size).parameters())
        assert found == by_hand == expected


@pytest.mark.parametrize("factor", [1 / 16, 1 / 8, 0.3, 0.375, 2.0])
def test_a_scaled_tower_has_heads_that_divide_its_width(factor: float) -> None:
    for size in TOWERS.values():
        scaled = size.scaled(factor)
        for one, whole in ((scaled.image, size.image), (scaled.text, size.text)):
            assert one.width % one.heads == 0
            assert one.width == pytest.approx(whole.width * factor, rel=0.1)
            assert one.layers == whole.layers
        assert (scaled.patch, scaled.grid) == (size.patch, size.grid)


def test_an_image_smaller_than_a_patch_is_refused_with_both_sizes() -> None:
    with pytest.raises(MethodError, match=r"32 × 7 pixels has no patch of 8 × 8.*at least 8"):
        tower()(images(32, 7))


@pytest.mark.parametrize("stride", [None, 6])
def test_it_is_a_graph_for_any_number_of_images_in_torch_and_in_onnx(stride: int | None) -> None:
    made, example = tower(stride, torch.float32).eval(), images(32, 20, number=2, dtype=torch.float32)
    with torch.no_grad():
        program = export(made, (example,), dynamic_shapes=({0: Dim("batch")},))
        written = torch.onnx.export(
            program, input_names=["images"], output_names=["before", "after", "features"], verbose=False
        )
        assert written is not None
        data = written.model_proto.SerializeToString()
        for number in (1, 5):
            given = images(32, 20, number=number, dtype=torch.float32)
            expected = made(given)
            for one, other in zip(program.module()(given), expected, strict=True):
                torch.testing.assert_close(one, other)
            torch.testing.assert_close(session(data)(given), expected.projected, rtol=1e-4, atol=1e-5)
