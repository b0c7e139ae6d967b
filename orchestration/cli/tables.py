"""How views print: facts line by line, tables, and metrics in percent. All of it goes to stdout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

WIDTH = 200  # of a table in a file or a pipe


def print_facts(facts: Mapping[str, Any]) -> None:
    """One fact a line, its later lines indented. Facts without a value are left out."""
    known = {name: str(value) for name, value in facts.items() if value not in (None, "", [], {})}
    width = max(map(len, known), default=0)
    for name, value in known.items():
        print(f"{name:{width}}  " + value.replace("\n", "\n" + " " * (width + 2)))


def shortened(lines: Sequence[str], most: int = 10) -> list[str]:
    """The first lines, and how many there are more."""
    hidden = len(lines) - most
    return [*lines[:most], f"and {hidden:,} more (all of them with --json)"] if hidden > 0 else list(lines)


def print_table(
    title: str, columns: Sequence[str], lines: Sequence[Sequence[Any]], *, numbers: Sequence[str] = ()
) -> None:
    """numbers: the columns that are aligned to the right. Cells are printed as they are, None as nothing."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title or None, title_justify="left")
    for column in columns:
        table.add_column(column, justify="right" if column in numbers else "left")
    for line in lines:
        table.add_row(*(Text("" if cell is None else str(cell)) for cell in line))
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH)
    console.print(table)


def print_metrics(title: str, metrics: Mapping[str, float]) -> None:
    """Modes down, measures across, in percent; below them the distances of pairs."""
    from orchestration.measures import DISTANCES, MEASURES, modes_of

    modes = modes_of(metrics)
    columns = [measure for measure, one in MEASURES.items() if one.in_tables]
    shown = [measure for measure in columns if any(f"{mode}/{measure}" in metrics for mode in modes)]
    lines = [[mode, *(percent(metrics.get(f"{mode}/{measure}")) for measure in shown)] for mode in modes]
    print_table(f"{title}, %", ["mode", *shown], lines)
    means = [f"{name.partition('/')[2].replace('-', ' ')} {metrics[name]:.3f}" for name in DISTANCES if name in metrics]
    if means:
        print(f"mean distances: {', '.join(means)}")


def main_metrics(metrics: Mapping[str, float]) -> str:
    """The rank-1 of each mode in one cell, in percent."""
    firsts = {name.removesuffix("/rank-1"): value for name, value in metrics.items() if name.endswith("/rank-1")}
    return "  ".join(f"{mode} {percent(value)}" for mode, value in firsts.items())


def percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def rename_status(answer: Mapping[str, Any]) -> dict[str, Any]:
    """`status` in an answer is the exit status: that of a run or a model version becomes its `state`."""
    return {("state" if key == "status" else key): value for key, value in answer.items()}
