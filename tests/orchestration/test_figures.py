"""Ranked lists are where a reader looks for them: images in order, in frames of the right colour, whatever their shapes."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from methods.separation import BINS, Separation
from orchestration import figures
from orchestration.figures import DPI, GAP, IMAGE_SIZE, QUERY, RIGHT, UNKNOWN, WRONG, Shown


def flat(red: int, size: tuple[int, int] = (96, 48)) -> np.ndarray:
    """An image of one colour, which no text has."""
    return np.full((*size, 3), (red, 255 - red, 77), np.uint8)


def where(drawn: np.ndarray, red: int) -> tuple[np.ndarray, np.ndarray]:
    ys, xs = np.nonzero((drawn == (red, 255 - red, 77)).all(2))
    return ys, xs


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def rgb(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour[1:]))


@pytest.mark.parametrize("size", [(96, 48), (30, 60), (300, 40)])
def test_images_stand_in_order_in_frames_of_their_colours(size: tuple[int, int]) -> None:
    reds, frames = ((10, 90, 170), (50, 130, 210)), ((QUERY, RIGHT, WRONG), (QUERY, UNKNOWN, RIGHT))
    rights = ((None, True, False), (None, None, True))
    rows = [
        [Shown(flat(red, size), f"{red}\nAP", right, UNKNOWN if frame == UNKNOWN else None)
         for red, right, frame in zip(*row, strict=True)]
        for row in zip(reds, rights, frames, strict=True)
    ]  # fmt: skip
    drawn = pixels(figures.ranked_lists("title", rows))
    scale = min(IMAGE_SIZE[0] / size[0], IMAGE_SIZE[1] / size[1]) * DPI
    middles: dict[int, tuple[int, int]] = {}
    for row, colours in zip(reds, frames, strict=True):
        for red, colour in zip(row, colours, strict=True):
            ys, xs = where(drawn, red)
            assert np.ptp(ys) == pytest.approx(size[0] * scale, abs=8)  # the frame covers the edges
            assert np.ptp(xs) == pytest.approx(size[1] * scale, abs=8)
            middles[red] = round(np.median(ys)), round(np.median(xs))
            assert tuple(drawn[middles[red][0], xs.min() - 3]) == rgb(colour)
        (y, x), (below, second) = middles[row[0]], middles[row[1]]
        assert second - x == pytest.approx((IMAGE_SIZE[1] + GAP) * DPI, abs=2)
        assert below == y
    assert middles[reds[1][0]][0] - middles[reds[0][0]][0] > IMAGE_SIZE[0] * DPI


def test_rows_may_differ_in_length() -> None:
    drawn = pixels(figures.ranked_lists("two\nlines", [[Shown(flat(40), "a", None)], [Shown(flat(80), "b", None)] * 3]))
    assert drawn.shape[1] == pytest.approx((3 * (IMAGE_SIZE[1] + GAP) + GAP) * DPI, abs=2)
    assert 2.5 < len(where(drawn, 80)[0]) / len(where(drawn, 40)[0]) < 3.5


def test_densities_of_a_separation_are_over_what_is_counted_and_have_area_one() -> None:
    own, other = torch.zeros(BINS, dtype=torch.int64), torch.zeros(BINS, dtype=torch.int64)
    own[1200:1300], other[1000:1250] = 3, 7
    one = Separation("some", 0.9, own, other, bound=2.0)
    edges, densities = figures.densities_of(one, bins=50)
    width = 4.0 / BINS
    assert edges[0] == pytest.approx(1000 * width - 2)
    assert len(edges) <= 51
    assert 1300 * width - 2 <= edges[-1] < 1306 * width - 2
    for density, counts in zip(densities, (own, other), strict=True):
        assert (density * np.diff(edges)).sum() == pytest.approx(1)
        mean = (density * np.diff(edges) * (edges[1:] + edges[:-1]) / 2).sum()
        centres = (torch.arange(BINS) + 0.5) * width - 2
        assert mean == pytest.approx(float((counts * centres).sum() / counts.sum()), abs=6 * width)


def test_a_separation_of_the_last_bin_alone_is_drawn() -> None:
    counts = torch.zeros(BINS, dtype=torch.int64)
    counts[-1] = 4
    drawn = pixels(figures.separations("title", [Separation("some", 0.5, counts, counts, bound=1.0)] * 2))
    assert (drawn == drawn[0, 0]).all(2).mean() < 0.99


def test_a_number_that_is_logged_once_is_a_dot() -> None:
    drawn = pixels(figures.training_curves({"auc/some": ([7], [0.9])}))
    assert (drawn == rgb(QUERY)).all(2).sum() > 20


def test_another_group_of_workers_is_marked_on_every_curve() -> None:
    def grey(marks: list[tuple[int, str]]) -> list[int]:
        """Pixels of the marks' colour in each half, which has a panel."""
        drawn = pixels(figures.training_curves({"loss/a": (steps, flat), "loss/b": (steps, flat)}, marks))
        return [int((half == rgb(UNKNOWN)).all(2).sum()) for half in np.array_split(drawn, 2, axis=1)]

    steps, flat = range(20), [0.5] * 20
    plain, marked = grey([]), grey([(8, "loss 4 → 2")])
    assert all(more > some + 20 for some, more in zip(plain, marked, strict=True))
