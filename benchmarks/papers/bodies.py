"""Bodies on rendered people, as Table III of pixel sampling lists them: each without and with pixel sampling (+PS).

    python -m benchmarks.papers.bodies [--rows pcb pcb+PS ...] [--seeds 1 ...] [--jobs 1] [--set key=value ...] [--data FOLDER]

Renders the preset `default`, trains each body by the recipe pixel-sampling-demo, one thread each, and scores it on the test
people. More than an hour of CPU per seed; the table can be interrupted at any time and resumes from what is below
build/bodies. Not the published Table III: with pixel sampling the consistency term counts, which
the published code of that table does not have.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.papers.ablation import Ablation, run_table
from benchmarks.papers.pixel_sampling import EPOCHS, PLAIN, SHARED, lasting

# At 96 × 48 the maps have six rows: HPM's finest stripes then overlap.
ROWS = {
    f"{body}{'' if plain else '+PS'}": [*SHARED, *lasting(EPOCHS), f"method.body={body}", *plain]
    for body in ("global", "pcb", "mgn", "hpm")
    for plain in (PLAIN, [])
}
ABLATION = Ablation("benchmarks.papers.bodies", "pixel-sampling-demo", Path("build/bodies"), ROWS, seeds=(1,))


def main() -> None:
    run_table(ABLATION, __doc__)


if __name__ == "__main__":
    main()
