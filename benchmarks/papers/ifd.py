"""Table II of IFD on rendered people: what each part of the method adds.

    python -m benchmarks.papers.ifd [--seeds 1 2 3] [--rows baseline IKT CBD SupCon IFD] [--jobs 1] [--set key=value ...]

Renders the preset `default`, trains each row with each seed by the recipe ifd-demo, one thread each, and scores it on the test
people by LTCC's protocol. The table can be interrupted at any time: finished rows are kept below build/ifd, unfinished ones
resume from their last epoch. `--validation` trains on 90 of the 120 people and scores on the other 30, to choose settings
(`--set`, as for `redress train`) without the test people. About 80 minutes of CPU in all.

Expected: IFD well above the baseline in clothes-changing rank-1. The paper's own numbers are no target.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.papers.ablation import Ablation, Means, run_table

ATTENTION_EPOCHS, JOINT_EPOCHS = 10, 26
# A narrower network and more people in a batch than the recipe: more, and better, steps for the same time. A batch shows a
# person in four outfits, once each, so every positive of Eq. 5 weighs 1/T; --set batch.appearances=2 has both weights in it.
SHARED = [
    "method.width=0.25",
    "batch={people: 16, images: 4, sampler: appearance, appearances: 4, lanes: 1}",
    "workers=1",
    f"method.joint_from_epoch={ATTENTION_EPOCHS}",
]


def after(first: int) -> list[str]:
    """The main stream has the same number of epochs and the same schedule in every row, from epoch `first` on."""
    milestone = first + round(0.7 * JOINT_EPOCHS)
    return [*SHARED, f"epochs={first + JOINT_EPOCHS}", f"optimizers.model.schedule.milestones=[{milestone}]"]


ROWS = {
    "baseline": [*after(0), "method.knowledge_transfer=false", "method.clothing_loss=none"],
    "IKT": [*after(ATTENTION_EPOCHS), "method.clothing_loss=none"],
    "CBD": [*after(0), "method.knowledge_transfer=false"],
    "SupCon": [*after(ATTENTION_EPOCHS), "method.clothing_loss=supervised"],
    "IFD": after(ATTENTION_EPOCHS),
}
ABLATION = Ablation("benchmarks.papers.ifd", "ifd-demo", Path("build/ifd"), ROWS)


def report_gain(means: Means) -> None:
    if {"baseline", "IFD"} <= means.keys():
        more = means["IFD"]["clothes-changing/rank-1"] - means["baseline"]["clothes-changing/rank-1"]
        print(f"clothes-changing rank-1, IFD above the baseline: {more:+.1f} points (expected: well above 0)")


def main() -> None:
    run_table(ABLATION, __doc__, report_gain)


if __name__ == "__main__":
    main()
