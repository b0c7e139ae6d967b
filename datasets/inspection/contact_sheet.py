"""The contact sheet: one row per person, images grouped by outfit, each beside its copy with the mask as overlay."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from datasets.format.schema import Sample
from datasets.images.decode import decode_image, decode_parsing

TALL = 200  # pixels: images are enlarged by a whole factor, or shrunk, to about this height
GAP = 6
TITLE = 20


@dataclass(frozen=True)
class Row:
    """A person's row. outfits: (name, images) of each outfit."""

    person: str
    outfits: Sequence[tuple[str, Sequence[Sample]]]


def contact_sheet(title: str, rows: Sequence[Row]) -> Image.Image:
    """The rows below one another under a title, RGB."""
    strips = [_strip(row) for row in rows]
    width = max([strip.width for strip in strips] + [400])
    sheet = Image.new("RGB", (width + 2 * GAP, sum(strip.height + GAP for strip in strips) + TITLE + 2 * GAP), "white")
    _write(ImageDraw.Draw(sheet), (GAP, GAP), title, width, 16)
    y = TITLE + 2 * GAP
    for strip in strips:
        sheet.paste(strip, (GAP, y))
        y += strip.height + GAP
    return sheet


def _strip(row: Row) -> Image.Image:
    groups = [(name, [_pair(sample) for sample in samples]) for name, samples in row.outfits]
    tall = max(pair.height for _, pairs in groups for pair in pairs)
    wide = sum(pair.width + 2 for _, pairs in groups for pair in pairs) + GAP * len(groups)
    strip = Image.new("RGB", (wide, tall + TITLE), "white")
    canvas = ImageDraw.Draw(strip)
    x = 0
    for number, (name, pairs) in enumerate(groups):
        start = x
        for pair in pairs:
            strip.paste(pair, (x, TITLE))
            x += pair.width + 2
        text = f"{row.person} · {name}" if number == 0 else name
        canvas.line((start, TITLE - 3, x - 4, TITLE - 3), fill=(150, 150, 150))
        _write(canvas, (start, 2), text, x - start, 13)
        x += GAP
    return strip


def _write(canvas: ImageDraw.ImageDraw, at: tuple[int, int], text: str, width: int, size: int) -> None:
    font = ImageFont.load_default(size)
    while len(text) > 1 and canvas.textlength(text, font=font) > width:
        text = text[:-2] + "…"
    canvas.text(at, text, fill="black", font=font)


def _pair(sample: Sample) -> Image.Image:
    """The image, and beside it the image with its mask as overlay."""
    image = Image.fromarray(decode_image(sample.image, sample.key).permute(1, 2, 0).numpy())
    size = _scaled(image.size)
    if sample.parsing is None:
        return image.resize(size, Image.Resampling.BICUBIC)
    parsing = decode_parsing(sample.parsing, sample.key).numpy()
    pair = Image.new("RGB", (2 * size[0], size[1]))
    pair.paste(image.resize(size, Image.Resampling.BICUBIC), (0, 0))
    pair.paste(
        Image.fromarray(overlay(np.asarray(image), parsing)).resize(size, Image.Resampling.NEAREST), (size[0], 0)
    )
    return pair


def _scaled(size: tuple[int, int]) -> tuple[int, int]:
    factor = max(1, TALL // size[1]) if size[1] <= TALL else TALL / size[1]
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def overlay(image: NDArray[np.uint8], parsing: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8 [H, W, 3]: the image in grey with each label's colour over it, the background dark.

    image: uint8 [H, W, 3]. parsing: uint8 [H, W].
    """
    grey = image.mean(2, keepdims=True)
    colours = label_colours()[parsing]
    mixed = np.where(parsing[..., None] > 0, 0.35 * grey + 0.65 * colours, 0.5 * grey)
    return mixed.astype(np.uint8)


def label_colours() -> NDArray[np.uint8]:
    """The colour of each label, uint8 [256, 3]: PASCAL VOC's palette, which interleaves the label's bits."""
    rest = np.arange(256)
    palette = np.zeros((256, 3), np.uint8)
    for bit in range(7, 4, -1):
        for channel in range(3):
            palette[:, channel] |= ((rest & 1) << bit).astype(np.uint8)
            rest = rest >> 1
    return palette
