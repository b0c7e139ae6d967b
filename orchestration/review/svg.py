"""Charts of a review page as inline SVG, which follow the page's colours, light or dark, and its width.

Lines differ in stroke and marks, not by colour alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 420, 260
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 12, 40
SQUARE = 360  # the height of a scatter plot
BAR_WIDTH, BAR_HEIGHT = 150, 22
# Outlines of marks around a point: disc, square, triangles, rhombus, plus, hourglass, bar; a small hexagon.
MARKS = (
    "m-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
    "m-3.5-3.5h7v7h-7z",
    "m0-4.6l4.3 7.6h-8.6z",
    "m0-5l4 5-4 5-4-5z",
    "m-1.4-4.4h2.8v3h3v2.8h-3v3h-2.8v-3h-3v-2.8h3z",
    "m0 4.6l4.3-7.6h-8.6z",
    "m-4-4h8l-8 8h8z",
    "m-5-1.6h10v3.2h-10z",
)
UNKNOWN_MARK = "m-1.6-2.8h3.2l1.6 2.8-1.6 2.8h-3.2l-1.6-2.8z"


@dataclass(frozen=True)
class Line:
    """kind: a class of the page's style sheet, "champion" or "candidate". points: (x, y), y a fraction."""

    kind: str
    label: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Density:
    """A histogram as a curve. kind: a class of the page's style sheet. points: (x, y), y a share of the highest. mean: an x."""

    kind: str
    label: str
    points: Sequence[tuple[float, float]]
    mean: float


@dataclass(frozen=True)
class Dot:
    """A point of a scatter plot. kind: a class of the page's style sheet, its colour. mark: one of MARKS, from -1 on."""

    kind: str
    mark: int
    x: float
    y: float


def curves(title: str, x_label: str, y_label: str, ticks: Sequence[tuple[float, str]], lines: Sequence[Line]) -> Markup:
    """Lines over x from the first tick to the last; y from 0 to 100 %. `title`: text for screen readers."""
    shares = [(share, f"{100 * share:.0f}") for share in (0, 0.25, 0.5, 0.75, 1)]
    parts = axes(title, x_label, y_label, ticks, shares)
    for line in lines:
        placed = [place(ticks, x, y) for x, y in line.points if ticks[0][0] <= x <= ticks[-1][0]]
        parts.append(path(f"line {line.kind}", placed, line.label))
        parts += [Markup('<circle class="mark {}" cx="{}" cy="{}" r="3"/>').format(line.kind, x, y) for x, y in placed]
    return Markup("").join([*parts, Markup("</svg>")])


def densities(
    title: str, x_label: str, y_label: str, ticks: Sequence[tuple[float, str]], several: Sequence[Density]
) -> Markup:
    """Histograms over x from the first tick to the last, and their means as vertical lines. `title`: as for `curves`."""
    parts = axes(title, x_label, y_label, ticks, [(0, "0")])
    for one in several:
        placed = [place(ticks, x, y) for x, y in one.points if ticks[0][0] <= x <= ticks[-1][0]]
        parts.append(path(f"density {one.kind}", placed, one.label))
        ends = [place(ticks, one.mean, y) for y in (0, 1)]
        parts.append(path(f"mean {one.kind}", ends, f"mean of {one.label}"))
    return Markup("").join([*parts, Markup("</svg>")])


def axes(
    title: str, x_label: str, y_label: str, ticks: Sequence[tuple[float, str]], levels: Sequence[tuple[float, str]]
) -> list[Markup]:
    """The opening of a chart: grid lines at the levels (a share of the height, and its text), ticks and labels."""
    parts = [Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(WIDTH, HEIGHT, title)]
    for share, text in levels:
        _, y = place(ticks, ticks[0][0], share)
        parts.append(Markup('<path class="grid" d="M{} {}H{}"/>').format(LEFT, y, WIDTH - RIGHT))
        parts.append(Markup('<text x="{}" y="{}" class="tick end">{}</text>').format(LEFT - 6, y + 4, text))
    for x, text in ticks:
        across, y = place(ticks, x, 0)
        parts.append(Markup('<text x="{}" y="{}" class="tick middle">{}</text>').format(across, y + 17, text))
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(Markup('<text x="{}" y="{}" class="tick middle">{}</text>').format(middle, HEIGHT - 6, x_label))
    half = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(
        Markup('<text x="12" y="{}" class="tick middle" transform="rotate(-90 12 {})">{}</text>').format(
            half, half, y_label
        )
    )
    return parts


