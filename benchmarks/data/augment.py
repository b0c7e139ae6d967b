"""Decode and augment against the usual per-image pipeline, on one core: `python -m benchmarks.data.augment [--json]`.

The same 128×256 JPEGs end as normalised float32 [64, 3, 384, 192]. CPU time, best of several rounds taken in turn, so that
a shared machine disturbs little and all alike. The host's part alone is decoding: what is left of its work when
augmentation runs on the device.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms

from benchmarks.report import options
from datasets.images.augment import IMAGENET_MEAN, IMAGENET_STD, Augmentation, augment, draw
from datasets.images.decode import decode_image

BATCH, ROUNDS = 64, 15
TARGETS = {"all on the host": 2.0, "the host's part": 8.0}
PAD = Augmentation(height=384, width=192)
CAL = Augmentation(height=384, width=192, pad=0, enlarge=1.125, crop_probability=0.5)
USUAL = transforms.Compose(
    [
        transforms.Resize((384, 192)),
        transforms.RandomHorizontalFlip(),
        transforms.Pad(10),
        transforms.RandomCrop((384, 192)),
        transforms.ToTensor(),
        transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        transforms.RandomErasing(0.5, value=list(PAD.erase_fill)),
    ]
)


def main() -> None:
    """Print images/s of each way and its ratio to the usual one."""
    parser = options(__doc__)
    args = parser.parse_args()
    torch.set_num_threads(1)
    files = crops(BATCH)
    parsing = torch.randint(0, 20, (BATCH, 256, 128), dtype=torch.uint8)
    images = decoded(files)
    rates = images_per_second(
        {
            "usual": lambda number: usual(files),
            "all on the host": lambda number: augment(decoded(files), None, draw(PAD, BATCH, (0, number)), PAD),
            "the host's part": lambda number: decoded(files),
            "augment alone": lambda number: augment(images, None, draw(PAD, BATCH, (0, number)), PAD),
            "augment alone, with masks": lambda number: augment(images, parsing, draw(PAD, BATCH, (0, number)), PAD),
            "augment alone, as CAL publishes it": lambda number: augment(
                images, None, draw(CAL, BATCH, (0, number)), CAL
            ),
            "draws alone": lambda number: draw(PAD, BATCH, (0, number)),
        }
    )
    if args.json:
        print(
            json.dumps({name: {"images_per_s": rate, "ratio": rate / rates["usual"]} for name, rate in rates.items()})
        )
        return
    for name, rate in rates.items():
        ratio = rate / rates["usual"]
        target = TARGETS.get(name)
        verdict = f"target >= {target}   {'holds' if ratio >= target else 'MISSED'}" if target else ""
        print(f"{name:36} {rate:8.0f} images/s per core   {ratio:6.1f} x usual   {verdict}")


def images_per_second(ways: dict[str, Callable[[int], object]]) -> dict[str, float]:
    best = dict.fromkeys(ways, float("inf"))
    for number in range(ROUNDS):
        for name, way in ways.items():
            began = time.process_time()
            way(number)
            best[name] = min(best[name], time.process_time() - began)
    return {name: BATCH / spent for name, spent in best.items()}


def usual(files: list[bytes]) -> Tensor:
    return torch.stack([USUAL(Image.open(io.BytesIO(file)).convert("RGB")) for file in files])


def decoded(files: list[bytes]) -> Tensor:
    """uint8 [B, 3, h, w], channels last as the decoder leaves them: stacking is then a copy of memory."""
    return torch.stack([decode_image(file).permute(1, 2, 0) for file in files]).permute(0, 3, 1, 2)


def crops(num: int, seed: int = 0, quality: int = 90) -> list[bytes]:
    """JPEGs of 128×256 (width × height) pixels and about 10 KB, as pedestrian crops have."""
    rng, files = np.random.default_rng(seed), []
    for _ in range(num):
        coarse = Image.fromarray(rng.integers(0, 256, (16, 8, 3), dtype=np.uint8)).resize(
            (128, 256), Image.Resampling.BICUBIC
        )
        noisy = (np.asarray(coarse) + rng.normal(0, 6, (256, 128, 3))).clip(0, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(noisy).save(file, "JPEG", quality=quality)
        files.append(file.getvalue())
    return files


if __name__ == "__main__":
    main()
