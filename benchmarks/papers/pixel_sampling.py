"""Table II of pixel sampling on rendered people: what each part adds.

    python -m benchmarks.papers.pixel_sampling [--seeds 1 2 3] [--rows baseline PS PS+MSE RE PS+MSE+RE ...] [--jobs 1]
                                               [--set key=value ...] [--data FOLDER]

Renders the preset `default`, trains each row with each seed by the recipe pixel-sampling-demo, one thread each, and scores it
on the test people by LTCC's protocol. A step on images and changed images costs twice a plain one: "baseline-2x" has the time
of PS + MSE, not its steps. The table can be interrupted at any time: finished rows are kept below build/pixel-sampling,
unfinished ones resume from their last epoch. `--validation` trains on 90 of the 120 people and scores on the other 30, to
choose settings (`--set`, as for `redress train`) without the test people. About 80 minutes of CPU in all.

Expected: PS + MSE at least 8 points of clothes-changing rank-1 and 5 of mAP above the baseline of equal steps.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.papers.ablation import Ablation, Means, run_table

EPOCHS = 24  # 44 steps each: 1,056
SHARED = ["batch.lanes=1", "workers=1"]
PLAIN = ["augment.clothes_sampling=null", "method.consistency_weight=0"]
ERASING = ["augment.erase=0.5"]


def lasting(epochs: int) -> list[str]:
    return [f"epochs={epochs}", f"optimizers.model.schedule.milestones=[{round(0.7 * epochs)}]"]


ROWS = {
    "baseline": [*SHARED, *lasting(EPOCHS), *PLAIN],
    "PS": [*SHARED, *lasting(EPOCHS), "method.consistency_weight=0"],
    "PS+MSE": [*SHARED, *lasting(EPOCHS)],
    "RE": [*SHARED, *lasting(EPOCHS), *PLAIN, *ERASING],
    "PS+MSE+RE": [*SHARED, *lasting(EPOCHS), *ERASING],
    "baseline-2x": [*SHARED, *lasting(2 * EPOCHS), *PLAIN],
}
ABLATION = Ablation("benchmarks.papers.pixel_sampling", "pixel-sampling-demo", Path("build/pixel-sampling"), ROWS)
TARGETS = {"clothes-changing/rank-1": 8.0, "clothes-changing/mAP": 5.0}


def report_gain(means: Means) -> None:
    if not {"baseline", "PS+MSE"} <= means.keys():
        return
    for metric, target in TARGETS.items():
        more = means["PS+MSE"][metric] - means["baseline"][metric]
        print(
            f"{metric}, PS+MSE above the baseline of equal steps: {more:+.1f} points (expected: at least {target:+.0f})"
        )


def main() -> None:
    run_table(ABLATION, __doc__, report_gain)


if __name__ == "__main__":
    main()
