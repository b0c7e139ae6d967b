"""Masking out leaves no trace of what was masked; white is white before normalising."""

from __future__ import annotations

import pytest
import torch

from datasets.images.augment import Augmentation
from methods.masking import WHITE, Fill, grown, label_table, masked_out, normalised_white
from tests import golden

FILLS: list[Fill] = ["zero", "mean", "white", (0.5, -1.0, 2.0)]
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def scene(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(4, 3, 12, 6, generator=random), torch.rand(4, 12, 6, generator=random) < 0.4


@pytest.mark.parametrize("fill", FILLS, ids=str)
def test_what_is_masked_out_leaves_no_trace_and_the_rest_stays(fill: Fill) -> None:
    images, mask = scene()
    others = torch.where(mask[:, None], torch.randn_like(images), images)
    result = masked_out(images, mask, fill, WHITE)
    assert torch.equal(result, masked_out(others, mask, fill, WHITE))
    assert torch.equal(result.movedim(1, 3)[~mask], images.movedim(1, 3)[~mask])


def test_each_fill_is_the_colour_that_it_says() -> None:
    images, mask = scene()
    inside = {fill: masked_out(images, mask, fill, WHITE)[1].movedim(0, 2)[mask[1]] for fill in FILLS}
    assert inside["zero"].abs().max() == 0
    assert torch.equal(inside[0.5, -1.0, 2.0], torch.tensor([0.5, -1.0, 2.0]).expand(len(inside["zero"]), 3))
    left = images[1].movedim(0, 2)[~mask[1]]
    torch.testing.assert_close(inside["mean"], left.mean(0).expand(len(inside["zero"]), 3))


def test_an_image_that_is_masked_out_altogether_is_zero() -> None:
    images, mask = scene()
    assert masked_out(images, torch.ones_like(mask), "mean", WHITE).abs().max() == 0


def test_a_margin_reaches_so_many_rows_and_columns() -> None:
    mask = torch.zeros(1, 9, 9, dtype=torch.bool)
    mask[0, 4, 3] = True
    assert torch.equal(grown(mask, 0), mask)
    wide = grown(mask, 2)[0].nonzero()
    assert wide.amin(0).tolist() == [2, 1]
    assert wide.amax(0).tolist() == [6, 5]
    assert len(wide) == 25


def test_the_table_knows_every_stored_byte() -> None:
    table = label_table((5, 9))
    parsing = torch.tensor([[[0, 5], [9, 255]]], dtype=torch.uint8)
    assert table[parsing.long()].tolist() == [[[False, True], [True, False]]]


@pytest.mark.parametrize("case", golden.cases("ccaf", "ccaf_images"))
def test_golden_shielding_and_clothes_images(case: golden.Case) -> None:
    """Painted on bytes, before normalising, as Eqs. 4 and 11 of CCAF have it."""
    given = case.inputs(torch.float64)
    images = given["images"]
    clothing = label_table(case.params["clothing_labels"])[given["parsing_labels"]]
    case.check("keep_mask", (~clothing).to(torch.uint8))
    white = (255.0, 255.0, 255.0)
    case.check("shielding", masked_out(images, clothing, "white", white))
    case.check("clothes_only", masked_out(images, ~clothing, "white", white))


@pytest.mark.parametrize(("mean", "std"), [(Augmentation.mean, Augmentation.std), (CLIP_MEAN, CLIP_STD)])
@pytest.mark.parametrize("dtype", golden.DTYPES, ids=str)
def test_white_is_what_painting_before_normalising_gives(
    mean: tuple[float, float, float], std: tuple[float, float, float], dtype: torch.dtype
) -> None:
    _, mask = scene()
    images = torch.randint(0, 256, (4, 3, 12, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    scale, shift = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (std, mean))
    painted = torch.where(mask[:, None], 255, images)
    expected = ((painted.double() / 255 - shift) / scale).to(dtype)
    normalised = ((images.double() / 255 - shift) / scale).to(dtype)
    result = masked_out(normalised, mask, "white", normalised_white(mean, std))
    torch.testing.assert_close(result, expected)
    assert result.dtype == dtype


def test_without_other_facts_white_is_that_of_imagenets_normalisation() -> None:
    assert normalised_white(Augmentation.mean, Augmentation.std) == WHITE
