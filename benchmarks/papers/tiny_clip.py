"""What a tiny CLIP knows about rendered people that it has not seen, and what it costs.

    python -m benchmarks.papers.tiny_clip [--worlds 7 8] [--seeds 1 2 3]

Renders the preset `clip` for each world, a seed of the renderer, and trains towers from each seed. The recall of a sentence is
the share whose own image is among the first ten of a hundred. Bars: outfits on whole images at least .70, persons on
images without clothes at least .40. Chance is .10. About three CPU minutes for each pair of world and seed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

from datasets.shards.dataset import Dataset
from datasets.storage.store import open_store
from datasets.synthetic.dataset import render_dataset
from orchestration.clip.tiny import train_tiny

BARS = {"outfit/whole/recall@10": 0.70, "person/shielded/recall@10": 0.40}
BUILD = Path("build/tiny-clip")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, nargs="+", default=[7, 8])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    args = parser.parse_args()
    found: dict[str, list[float]] = {}
    for world in args.worlds:
        for seed in args.seeds:
            began = time.process_time()
            _, recalls = train_tiny(Dataset.open(rendered(world)), seed, lambda what, done, total: None)
            shown = "  ".join(f"{name} {value:.2f}" for name, value in recalls.items() if name.endswith("recall@10"))
            print(f"world {world}  seed {seed}  {shown}  {time.process_time() - began:.0f} CPU s", flush=True)
            for name, value in recalls.items():
                found.setdefault(name, []).append(value)
    for name, bar in BARS.items():
        values = found[name]
        verdict = "reached" if min(values) >= bar else "missed"
        print(f"{name}: mean {statistics.fmean(values):.2f}, least {min(values):.2f}; bar {bar:.2f} {verdict}")


def rendered(world: int) -> str:
    address = str(BUILD / f"world-{world}")
    if not open_store(address).exists("manifest.json"):
        render_dataset(address, preset="clip", seed=world)
    return address


if __name__ == "__main__":
    main()
