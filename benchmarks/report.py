"""The frame of a benchmark: options, figures printed beside their targets, and the peak memory of a process."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

Targets = Mapping[str, tuple[str, float]]  # by a figure's name: ">=" or "<=", and the bound


def options(description: str | None) -> argparse.ArgumentParser:
    """A parser with --json whose help is a module's docstring."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    return parser


def run(
    parser: argparse.ArgumentParser,
    targets: Targets,
    measure: Callable[[argparse.Namespace], Mapping[str, float]],
    child: Callable[..., Any] | None = None,
    threads: int | None = 1,
) -> None:
    """Parse the options, measure, show the figures. threads: of torch, None for its default.

    child: what a process that `measure` starts with `--child WORDS…` computes from the words and prints as JSON.
    """
    if child is not None:
        parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if threads is not None:
        torch.set_num_threads(threads)
    if child is not None and args.child:
        print(json.dumps(child(*args.child)))
    else:
        show(measure(args), targets, as_json=args.json)


def show(results: Mapping[str, float], targets: Targets, *, as_json: bool, before: str = "") -> None:
    """Print each figure, with its target and whether that holds; or one JSON object. before: stands before each name."""
    if as_json:
        print(json.dumps(dict(results)))
        return
    for name, value in results.items():
        print(f"{before}{name:56} {value:10.3f}   {verdict(name, value, targets)}".rstrip())


def verdict(name: str, value: float, targets: Targets) -> str:
    """Whether a figure that has a target meets it; empty for one that has none."""
    if name not in targets:
        return ""
    sign, bound = targets[name]
    return f"target {sign} {bound:g}   {'holds' if (value >= bound if sign == '>=' else value <= bound) else 'MISSED'}"


def peak_gib() -> float:
    """The peak memory of this process since it began its program (getrusage would also count what forked it)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 2**20
