"""Plots of a sweep: the score against each parameter and each pair of parameters. PNG bytes.

The curve of a parameter is drawn as in Fig. 4 of CAL (Gu et al., CVPR 2022): score against the values of one parameter while
the others stay, in each mode; here the others stay at the best point's values, every point is a dot, and seeds give bars.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from orchestration.figures import to_png
from orchestration.sweeps.space import Axis, Choice, Space, canonical, format_value, short_names, shown
from orchestration.sweeps.state import Configuration, Score, score_of

COLOURS = ("#1f5fa8", "#d1495b", "#2e8b57", "#8a5fbf", "#b8860b")
STOPPED = "#9a9a9a"
LOG_FROM = 8  # times the smallest value that the largest is: then the axis is logarithmic


def sensitivity(
    key: str, space: Space, configurations: Sequence[Configuration], best: Configuration | None, names: Sequence[str]
) -> bytes:
    """Score against one parameter. names: metrics, the objective first; one line each, through the best configuration."""
    figure, axes = plt.subplots(figsize=(7.6, 5.2))
    places = Places(space[key], [configuration.values[key] for configuration in configurations])
    lines = [
        draw_line(axes, key, places, configurations, best, name, colour)
        for name, colour in zip(names, itertools.cycle(COLOURS), strict=False)
        if best is not None
    ]
    draw_points(axes, key, places, configurations, names[0], COLOURS[0])
    places.label(axes)
    held = {k: v for k, v in best.values.items() if k != key} if best and any(lines) else {}
    axes.set_title(f"{key}" + (f"   (lines: {shown(held)})" if held else ""), fontsize=10)
    axes.set(xlabel=short_names(space)[key], ylabel="validation, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2, frameon=False)
    return to_png(figure)


class Places:
    """Positions of a parameter's values on an axis: numbers at their value, other values side by side."""

    def __init__(self, axis: Axis, values: Sequence[Any]) -> None:
        listed = list(axis.values) if isinstance(axis, Choice) else []
        known = {canonical(value): value for value in [*listed, *values]}
        numbers = [value for value in known.values() if isinstance(value, int | float) and not isinstance(value, bool)]
        self.numeric = len(numbers) == len(known)
        order = sorted(known, key=lambda name: known[name]) if self.numeric else list(known)
        self.values = [known[name] for name in order]
        self.discrete = bool(listed)
        positive = self.numeric and min(numbers) > 0
        self.log = positive and (
            max(numbers) / min(numbers) >= LOG_FROM if listed else bool(getattr(axis, "log", False))
        )
        self.spots = {name: self.spot(known[name], place) for place, name in enumerate(order)}

    def spot(self, value: Any, place: int) -> float:
        return float(value) if self.numeric else float(place)

    def __getitem__(self, value: Any) -> float:
        return self.spots[canonical(value)]

    def label(self, axes: Axes, vertical: bool = False) -> None:
        axis = axes.yaxis if vertical else axes.xaxis
        if self.log:
            (axes.set_yscale if vertical else axes.set_xscale)("log")
        ticks = dict(zip(sorted(self.spots.values()), map(format_value, self.values), strict=True))
        if self.log and not self.discrete:
            ticks = {at: f"{at:.2g}" for at in np.geomspace(min(ticks), max(ticks), 6).tolist()}
        if self.discrete or self.log or not self.numeric:
            axis.set_ticks(list(ticks), labels=list(ticks.values()))
            axis.set_minor_locator(plt.NullLocator())
        axis.set_tick_params(labelsize=8)


def draw_line(
    axes: Axes,
    key: str,
    places: Places,
    configurations: Sequence[Configuration],
    best: Configuration,
    name: str,
    colour: str,
) -> bool:
    """Mean and spread of the configurations that differ from the best only in this parameter; False if there are none."""
    found: dict[float, Score] = {}
    for configuration in configurations:
        if not configuration.stopped and same_but(key, configuration, best) and (score := configuration.metric(name)):
            found[places[configuration.values[key]]] = score
    if len(found) < 2:
        return False
    spots = sorted(found)
    means = np.array([100 * found[spot].mean for spot in spots])
    spreads = np.array([100 * (found[spot].spread or 0) for spot in spots])
    axes.plot(spots, means, marker="o", markersize=5, color=colour, label=name, zorder=3)
    axes.fill_between(spots, means - spreads, means + spreads, color=colour, alpha=0.15, linewidth=0)
    return True


