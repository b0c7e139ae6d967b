"""What benchmarks share: figures printed beside their targets, and the peak memory of a process."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

Targets = Mapping[str, tuple[str, float]]  # by a figure's name: ">=" or "<=", and the bound


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
    """Of this process since it began its program (getrusage would also count what forked it)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 2**20
