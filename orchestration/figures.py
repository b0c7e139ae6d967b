"""Pictures of a run that people look at: ranked galleries, curves, histograms. Each function returns PNG bytes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

if TYPE_CHECKING:
    from methods.separation import Separation

DPI = 130
IMAGE_SIZE = (1.86, 0.93)  # of ranked images at most: height and width in inches
GAP, LINE = 0.12, 0.12  # between them, and of a caption's line
RIGHT, WRONG, QUERY, UNKNOWN = "#1a9850", "#d73027", "#4575b4", "#7f7f7f"


@dataclass(frozen=True)
class Panel:
    """One image of a sheet: uint8 [h, w, 3], and what is written under it."""

    image: np.ndarray
    caption: str = ""


@dataclass(frozen=True)
class Shown:
    """One image of a ranked list: uint8 [h, w, 3], and what is written above it. `right` is None for the query.

    frame: its colour, where it does not follow from `right`.
    """

    image: np.ndarray
    caption: str
    right: bool | None
    frame: str | None = None


def ranked_lists(title: str, rows: Sequence[Sequence[Shown]]) -> bytes:
    """One row per query: the query (blue), then its nearest gallery images, green where the person is the query's."""
    captions = 1 + max(shown.caption.count("\n") for row in rows for shown in row)
    cell = IMAGE_SIZE[0] + GAP + captions * LINE, IMAGE_SIZE[1] + GAP
    top = (1.5 + title.count("\n")) * 1.6 * LINE
    height, width = top + len(rows) * cell[0] + GAP, max(len(row) for row in rows) * cell[1] + GAP
    figure = plt.figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))  # in inches: one for all is much faster
    axes.axis("off")
    figure.suptitle(title, fontsize=10, y=1 - LINE / 2 / height)
    for at, row in enumerate(rows):
        for column, shown in enumerate(row):
            draw_at(axes, shown, top + (at + 1) * cell[0] - IMAGE_SIZE[0], GAP / 2 + (column + 0.5) * cell[1])
    return to_png(figure, laid_out=True)


def draw_at(axes: Axes, shown: Shown, top: float, centre: float) -> None:
    """Draw an image in its frame below `top` around `centre`, and its caption above; in inches."""
    colour = frame_colour(shown)
    height, width = shown.image.shape[:2]
    scale = min(IMAGE_SIZE[0] / height, IMAGE_SIZE[1] / width)
    height, width = height * scale, width * scale
    left = centre - width / 2
    axes.imshow(shown.image, extent=(left, left + width, top + height, top), aspect="auto")
    axes.add_patch(Rectangle((left, top), width, height, fill=False, edgecolor=colour, linewidth=2.5))
    axes.text(centre, top - LINE / 3, shown.caption, fontsize=6.5, color=colour, ha="center", va="bottom")


def frame_colour(shown: Shown) -> str:
    return shown.frame or (QUERY if shown.right is None else RIGHT if shown.right else WRONG)


def sheet(title: str, heads: Sequence[str], rows: Sequence[tuple[str, Sequence[Panel]]]) -> bytes:
    """Images in rows, each with its name at the left, under one head per column."""
    height, width = rows[0][1][0].image.shape[:2]
    tall = 0.9 * height / width + 0.2
    figure, grid = plt.subplots(len(rows), len(heads), figsize=(0.95 * len(heads), tall * len(rows) + 1), squeeze=False)
    for axes_row, (name, panels) in zip(grid, rows, strict=True):
        for axes, panel in zip(axes_row, panels, strict=True):
            axes.imshow(panel.image)
            axes.set_xlabel(panel.caption, fontsize=6, labelpad=2)
            axes.set_xticks([])
            axes.set_yticks([])
        axes_row[0].set_ylabel(name, fontsize=8)
    for axes, head in zip(grid[0], heads, strict=True):
        axes.set_title(head, fontsize=6.5)
    figure.suptitle(title, fontsize=9)
    return to_png(figure)


