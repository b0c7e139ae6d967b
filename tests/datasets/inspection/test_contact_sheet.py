"""The contact sheet: its size follows from rows, outfits and images; masks lie over the images in their labels' colours."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from datasets.inspection.contact_sheet import GAP, TALL, TITLE, Row, contact_sheet, label_colours, overlay
from tests.datasets.conversion.damage import png
from tests.datasets.samples import sample


def test_every_label_has_a_colour_of_its_own() -> None:
    assert len(np.unique(label_colours(), axis=0)) == 256
    image, parsing = np.full((1, 2, 3), 100, np.uint8), np.array([[0, 5]], np.uint8)
    assert overlay(image, parsing)[0, 0].tolist() == [50, 50, 50]
    assert overlay(image, parsing)[0, 1].tolist() != [50, 50, 50]


def picture(height: int, width: int, value: int) -> bytes:
    return png(np.full((height, width, 3), value, np.uint8))


def test_the_colours_are_pascal_vocs() -> None:
    """By its published recipe, a label at a time: bits 0, 1, 2 of each three go to R, G, B, the first to the highest bit."""
    for label in range(256):
        colour, rest = [0, 0, 0], label
        for shift in range(8):
            for channel in range(3):
                colour[channel] |= ((rest >> channel) & 1) << (7 - shift)
            rest >>= 3
        assert label_colours()[label].tolist() == colour


def test_images_stand_in_rows_of_persons_enlarged_by_a_whole_factor_each_beside_its_mask() -> None:
    image, mask = picture(50, 20, 200), png(np.full((50, 20), 5, np.uint8))
    rows = [
        Row("1", [("a", [sample(image=image, parsing=mask)] * 2), ("b", [sample(image=image)])]),
        Row("2", [("", [sample(image=image)])]),
    ]
    sheet = contact_sheet("title", rows)
    tall, wide = 200, 80  # 50 × 20, four times
    strip = tall + TITLE
    assert sheet.size[1] == 2 * (strip + GAP) + TITLE + 2 * GAP
    assert sheet.size[0] == 2 * GAP + max(400, 2 * (2 * wide + 2) + wide + 2 + 2 * GAP)
    pixels = np.asarray(sheet)
    top, left = 2 * TITLE + 2 * GAP, GAP
    assert (pixels[top : top + tall, left : left + wide] == 200).all(), "the image comes first"
    over = pixels[top : top + tall, left + wide : left + 2 * wide]
    assert (over == overlay(np.full((1, 1, 3), 200, np.uint8), np.full((1, 1), 5, np.uint8))[0, 0]).all()


def test_tall_images_are_shrunk_and_narrow_sheets_keep_room_for_the_title() -> None:
    sheet = contact_sheet("t" * 500, [Row("1", [("a", [sample(image=picture(800, 100, 9))])])])
    assert sheet.size == (400 + 2 * GAP, TALL + TITLE + GAP + TITLE + 2 * GAP)
    out = io.BytesIO()
    sheet.save(out, "PNG")
    assert Image.open(out).size == sheet.size
