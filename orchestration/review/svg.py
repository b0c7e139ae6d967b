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
BAR_WIDTH, BAR_HEIGHT = 150, 22


@dataclass(frozen=True)
class Line:
    """kind: a class of the page's style sheet, "champion" or "candidate". points: (x, y), y a fraction."""

    kind: str
    label: str
    points: Sequence[tuple[float, float]]


def curves(title: str, x_label: str, y_label: str, ticks: Sequence[tuple[float, str]], lines: Sequence[Line]) -> Markup:
    """Lines over x from the first tick to the last; y from 0 to 100 %. `title`: text for screen readers."""
    first, last = ticks[0][0], ticks[-1][0]

    def place(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (x - first) / (last - first) * (WIDTH - LEFT - RIGHT)
        return round(across, 1), round(HEIGHT - BOTTOM - y * (HEIGHT - TOP - BOTTOM), 1)

    parts = [Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(WIDTH, HEIGHT, title)]
    for share in (0, 0.25, 0.5, 0.75, 1):
        _, y = place(first, share)
        parts.append(Markup('<path class="grid" d="M{} {}H{}"/>').format(LEFT, y, WIDTH - RIGHT))
        parts.append(Markup('<text x="{}" y="{}" class="tick end">{:.0f}</text>').format(LEFT - 6, y + 4, 100 * share))
    for x, text in ticks:
        across, y = place(x, 0)
        parts.append(Markup('<text x="{}" y="{}" class="tick middle">{}</text>').format(across, y + 17, text))
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(Markup('<text x="{}" y="{}" class="tick middle">{}</text>').format(middle, HEIGHT - 6, x_label))
    half = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(
        Markup('<text x="12" y="{}" class="tick middle" transform="rotate(-90 12 {})">{}</text>').format(
            half, half, y_label
        )
    )
    for line in lines:
        placed = [place(x, y) for x, y in line.points if first <= x <= last]
        path = "M" + "L".join(f"{x} {y}" for x, y in placed)
        parts.append(
            Markup('<path class="line {}" d="{}"><title>{}</title></path>').format(line.kind, path, line.label)
        )
        parts += [Markup('<circle class="mark {}" cx="{}" cy="{}" r="3"/>').format(line.kind, x, y) for x, y in placed]
    return Markup("").join([*parts, Markup("</svg>")])


def interval(low: float, value: float, high: float, widest: float) -> Markup:
    """A difference and its interval on an axis from −widest to widest with a line at zero; "" where a number is not finite."""
    if not all(map(math.isfinite, (low, value, high))):
        return Markup("")
    widest = widest or 1.0

    def place(x: float) -> float:
        return round(BAR_WIDTH / 2 * (1 + max(-1.0, min(1.0, x / widest)) * 0.94), 1)

    kind = "up" if low > 0 else "down" if high < 0 else "open"
    return Markup(
        '<svg class="interval {kind}" viewBox="0 0 {w} {h}" aria-hidden="true"><path class="zero" d="M{zero} 1V{bottom}"/>'
        '<path class="span" d="M{low} {y}H{high}M{low} 6V{foot}M{high} 6V{foot}"/><circle cx="{value}" cy="{y}" r="4"/></svg>'
    ).format(
        kind=kind, w=BAR_WIDTH, h=BAR_HEIGHT, zero=BAR_WIDTH / 2, bottom=BAR_HEIGHT - 1, y=BAR_HEIGHT / 2,
        foot=BAR_HEIGHT - 6, low=place(low), high=place(high), value=place(value),
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
