"""Heat maps over images, and the picture of hard triples: brighter is hotter, and each triple says who is nearer."""

from __future__ import annotations

import io

import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image

from orchestration.evaluation import heatmaps
from orchestration.evaluation.heatmaps import ExplainedImage, Heat, Row, hard_triples
from orchestration.figures import Shown

GREY = np.full((64, 32, 3), 120, dtype=np.uint8)


def test_hotter_is_brighter_on_any_image() -> None:
    """By luminance, so that it is seen in every kind of colour vision and in print."""
    heat = np.linspace(0, 1, 11)[None]
    for grey in (0, 90, 255):
        drawn = heatmaps.overlay(np.full((1, 11, 3), grey, dtype=np.uint8), heat)[0]
        luminance = drawn @ np.array([0.2126, 0.7152, 0.0722])
        if grey < 255:  # a white image is darkened where it is cold
            assert (np.diff(luminance) > 0).all()
        assert luminance[-1] > luminance[0]


def test_an_overlay_has_the_image_s_size_and_keeps_its_structure() -> None:
    image = np.zeros((4, 6, 3), dtype=np.uint8)
    image[:, 3:] = 255
    drawn = heatmaps.overlay(image, np.zeros((4, 6)))
    assert (drawn.shape, drawn.dtype) == ((4, 6, 3), np.uint8)
    assert (drawn[:, 3:].mean(2) > drawn[:, :3].mean(2)).all()


def row(positive: float, negative: float, titles: tuple[str, ...] = ("Grad-CAM",)) -> Row:
    images = [
        ExplainedImage(Shown(GREY, f"image {number}", None), {title: Heat(GREY, "a note") for title in titles})
        for number in range(3)
    ]
    return Row((images[0], images[1], images[2]), positive, negative)


def picture(*rows: Row) -> Image.Image:
    return Image.open(io.BytesIO(hard_triples("title", ("query", "same person", "another person"), rows)))


def test_the_picture_grows_with_triples_and_with_heat_maps() -> None:
    one, two = picture(row(0.9, 0.1)), picture(row(0.9, 0.1), row(0.9, 0.1))
    assert two.height > one.height
    assert two.width == one.width
    more = picture(row(0.9, 0.1, ("Grad-CAM", "mask")))
    assert more.width > one.width
    assert more.height == one.height


@pytest.mark.parametrize(
    ("positive", "negative", "label"),
    [
        (0.9, 0.1, "right: same person nearer"),
        (0.1, 0.9, "wrong: other person nearer"),
        (0.5, 0.5, "wrong: other person nearer"),
    ],
)
def test_each_triple_says_who_is_nearer(
    positive: float, negative: float, label: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels: list[str] = []
    monkeypatch.setattr(Axes, "set_ylabel", lambda self, text, **_: labels.append(text))
    picture(row(positive, negative))
    assert labels == [label]
