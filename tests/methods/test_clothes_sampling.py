"""Pixel sampling: golden results, what it leaves alone, where its pixels come from, draws."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from datasets.images.label_maps import LABEL_MAPS, PARTS
from methods.clothes_sampling import (
    TROUSERS,
    UPPER,
    ClothesDraws,
    ClothesSampling,
    draw_clothes,
    in_other_clothes,
    sample_pixels,
)
from tests import golden

SIX = LABEL_MAPS["six"].part_table()


@pytest.mark.parametrize("dtype", [*golden.DTYPES, torch.uint8], ids=str)
@pytest.mark.parametrize("case", golden.cases("sps_pixel_sampling"))
def test_golden_pixel_sampling(case: golden.Case, dtype: torch.dtype) -> None:
    given = case.inputs(torch.float64)
    images, expected = given["images"], torch.as_tensor(case.expected["paper"])
    if dtype == torch.uint8:  # each value by its place among all values
        values = images.unique()
        images, expected = (torch.searchsorted(values, x.double()).to(dtype) for x in (images, expected))
    order = {case.params["upper_part"]: given["perm_upper"], case.params["pants_part"]: given["perm_pants"]}
    sampled = sample_pixels(images.to(dtype), given["labels"], order)
    assert sampled.dtype == dtype
    assert torch.equal(sampled, expected.to(dtype))


def test_the_parts_are_those_of_the_label_maps() -> None:
    assert (PARTS[UPPER], PARTS[TROUSERS]) == ("upper clothes", "trousers")


@st.composite
def scenes(draw: st.DrawFn) -> tuple[Tensor, Tensor, dict[int, Tensor]]:
    """Images or clips, with parts of which some may be nowhere, and an order for one or two parts."""
    random = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    frames = draw(st.sampled_from([(), (2,)]))
    num, height, width = draw(st.integers(1, 6)), draw(st.integers(1, 7)), draw(st.integers(1, 5))
    images = torch.randint(0, 256, (num, *frames, 3, height, width), dtype=torch.uint8, generator=random)
    if not frames and draw(st.booleans()):
        images = images.contiguous(memory_format=torch.channels_last)
    there = torch.tensor(draw(st.lists(st.integers(0, 5), min_size=1, max_size=6)), dtype=torch.uint8)
    parts = there[torch.randint(0, len(there), (num, *frames, height, width), generator=random)]
    changed = draw(st.sampled_from([(UPPER,), (TROUSERS,), (UPPER, TROUSERS)]))
    return images, parts, {part: torch.randperm(num, generator=random) for part in changed}


def colours(images: Tensor, where: Tensor) -> list[tuple[int, ...]]:
    return sorted(map(tuple, images.movedim(-3, -1)[where].tolist()))


@given(scenes())
def test_a_part_has_the_pixels_that_it_had_in_the_whole_batch_and_nothing_else_changes(
    scene: tuple[Tensor, Tensor, dict[int, Tensor]],
) -> None:
    images, parts, order = scene
    before = images.clone()
    sampled = sample_pixels(images, parts, order)
    assert torch.equal(images, before), "the given images are as they were"
    untouched = ~torch.isin(parts, torch.tensor(list(order), dtype=torch.uint8))
    assert torch.equal(sampled.movedim(-3, -1)[untouched], images.movedim(-3, -1)[untouched])
    for part in order:  # the bank, each pixel of it once
        assert colours(sampled, parts == part) == colours(images, parts == part)


@given(scenes(), st.data())
def test_some_rows_are_those_of_the_whole(scene: tuple[Tensor, Tensor, dict[int, Tensor]], data: st.DataObject) -> None:
    images, parts, order = scene
    first = data.draw(st.integers(0, len(images)))
    stop = data.draw(st.integers(first, len(images)))
    assert torch.equal(
        sample_pixels(images, parts, order, slice(first, stop)), sample_pixels(images, parts, order)[first:stop]
    )


@given(scenes())
def test_it_is_the_papers_loop_over_pixels(scene: tuple[Tensor, Tensor, dict[int, Tensor]]) -> None:
    images, parts, order = scene
    pixels = images.movedim(-3, -1)
    expected = pixels.clone()
    for part, a in order.items():
        bank = iter([v for i in a.tolist() for v in pixels[i].reshape(-1, 3)[parts[i].flatten() == part]])
        for place in (parts == part).nonzero().tolist():
            expected[tuple(place)] = next(bank)
    assert torch.equal(sample_pixels(images, parts, order), expected.movedim(-1, -3))


def batch(num: int = 8) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(5)
    images = torch.randint(0, 256, (num, 3, 12, 6), dtype=torch.uint8, generator=random)
    return images, torch.randint(0, 6, (num, 12, 6), dtype=torch.uint8, generator=random)


def changed_parts(draws: ClothesDraws) -> set[int]:
    return set(draws.order)


def test_each_part_has_its_own_order_and_a_seed_gives_it_again() -> None:
    settings = ClothesSampling(SIX)
    draws, again, other = (draw_clothes(settings, 64, (1, 2, batch)) for batch in (3, 3, 4))
    assert changed_parts(draws) == {UPPER, TROUSERS}
    assert all(sorted(order.tolist()) == list(range(64)) for order in draws.order.values())
    assert not torch.equal(draws.order[UPPER], draws.order[TROUSERS])
    for part in (UPPER, TROUSERS):
        assert torch.equal(draws.order[part], again.order[part])
        assert not torch.equal(draws.order[part], other.order[part])


@pytest.mark.parametrize(("parts", "expected"), [("upper", {UPPER}), ("trousers", {TROUSERS})])
def test_a_setting_says_which_parts_change_and_their_orders_stay(parts: str, expected: set[int]) -> None:
    both = draw_clothes(ClothesSampling(SIX), 16, (1, 2, 3))
    draws = draw_clothes(ClothesSampling(SIX, parts=parts), 16, (1, 2, 3))  # type: ignore[arg-type]
    assert changed_parts(draws) == expected
    assert all(torch.equal(order, both.order[part]) for part, order in draws.order.items())


def test_random_parts_are_drawn_anew_for_each_step() -> None:
    drawn = [changed_parts(draw_clothes(ClothesSampling(SIX, parts="random"), 4, (1, 0, n))) for n in range(60)]
    for parts in ({UPPER}, {TROUSERS}, {UPPER, TROUSERS}):
        assert drawn.count(parts) > 8


def test_labels_of_a_data_set_stand_for_their_parts() -> None:
    images, _ = batch()
    lip = LABEL_MAPS["lip20"]
    parsing = torch.randint(0, 20, (8, 12, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    settings = ClothesSampling(lip.part_table())
    draws = draw_clothes(settings, 8, (1, 2, 3))
    sampled = in_other_clothes(images, parsing, settings, draws)
    differs = (sampled != images).any(1)
    assert {lip.parts[label] for label in parsing[differs].unique().tolist()} == {UPPER, TROUSERS}
    assert torch.equal(sampled, sample_pixels(images, lip.part_table()[parsing.long()], draws.order))


@pytest.mark.parametrize("probability", [0.0, 0.4, 1.0])
def test_as_many_images_change_as_the_probability_says(probability: float) -> None:
    images, parts = batch(200)
    settings = ClothesSampling(SIX, probability=probability)
    draws = draw_clothes(settings, 200, (1, 2, 3))
    sampled = in_other_clothes(images, parts, settings, draws)
    differs = (sampled != images).flatten(1).any(1)
    assert torch.equal(differs, draws.is_changed)
    assert abs(float(differs.double().mean()) - probability) < 0.1
