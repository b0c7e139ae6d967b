"""How fast pixels are sampled: `python -m benchmarks.methods.pixel_sampling`.

The sampler against a loop over images that computes the same. The paper's table is `benchmarks.papers.pixel_sampling`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from methods.clothes_sampling import TROUSERS, UPPER, sample_pixels

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


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)
    for device in ["cpu"] + (["cuda"] if torch.cuda.is_available() else []):
        report_speed(device)


if __name__ == "__main__":
    main()
