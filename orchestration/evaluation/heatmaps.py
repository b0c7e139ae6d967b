"""Heat maps over images, and the picture of hard triples: where a network looks, and which person it then ranks first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from PIL import Image, ImageDraw, ImageFont

from orchestration.figures import RIGHT, WRONG, Shown, frame_colour, plt, to_png

COLOURS = matplotlib.colormaps["inferno"]  # dark to bright in every kind of colour vision, and in grey
COLD = "nothing\npositive"  # on a panel that would be all grey
PANEL, GAP, BETWEEN = (
    1.0,
    0.07,
    0.3,
)  # inches: a panel's width, and the gaps between panels and between a triple's images
LEFT, HEAD, FOOT, CAPTION = 0.4, 1.1, 0.32, 0.38  # inches: labels at the left, titles, legend, caption above each row


@dataclass(frozen=True)
class Heat:
    """A heat map over its image, uint8 [h, w, 3], and a note."""

    picture: np.ndarray
    note: str = ""


@dataclass(frozen=True)
class ExplainedImage:
    """One image of a triple and its heat maps by title."""

    shown: Shown
    heatmaps: Mapping[str, Heat]


@dataclass(frozen=True)
class Row:
    """anchor, positive and negative, and their similarities to the anchor."""

    images: tuple[ExplainedImage, ExplainedImage, ExplainedImage]
    positive: float
    negative: float


def overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """The image in grey under the colours of the heat, which are more opaque where hotter: uint8 [h, w, 3].

    image: uint8 [h, w, 3]. heat: float [h, w], 0…1.
    """
    grey = image.astype(np.float64).mean(2, keepdims=True) / 255
    opacity = 0.35 + 0.4 * heat[..., None]
    return np.rint(255 * ((1 - opacity) * grey + opacity * COLOURS(heat)[..., :3])).astype(np.uint8)


def cold(image: np.ndarray) -> np.ndarray:
    """The image as `overlay` shows it without any heat, and across it words that say so: uint8 [h, w, 3]."""
    panel = Image.fromarray(overlay(image, np.zeros(image.shape[:2])))
    font = ImageFont.load_default(max(6, panel.width // 6))
    centre = (panel.width / 2, panel.height / 2)
    ImageDraw.Draw(panel).text(centre, COLD, (255, 255, 255), font, "mm", align="center", stroke_width=1, stroke_fill=0)
    return np.asarray(panel)


def hard_triples(title: str, heads: tuple[str, str, str], rows: Sequence[Row]) -> bytes:
    """PNG: a row per triple of anchor (blue), positive (green) and negative (red), each with its heat maps.

    heads: the titles of the three columns. The label at the left says which of the two is more similar to the anchor.
    """
    names = list(rows[0].images[0].heatmaps)
    height, width = rows[0].images[0].shown.image.shape[:2]
    panel_height = PANEL * height / width
    block = PANEL + len(names) * (PANEL + GAP)
    size = (LEFT + 3 * block + 2 * BETWEEN + 0.15, HEAD + len(rows) * (panel_height + CAPTION) + FOOT)
    figure = plt.figure(figsize=size)

    def axes_at(left: float, top: float, width: float, height: float) -> Axes:
        """Inches from the upper left corner."""
        return figure.add_axes((left / size[0], 1 - (top + height) / size[1], width / size[0], height / size[1]))

    for number, row in enumerate(rows):
        top = HEAD + number * (panel_height + CAPTION)
        for place, explained in enumerate(row.images):
            left = LEFT + place * (block + BETWEEN)
            axes = axes_at(left, top, PANEL, panel_height)
            draw_shown(axes, explained.shown)
            if place == 0:
                draw_verdict(axes, row)
            for name, heat in explained.heatmaps.items():
                left += PANEL + GAP
                draw_heat(axes_at(left, top, PANEL, panel_height), heat, name if number == 0 else "")
    for place, head in enumerate(heads):
        left = LEFT + place * (block + BETWEEN)
        figure.text(left / size[0], 1 - 0.55 / size[1], head, fontsize=8.5, va="top")
    figure.text(LEFT / size[0], 1 - 0.12 / size[1], title, fontsize=9.5, va="top")
    draw_legend(axes_at(LEFT, size[1] - FOOT + 0.06, 1.2, 0.1))
    return to_png(figure, laid_out=True)


def draw_shown(axes: Axes, shown: Shown) -> None:
    colour = frame_colour(shown)
    axes.imshow(shown.image)
    axes.set_title(shown.caption, fontsize=6.5, color=colour)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(edgecolor=colour, linewidth=2.5)


def draw_heat(axes: Axes, heat: Heat, name: str) -> None:
    axes.imshow(heat.picture)
    axes.axis("off")
    axes.set_title("\n".join(filter(None, (name, heat.note))), fontsize=6.5)


def draw_verdict(axes: Axes, row: Row) -> None:
    is_right = row.positive > row.negative
    words = "right: same person nearer" if is_right else "wrong: other person nearer"
    axes.set_ylabel(words, fontsize=7, color=RIGHT if is_right else WRONG)


def draw_legend(axes: Axes) -> None:
    axes.imshow(np.linspace(0, 1, 256)[None], cmap=COLOURS, aspect="auto")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.text(1.04, 0.5, "low to high, on each map's own scale", transform=axes.transAxes, fontsize=7, va="center")