def place(ticks: Sequence[tuple[float, str]], x: float, y: float) -> tuple[float, float]:
    """Where x, on the axis from the first tick to the last, and y, a share of the height, are in a chart."""
    first, last = ticks[0][0], ticks[-1][0]
    across = LEFT + (x - first) / (last - first) * (WIDTH - LEFT - RIGHT)
    return round(across, 1), round(HEIGHT - BOTTOM - y * (HEIGHT - TOP - BOTTOM), 1)


def path(kind: str, placed: Sequence[tuple[float, float]], label: str) -> Markup:
    points = "M" + "L".join(f"{x} {y}" for x, y in placed)
    return Markup('<path class="{}" d="{}"><title>{}</title></path>').format(kind, points, label)


def scatter(title: str, dots: Sequence[Dot]) -> Markup:
    """Dots without axes, both directions on one scale. `title`: as for `curves`."""
    across, down = [dot.x for dot in dots], [-dot.y for dot in dots]
    size = (WIDTH - 2 * TOP, SQUARE - 2 * TOP)
    spans = [max(values) - min(values) for values in (across, down)]
    scale = min(room / (span or 1.0) for room, span in zip(size, spans, strict=True))
    left, top = (
        TOP + (room - scale * span) / 2 - scale * min(values)
        for room, span, values in zip(size, spans, (across, down), strict=True)
    )
    parts = [
        Markup('<path class="dot {}" d="{}"/>').format(dot.kind, mark(dot.mark, left + scale * x, top + scale * y))
        for dot, x, y in zip(dots, across, down, strict=True)
    ]
    opening = Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(WIDTH, SQUARE, title)
    return Markup("").join([opening, *parts, Markup("</svg>")])


def mark(number: int, x: float, y: float) -> str:
    """The outline of a mark around a point, as a path. Numbers beyond the last mark begin again with the first."""
    return f"M{round(x, 1)} {round(y, 1)}{UNKNOWN_MARK if number < 0 else MARKS[number % len(MARKS)]}"


def dot_legend(dots: Sequence[tuple[str, int, str]]) -> Markup:
    """The legend of a scatter plot: kind, mark and label of each key."""
    return Markup("").join(
        Markup(
            '<span class="key"><svg class="one" viewBox="0 0 12 12" aria-hidden="true"><path class="dot {}" d="{}"/></svg>'
            " {}</span>"
        ).format(kind, mark(number, 6, 6), label)
        for kind, number, label in dots
    )


def interval(low: float, value: float, high: float, widest: float) -> Markup:
    """A difference and its interval on an axis from −widest to widest with a line at zero; "" where a number is not finite."""
    if not all(map(math.isfinite, (low, value, high))):
        return Markup("")
    widest = widest or 1.0

    def across(x: float) -> float:
        return round(BAR_WIDTH / 2 * (1 + max(-1.0, min(1.0, x / widest)) * 0.94), 1)

    kind = "up" if low > 0 else "down" if high < 0 else "open"
    return Markup(
        '<svg class="interval {kind}" viewBox="0 0 {w} {h}" aria-hidden="true"><path class="zero" d="M{zero} 1V{bottom}"/>'
        '<path class="span" d="M{low} {y}H{high}M{low} 6V{foot}M{high} 6V{foot}"/><circle cx="{value}" cy="{y}" r="4"/></svg>'
    ).format(
        kind=kind, w=BAR_WIDTH, h=BAR_HEIGHT, zero=BAR_WIDTH / 2, bottom=BAR_HEIGHT - 1, y=BAR_HEIGHT / 2,
        foot=BAR_HEIGHT - 6, low=across(low), high=across(high), value=across(value),
    )  # fmt: skip


def legend(lines: Sequence[Line]) -> Markup:
    """The legend: stroke, mark and label of each line."""
    return Markup("").join(
        Markup(
            '<span class="key"><svg viewBox="0 0 34 10" aria-hidden="true"><path class="line {kind}" d="M1 5H33"/>'
            '<circle class="mark {kind}" cx="17" cy="5" r="3"/></svg> {label}</span>'
        ).format(kind=line.kind, label=escape(line.label))
        for line in lines
    )


def density_legend(several: Sequence[Density]) -> Markup:
    """The legend of densities: stroke and label of each."""
    return Markup("").join(
        Markup(
            '<span class="key"><svg viewBox="0 0 34 10" aria-hidden="true"><path class="density {}" d="M1 5H33"/></svg>'
            " {}</span>"
        ).format(one.kind, one.label)
        for one in several
    )
