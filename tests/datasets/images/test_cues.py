"""Cues: what of a person stays in an image, by masks and by shares of the height, and what stands in the place of the rest."""

from __future__ import annotations

import typing

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from datasets.images.cues import CUES, CueName, feet_labels, kept, kept_rows, mean_colour, show
from datasets.images.label_maps import LABEL_MAPS, PARTS

LIP, COLOUR = LABEL_MAPS["lip20"], (124, 116, 104)
HEAD = {"hat", "hair", "sunglasses", "face"}
FEET = {"socks", "left shoe", "right shoe"}


def pictures(seed: int = 0, height: int = 21) -> tuple[Tensor, Tensor]:
    """Three images of noise and masks with every label in them."""
    random = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (3, 3, height, 8), dtype=torch.uint8, generator=random)
    return images, torch.randint(0, LIP.num_labels, (3, height, 8), dtype=torch.uint8, generator=random)


def test_names_of_cues_are_those_of_the_settings() -> None:
    assert tuple(CUES) == typing.get_args(CueName)


@pytest.mark.parametrize(
    ("cue", "labels"),
    [
        ("head", HEAD),
        ("body", set(LIP.labels) - HEAD - FEET - {"background"}),
        ("head-body", set(LIP.labels) - FEET - {"background"}),
    ],
)
def test_a_cue_by_masks_keeps_the_labels_of_its_regions(cue: CueName, labels: set[str]) -> None:
    images, masks = pictures()
    painted, parsing = show(CUES[cue], images, masks, LIP, COLOUR)
    assert parsing is not None
    numbers = {number for number, name in enumerate(LIP.labels) if name in labels}
    for image, mask, result, left in zip(images, masks, painted, parsing, strict=True):
        for y, x in np.ndindex(*mask.shape):
            if int(mask[y, x]) in numbers:
                assert torch.equal(result[:, y, x], image[:, y, x])
                assert left[y, x] == mask[y, x]
            else:
                assert result[:, y, x].tolist() == list(COLOUR)
                assert left[y, x] == 0


@pytest.mark.parametrize(("cue", "rows"), [("head-rows", (0, 6)), ("body-rows", (6, 18)), ("head-body-rows", (0, 18))])
def test_a_cue_by_rows_keeps_the_shares_of_cals_table(cue: CueName, rows: tuple[int, int]) -> None:
    """The top 2/7 of 21 rows are 6, the bottom 1/7 are 3; masks are changed alike, and are not needed."""
    images, masks = pictures()
    assert kept_rows(CUES[cue], 21) == rows
    painted, parsing = show(CUES[cue], images, masks, None, COLOUR)
    assert parsing is not None
    inside = slice(*rows)
    outside = [row for row in range(21) if not rows[0] <= row < rows[1]]
    assert torch.equal(painted[:, :, inside], images[:, :, inside])
    assert torch.equal(parsing[:, inside], masks[:, inside])
    assert (painted[:, :, outside] == torch.tensor(COLOUR)[:, None, None]).all()
    assert (parsing[:, outside] == 0).all()
    assert torch.equal(show(CUES[cue], images, None, None, COLOUR)[0], painted)


@given(st.integers(2, 400))
def test_head_and_body_share_no_row_and_both_are_head_body(height: int) -> None:
    head, body, both = (kept_rows(CUES[name], height) for name in ("head-rows", "body-rows", "head-body-rows"))
    assert 0 == head[0] < head[1] == body[0] < body[1] <= height
    assert both == (head[0], body[1])
    assert head[1] == pytest.approx(height * 2 / 7, abs=0.5)
    assert body[1] == pytest.approx(height * 6 / 7, abs=0.5)


@pytest.mark.parametrize("name", [name for name, labels in LABEL_MAPS.items() if feet_labels(labels)])
def test_every_label_is_of_one_region(name: str) -> None:
    labels = LABEL_MAPS[name]
    mask = torch.arange(256, dtype=torch.uint8)[None, None]
    head, body, both = (kept(CUES[cue], (1, 1, 256), mask, labels)[0, 0] for cue in ("head", "body", "head-body"))
    assert not (head & body).any()
    assert torch.equal(head | body, both)
    neither = {labels.labels[number] for number in range(labels.num_labels) if not both[number]}
    background = {text for text, part in zip(labels.labels, labels.parts, strict=True) if PARTS[part] == "background"}
    assert neither == background | {labels.labels[number] for number in feet_labels(labels)}
    assert not both[labels.num_labels :].any()


def test_label_maps_that_tell_feet_from_legs_are_those_with_shoes() -> None:
    names = {name: {labels.labels[n] for n in feet_labels(labels)} for name, labels in LABEL_MAPS.items()}
    assert names == {"lip20": FEET, "atr18": {"left shoe", "right shoe"}, "pascal7": set(), "six": set()}


def test_what_is_given_stays_as_it_is_and_masks_must_be_there() -> None:
    images, masks = pictures()
    before = images.clone(), masks.clone()
    show(CUES["head"], images, masks, LIP, COLOUR)
    assert torch.equal(images, before[0])
    assert torch.equal(masks, before[1])
    with pytest.raises(ValueError, match="needs each image's parsing mask"):
        show(CUES["head"], images, None, LIP, COLOUR)


def test_the_colour_is_what_the_normalisation_makes_0_of_to_half_a_grey_level() -> None:
    mean, std = np.array((0.485, 0.456, 0.406)), np.array((0.229, 0.224, 0.225))
    colour = np.array(mean_colour(mean.tolist()))
    assert (np.abs((colour / 255 - mean) / std) <= 0.5 / 255 / std).all()