def cmc_curves(curves: dict[str, dict[int, float | None]]) -> bytes:
    """Share of queries whose first match is within rank k, a line per mode. `curves[mode][k]` is a fraction or None."""
    figure, axes = plt.subplots(figsize=(8, 3.4))
    for mode, cmc in curves.items():
        points = [(k, 100 * v) for k, v in cmc.items() if v is not None]
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=f"{mode} ({points[0][1]:.1f} at rank 1)")
    axes.set(xlabel="rank", ylabel="queries matched, %", ylim=(0, 102), title="Cumulative match characteristic")
    axes.grid(alpha=0.3)
    axes.legend(
        fontsize=8, loc="upper left", bbox_to_anchor=(1.02, 1)
    )  # beside them: many modes would hide their curves
    return to_png(figure)


def training_curves(
    series: dict[str, tuple[Sequence[int], Sequence[float]]], marks: Sequence[tuple[int, str]] = ()
) -> bytes:
    """A small panel for each logged number: `series[name]` is (steps, values). marks: (step, what happened before it)."""
    names = sorted(series)
    columns = min(3, len(names))
    height = -(-len(names) // columns)
    figure, grid = plt.subplots(height, columns, figsize=(3.6 * columns, 2.3 * height), squeeze=False)
    for axes in grid.flat[len(names) :]:
        axes.axis("off")
    for axes, name in zip(grid.flat, names, strict=False):
        steps, values = series[name]
        axes.plot(steps, values, linewidth=0.6, alpha=0.4, color=QUERY)
        axes.plot(steps, smoothed(values), linewidth=1.4, color=QUERY, marker="o" if len(values) == 1 else None)
        for step, text in marks:
            axes.axvline(step, linewidth=0.7, linestyle="--", color=UNKNOWN)
            axes.annotate(text, (step, 1), xycoords=("data", "axes fraction"), rotation=90, va="top", fontsize=5)
        axes.set_title(name, fontsize=8)
        axes.tick_params(labelsize=6)
        axes.grid(alpha=0.3)
    return to_png(figure)


def separations(title: str, found: Sequence[Separation]) -> bytes:
    """A panel for each: the densities of own similarities and of all others, with the AUC."""
    figure, grid = plt.subplots(1, len(found), figsize=(4.2 * len(found), 3.2), squeeze=False)
    for axes, one in zip(grid[0], found, strict=True):
        edges, densities = densities_of(one)
        for name, density, colour in zip(("own", "others"), densities, (RIGHT, UNKNOWN), strict=True):
            axes.stairs(density, edges, fill=True, alpha=0.45, color=colour, label=name)
            axes.stairs(density, edges, color=colour)
        axes.set_title(f"{one.title}\nAUC {one.auc:.3f}", fontsize=9)
        axes.set_xlabel("similarity", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.set_yticks([])
    grid[0][0].set_ylabel("density", fontsize=8)
    grid[0][0].legend(fontsize=8)
    figure.suptitle(title, fontsize=10)
    return to_png(figure)


def densities_of(one: Separation, bins: int = 60) -> tuple[np.ndarray, list[np.ndarray]]:
    """Edges [b + 1] of at most so many bins around all that is counted, and the densities [b] of own and others."""
    counts = np.stack([one.own.numpy(), one.other.numpy()])
    [filled] = np.nonzero(counts.sum(0))
    first, end = filled[0], filled[-1] + 1
    joined = -(-(end - first) // bins)
    starts = np.arange(first, end, joined)
    width = 2 * one.bound / counts.shape[1]
    edges = np.append(starts, starts[-1] + joined) * width - one.bound
    sums = np.add.reduceat(counts[:, : starts[-1] + joined], starts, axis=1)
    return edges, [row / (row.sum() * joined * width) for row in sums]


def smoothed(values: Sequence[float], share: float = 0.05) -> np.ndarray:
    """Centred moving average over a share of the run."""
    half = max(1, int(len(values) * share) // 2)
    padded = np.pad(np.asarray(values, dtype=float), half, mode="edge")
    return np.convolve(padded, np.full(2 * half + 1, 1 / (2 * half + 1)), mode="valid")


def to_png(figure: Figure, *, laid_out: bool = False) -> bytes:
    """laid_out: every place in the figure was given already."""
    buffer = io.BytesIO()
    if not laid_out:
        figure.tight_layout()
    figure.savefig(buffer, format="png", dpi=DPI, pil_kwargs={"compress_level": 1})  # 6 takes three times as long
    plt.close(figure)
    return buffer.getvalue()
