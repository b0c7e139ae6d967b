"""Table II of pixel sampling on rendered people: what each part adds; and how fast pixels are sampled.

    python -m benchmarks.methods.pixel_sampling
    python -m benchmarks.methods.pixel_sampling --train [--seeds 1 2 3] [--rows baseline PS PS+MSE RE PS+MSE+RE ...] [--jobs 1]
                                                [--set key=value ...] [--data FOLDER]

The sampler against a loop over images that does the same. With --train the preset `default` is rendered, each row trained
with each seed by the recipe pixel-sampling-demo, one thread each, and scored on the test people by LTCC's protocol. A
step on images and changed images costs twice a plain one: "baseline-2x" has the time of PS + MSE, not its steps. It can be
stopped at any time: what is finished is kept below build/pixel-sampling, and a row in the middle goes on from its last epoch.
`--validation` trains on 90 of the 120 people and scores on the other 30 instead: for choosing settings (`--set`, as for
`redress train`) without looking at the test people. About 80 minutes of CPU in all.

Expected: PS + MSE at least 8 points of clothes-changing rank-1 and 5 of mAP above the baseline of equal steps.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.papers.ablation import Ablation, arguments, finish_trial, report, train_rows
from methods.clothes_sampling import TROUSERS, UPPER, sample_pixels

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
ABLATION = Ablation("benchmarks.methods.pixel_sampling", "pixel-sampling-demo", Path("build/pixel-sampling"), ROWS)
TARGETS = {"clothes-changing/rank-1": 8.0, "clothes-changing/mAP": 5.0}
BATCH, SIZE, REPEATS = 64, (256, 128), 7  # the paper's


def scene(device: str) -> tuple[Tensor, Tensor, dict[int, Tensor]]:
    """A batch of noise with rectangles of clothes of all sizes, about a third of the pixels; and the images' orders."""
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (BATCH, 3, *SIZE), dtype=torch.uint8, generator=random)
    parts = torch.zeros(BATCH, *SIZE, dtype=torch.uint8)
    for part, top in ((UPPER, 50), (TROUSERS, 130)):
        for image, (height, width) in zip(
            parts, torch.randint(40, 80, (BATCH, 2), generator=random).tolist(), strict=True
        ):
            image[top : top + height, 64 - width // 2 : 64 + width // 2] = part
    order = {part: torch.randperm(BATCH, generator=random) for part in (UPPER, TROUSERS)}
    return images.to(device).contiguous(memory_format=torch.channels_last), parts.to(device), order


def sample_pixels_by_loop(images: Tensor, parts: Tensor, order: dict[int, Tensor]) -> Tensor:
    """The same, image by image."""
    result = images.clone()
    for part, a in order.items():
        bank = torch.cat([images[i][:, parts[i] == part] for i in a.tolist()], 1)  # [3, N_u]
        begin = 0
        for image, is_part in zip(result, parts == part, strict=True):
            number = int(is_part.sum())
            image[:, is_part] = bank[:, begin : begin + number]
            begin += number
    return result


def seconds(work: Callable[[], object], device: str) -> float:
    """Median over REPEATS, after one more that warms up: CPU seconds, on a device wall seconds."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    taken = []
    for _ in range(REPEATS + 1):
        began = clock()
        work()
        if device != "cpu":
            torch.cuda.synchronize()
        taken.append(clock() - began)
    return statistics.median(taken[1:])


def report_speed(device: str) -> None:
    given = scene(device)
    assert torch.equal(sample_pixels(*given), sample_pixels_by_loop(*given))
    batched, loop = (seconds(partial(work, *given), device) for work in (sample_pixels, sample_pixels_by_loop))
    print(
        f"sampling both parts of {BATCH} images {SIZE[0]} × {SIZE[1]}, {device}: {BATCH / batched:.0f} images/s "
        f"({1000 * batched:.1f} ms a batch), by a loop over images {BATCH / loop:.0f} ({loop / batched:.1f} ×)"
    )


def report_gain(means: dict[str, dict[str, float]]) -> None:
    if not {"baseline", "PS+MSE"} <= means.keys():
        return
    for metric, target in TARGETS.items():
        more = means["PS+MSE"][metric] - means["baseline"][metric]
        print(
            f"{metric}, PS+MSE above the baseline of equal steps: {more:+.1f} points (expected: at least {target:+.0f})"
        )


def main() -> None:
    words = arguments(ABLATION, __doc__).parse_args()
    torch.set_num_threads(1)
    if words.trial:
        finish_trial(ABLATION, words)
    elif words.train:
        report_gain(report(train_rows(ABLATION, words)))
    else:
        for device in ["cpu"] + (["cuda"] if torch.cuda.is_available() else []):
            report_speed(device)


if __name__ == "__main__":
    main()
