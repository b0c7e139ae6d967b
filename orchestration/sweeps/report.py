"""The report of a sweep: a plot per parameter, a heat map per pair, parallel coordinates, a table."""

from __future__ import annotations

import html
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestration.sweeps import plots
from orchestration.sweeps.space import Choice, Space, format_value, short_names
from orchestration.sweeps.state import SweepState, state_of

PAGE = Path(__file__).with_name("parallel_coordinates.html")
MAX_PAIRS = 10


@dataclass
class Report:
    """PNG bytes and pages by file name; the table as rows."""

    pictures: dict[str, bytes] = field(default_factory=dict)
    pages: dict[str, bytes] = field(default_factory=dict)
    table: list[dict[str, Any]] = field(default_factory=list)


def build_report(space: Space, sweep_state: SweepState, objective: str) -> Report:
    configurations = [configuration for configuration in sweep_state.ranked() if configuration.score]
    made = Report(table=table(space, sweep_state))
    if not configurations:
        return made
    names = plots.modes_of(objective, max((o.metrics for o in configurations[0].results.values()), key=len))
    for key in space:
        picture = plots.sensitivity(key, space, configurations, sweep_state.best(), names)
        made.pictures[f"sensitivity-{key}.png"] = picture
    for x, y in itertools.islice(itertools.combinations(space, 2), MAX_PAIRS):
        made.pictures[f"heat-map-{x}-{y}.png"] = plots.heat_map(x, y, space, configurations, objective)
    made.pages["parallel-coordinates.html"] = parallel_coordinates(space, sweep_state, objective)
    return made


def table(space: Space, sweep_state: SweepState) -> list[dict[str, Any]]:
    """One row per configuration, best first; scores in percent."""
    names = short_names(space)
    rows: list[dict[str, Any]] = []
    for configuration in sweep_state.ranked():
        score = configuration.score
        row: dict[str, Any] = {names[key]: format_value(value) for key, value in configuration.values.items()}
        row["score, %"] = None if score is None else round(100 * score.mean, 2)
        row["s.d."] = None if score is None or score.spread is None else round(100 * score.spread, 2)
        rows.append(row | {"seeds": score.count if score else 0, "state": state_of(configuration, sweep_state.seeds)})
    return rows


def parallel_coordinates(space: Space, sweep_state: SweepState, objective: str) -> bytes:
    """A self-contained HTML page: an axis per parameter and one for the score, a line per configuration."""
    names = short_names(space)
    axes = [
        {"key": names[key], "log": not isinstance(axis, Choice) and axis.log, "listed": isinstance(axis, Choice)}
        for key, axis in space.items()
    ]
    lines = [
        {
            "values": [plain(configuration.values[key]) for key in space],
            "score": round(100 * configuration.score.mean, 3),
            "spread": None if configuration.score.spread is None else round(100 * configuration.score.spread, 3),
            "state": state_of(configuration, sweep_state.seeds),
        }
        for configuration in sweep_state.ranked()
        if configuration.score
    ]
    data = {"axes": axes, "lines": lines, "objective": objective}
    page = PAGE.read_text(encoding="utf-8")
    page = page.replace("{{objective}}", html.escape(objective)).replace("{{data}}", for_script(data))
    return page.encode()


def plain(value: Any) -> float | int | str:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else format_value(value)


def for_script(data: Mapping[str, Any]) -> str:
    """JSON that cannot close the HTML element around it."""
    return json.dumps(data).replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def encode(answer: Mapping[str, Any]) -> bytes:
    return json.dumps(answer, indent=1, default=str, ensure_ascii=False).encode()