def draw_points(
    axes: Axes, key: str, places: Places, configurations: Sequence[Configuration], name: str, colour: str
) -> None:
    """Every configuration, and for listed values the mean over the configurations with that value."""
    by_value: dict[float, list[float]] = {}
    for stopped in (True, False):
        drawn = [(places[p.values[key]], p.metric(name)) for p in configurations if p.stopped == stopped]
        known = [(spot, score) for spot, score in drawn if score]
        if not known:
            continue
        axes.errorbar(
            [spot for spot, _ in known],
            [100 * score.mean for _, score in known],
            yerr=[100 * (score.spread or 0) for _, score in known],
            fmt="x" if stopped else ".",
            color=STOPPED if stopped else colour,
            alpha=0.6,
            linewidth=0.8,
            label="stopped early" if stopped else f"points: {name}, mean ± s.d. of seeds",
        )
        for spot, score in known if not stopped else ():
            by_value.setdefault(spot, []).append(100 * score.mean)
    if places.discrete and max(map(len, by_value.values()), default=0) > 1:
        spots = sorted(by_value)
        axes.plot(
            spots,
            [np.mean(by_value[s]) for s in spots],
            linestyle=":",
            color=colour,
            linewidth=1.2,
            label="mean over the others",
        )


def same_but(key: str, configuration: Configuration, other: Configuration) -> bool:
    return all(canonical(configuration.values[k]) == canonical(v) for k, v in other.values.items() if k != key)


def heat_map(x: str, y: str, space: Space, configurations: Sequence[Configuration], objective: str) -> bytes:
    """The score over two parameters: cells where both have listed values, coloured dots elsewhere."""
    figure, axes = plt.subplots(figsize=(6.4, 4.8))
    across = Places(space[x], [p.values[x] for p in configurations])
    up = Places(space[y], [p.values[y] for p in configurations])
    scored = [p for p in configurations if p.metric(objective) and not p.stopped]
    if across.discrete and up.discrete:
        mesh = draw_cells(axes, x, y, across, up, scored, objective)
    else:
        scores = [100 * score.mean for p in scored if (score := p.metric(objective))]
        spots = ([across[p.values[x]] for p in scored], [up[p.values[y]] for p in scored])
        mesh = axes.scatter(*spots, c=scores, cmap="viridis", s=60, edgecolors="black", linewidths=0.4)
        across.label(axes)
        up.label(axes, vertical=True)
        axes.grid(alpha=0.3)
    names = short_names(space)
    axes.set(xlabel=names[x], ylabel=names[y])
    note = "mean over seeds" + (" and over the other parameters" if len(space) > 2 else "")
    blank = (
        "; blank: stopped or failed" if across.discrete and up.discrete and len(scored) < len(configurations) else ""
    )
    axes.set_title(f"{objective} on validation, %\n{note}{blank}", fontsize=9)
    figure.colorbar(mesh, ax=axes)
    return to_png(figure)


def draw_cells(
    axes: Axes, x: str, y: str, across: Places, up: Places, configurations: Sequence[Configuration], objective: str
) -> Any:
    columns, lines = [canonical(v) for v in across.values], [canonical(v) for v in up.values]
    cells: dict[tuple[int, int], list[float]] = {}
    for configuration in configurations:
        score = configuration.metric(objective)
        assert score
        place = lines.index(canonical(configuration.values[y])), columns.index(canonical(configuration.values[x]))
        cells.setdefault(place, []).append(score.mean)
    grid = np.full((len(lines), len(columns)), np.nan)
    for place, means in cells.items():
        mean = score_of(means)
        assert mean
        grid[place] = 100 * mean.mean
    mesh = axes.imshow(grid, origin="lower", aspect="auto", cmap="viridis")
    middle = (np.nanmin(grid) + np.nanmax(grid)) / 2 if cells else 0
    for (line, column), value in np.ndenumerate(grid):
        if not np.isnan(value):
            axes.text(column, line, f"{value:.1f}", ha="center", va="center", fontsize=9,
                      color="white" if value < middle else "black")  # fmt: skip
    axes.set_xticks(range(len(columns)), [format_value(v) for v in across.values])
    axes.set_yticks(range(len(lines)), [format_value(v) for v in up.values])
    return mesh


def modes_of(objective: str, metrics: Mapping[str, Any]) -> list[str]:
    """The objective, and the same measure in the other modes, which Fig. 4 shows together."""
    measure = objective.rpartition("/")[2]
    return [objective, *(name for name in metrics if name.rpartition("/")[2] == measure and name != objective)]
