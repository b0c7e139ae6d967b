"""Masking out leaves no trace of what was masked."""

from __future__ import annotations

import pytest
import torch

from methods.masking import Fill, grown, label_table, masked_out

FILLS: list[Fill] = ["zero", "mean", (0.5, -1.0, 2.0)]


def scene(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(4, 3, 12, 6, generator=random), torch.rand(4, 12, 6, generator=random) < 0.4


@pytest.mark.parametrize("fill", FILLS, ids=str)
def test_what_is_masked_out_leaves_no_trace_and_the_rest_stays(fill: Fill) -> None:
    images, mask = scene()
    others = torch.where(mask[:, None], torch.randn_like(images), images)
    result = masked_out(images, mask, fill)
    assert torch.equal(result, masked_out(others, mask, fill))
    assert torch.equal(result.movedim(1, 3)[~mask], images.movedim(1, 3)[~mask])


def test_each_fill_is_the_colour_that_it_says() -> None:
    images, mask = scene()
    inside = {fill: masked_out(images, mask, fill)[1].movedim(0, 2)[mask[1]] for fill in FILLS}
    assert inside["zero"].abs().max() == 0
    assert torch.equal(inside[0.5, -1.0, 2.0], torch.tensor([0.5, -1.0, 2.0]).expand(len(inside["zero"]), 3))
    left = images[1].movedim(0, 2)[~mask[1]]
    torch.testing.assert_close(inside["mean"], left.mean(0).expand(len(inside["zero"]), 3))


def test_an_image_that_is_masked_out_altogether_is_zero() -> None:
    images, mask = scene()
    assert masked_out(images, torch.ones_like(mask), "mean").abs().max() == 0


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
