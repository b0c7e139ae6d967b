"""What a window costs in mixing and saves in memory: `python -m benchmarks.data.mixing [--json] [--plot FILE]`.

Simulated data sets (20 images a person on average, row groups of 1,000 images that count as 16 MB), batches of 16 people ×
4 images by `distinct`. Mixing is that of `datasets.sampling.mixing`, of two epochs. --plot writes the figure of
datasets/README.md.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from benchmarks.report import options
from datasets.format.index import SplitIndex
from datasets.sampling.chunks import num_chunks
from datasets.sampling.mixing import effective_partners, mixing, people_of
from datasets.sampling.plan import Plan, plan_epoch
from datasets.streaming.eviction import access_order, bytes_needed
from tests.datasets.sampling.simulated import FINGERPRINT, simulated_index

PEOPLE, IMAGES = 16, 4
SIZES = {100_000: 5_000, 1_000_000: 50_000}  # images: people
LANES = (2, 8)
WINDOWS: tuple[int | Literal["all"], ...] = ("all", 1, 2, 4, 8, 16, 32, 64)
FULL_AT_1M_TARGET = 0.85  # of mixing within an epoch, a million images, 8 lanes, window 16


@dataclass(frozen=True)
class Point:
    """One way of ordering one data set. within, between: mixing. gib: of row groups that one worker holds for all lanes, so
    that nothing is read twice. lost: share of an epoch's batches that the tail leaves out."""

    images: int
    lanes: int
    window: int | Literal["all"]
    partners: float
    within: float
    between: float
    gib: float
    lost: float


def main() -> None:
    """Print a row for each window; --plot also plots them."""
    parser = options(__doc__)
    parser.add_argument("--plot", type=Path, metavar="FILE", help="a PNG")
    args = parser.parse_args()
    points = [point for images, people in SIZES.items() for lanes in LANES for point in measure(images, people, lanes)]
    if args.plot:
        plot(points, args.plot)
    if args.json:
        print(json.dumps([asdict(point) for point in points]))
        return
    print(
        f"{'images':>9} {'lanes':>5} {'window':>6} {'partners':>9} {'within':>7} {'between':>8} {'GiB held':>9} {'lost':>7}"
    )
    for p in points:
        print(
            f"{p.images:9,} {p.lanes:5} {p.window!s:>6} {p.partners:9.0f} {p.within:7.3f} {p.between:8.3f} {p.gib:9.2f} "
            f"{100 * p.lost:6.2f}%"
        )
    found = next(p.within for p in points if (p.images, p.lanes, p.window) == (1_000_000, 8, 16))
    print(f"a million images, 8 lanes, window 16: {found:.3f}   target >= {FULL_AT_1M_TARGET}   "
          f"{'holds' if found >= FULL_AT_1M_TARGET else 'MISSED'}")  # fmt: skip


def measure(images: int, people: int, lanes: int) -> list[Point]:
    """A point for every window that the lanes have row groups for."""
    index = simulated_index(images, people)
    lengths = [place.length for place in index.groups]
    possible = int(num_chunks(np.bincount(index.person), IMAGES).sum()) // PEOPLE
    points: list[Point] = []
    full = None
    for window in WINDOWS:
        if window != "all" and window > len(index.groups) // lanes:
            continue
        plans = [plan(index, lanes, window, epoch) for epoch in range(2)]
        found = effective_partners([people_of(index, each) for each in plans])
        full = full or found
        points.append(
            Point(
                images,
                lanes,
                window,
                found.within,
                mixing(found.within, full.within),
                mixing(found.between, full.between),
                bytes_needed(access_order(index.group, plans[0].rows), lengths) / 2**30,
                1 - plans[0].num_batches / possible,
            )
        )
    return points


def plan(index: SplitIndex, lanes: int, window: int | Literal["all"], epoch: int) -> Plan:
    return plan_epoch(
        index, FINGERPRINT, sampler="distinct", people=PEOPLE, images=IMAGES, window=window, lanes=lanes, seed=1, epoch=epoch
    )  # fmt: skip


def plot(points: list[Point], path: Path) -> None:
    """Mixing, and the share lost, over how many row groups are open in all."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import FixedLocator, NullLocator

    figure, (above, below) = pyplot.subplots(
        2, 1, figsize=(7, 6.2), height_ratios=(3, 1), sharex=True, layout="constrained"
    )
    for images, colour in zip(SIZES, ("tab:orange", "tab:blue"), strict=True):
        for lanes, marker in zip(LANES, ("o", "s"), strict=True):
            ours = [p for p in points if (p.images, p.lanes) == (images, lanes) and p.window != "all"]
            opened = [p.lanes * int(p.window) for p in ours]
            label = f"{images:,} images, {lanes} lanes"
            above.plot(opened, [p.within for p in ours], colour, marker=marker, label=f"{label}, within an epoch")
            if lanes == max(LANES):
                above.plot(opened, [p.between for p in ours], colour, linestyle=":", label=f"{label}, between epochs")
            below.plot(opened, [100 * p.lost for p in ours], colour, marker=marker)
    above.axhline(1, color="grey", linewidth=0.8)
    above.set_ylim(0.25, 1.1)
    above.set_ylabel("mixing (1: as the full sampler)")
    above.legend(fontsize=7.5, loc="lower right", ncols=2)
    below.set_ylabel("lost in the tail, %")
    below.set_ylim(0, 5)
    below.set_xlabel("row groups open at once: window × lanes")
    below.set_xscale("log", base=2)
    ticks = [2**i for i in range(1, 10)]
    below.set_xticks(ticks, [str(tick) for tick in ticks])
    memory = above.secondary_xaxis("top")
    memory.set_xlabel("GiB that all workers hold together, about")
    memory.xaxis.set_major_locator(FixedLocator(ticks[::2]))
    memory.xaxis.set_minor_locator(NullLocator())
    memory.set_xticklabels([f"{tick / 64:g}" for tick in ticks[::2]])
    for axes in (above, below):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    main()
