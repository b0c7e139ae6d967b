"""Conversion and verification: speed, memory, and what a kill costs: `python -m benchmarks.data.convert [--json]`.

Drawn people as 15 kB JPEGs with LIP-20 masks in VC-Clothes' layout. Wall time on all processors at hand, best of ROUNDS,
with the floor in turn: the same files read and decoded once by as many threads. The plain loop is what a script would do:
one thread, each image and mask opened with Pillow, one Parquet file. Peaks of memory are those of a process of its own.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from benchmarks.report import options, peak_gib, run
from datasets.conversion.convert import ConversionSettings, convert
from datasets.images.decode import decode_image, decode_parsing
from datasets.shards.dataset import Dataset

SMALL, LARGE = 1_000, 8_000
ROUNDS = 2
CORES = len(os.sched_getaffinity(0))
TARGETS: dict[str, tuple[str, float]] = {
    "convert, images/s": (">=", 2000.0),
    "verify, MB/s": (">=", 300.0),
    "peak memory of conversion, GiB": ("<=", 1.0),
    "resume after a kill / whole": ("<=", 0.7),
}


def main() -> None:
    run(options(__doc__), TARGETS, figures, child=lambda name, *args: CHILDREN[name](*args))


def figures(_: argparse.Namespace) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        small, large = (write_tree(Path(folder) / str(num), num) for num in (SMALL, LARGE))
        return rates(large) | memory(small, large) | resuming(large)


def write_tree(root: Path, num: int) -> Path:
    """Writes a tree of `num` images from 64 figures; no two images have the same bytes, and each person has 40."""
    rng = np.random.default_rng(0)
    crops = [crop_and_mask(rng) for _ in range(64)]
    for number in range(num):
        split = ("train", "train", "query", "gallery")[number % 4]
        name = (
            f"{number // 40 + (0 if split == 'train' else 50_000):05d}-{number % 4 + 1}-{number // 20 % 2}-{number:06d}"
        )
        image, mask = crops[number % 64]
        comment = b"\xff\xfe\x00\x0a%08d" % number  # a comment before the end
        for place, data in (
            (f"VC-Clothes/{split}/{name}.jpg", image[:-2] + comment + image[-2:]),
            (f"parsing/{split}/{name}.png", mask),
        ):
            (root / place).parent.mkdir(parents=True, exist_ok=True)
            (root / place).write_bytes(data)
    return root


def crop_and_mask(rng: np.random.Generator) -> tuple[bytes, bytes]:
    """A figure of 128×256 pixels with noise, about 15 kB, and its mask."""
    mask = np.zeros((256, 128), np.uint8)
    left, right = sorted(rng.integers(20, 108, 2).tolist())
    mask[20:60, 50:80], mask[60:140, left : right + 9], mask[140:240, left : right + 5] = 13, 5, 9
    image = rng.integers(0, 256, (20, 3))[mask] + rng.normal(0, 9, (256, 128, 3))
    jpeg, png = io.BytesIO(), io.BytesIO()
    Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(jpeg, "JPEG", quality=91)
    Image.fromarray(mask).save(png, "PNG")
    return jpeg.getvalue(), png.getvalue()


def convert_tree(root: Path, out: Path, progress: Callable[[str, int, int], None] | None = None) -> None:
    settings = ConversionSettings(parsing=root / "parsing", shard_bytes=16 << 20)
    convert("vcclothes", root / "VC-Clothes", str(out), settings, progress=progress)


def rates(root: Path) -> dict[str, float]:
    """Images/s and MB/s, each beside its floor."""
    images = sorted((root / "VC-Clothes").rglob("*.jpg"))
    masks = [root / "parsing" / path.parent.name / f"{path.stem}.png" for path in images]

    def floor() -> None:
        def both(number: int) -> None:
            decode_image(images[number].read_bytes())
            decode_parsing(masks[number].read_bytes())

        with ThreadPoolExecutor(CORES) as pool:
            list(pool.map(both, range(len(images)), chunksize=64))

    def plain() -> None:
        columns: dict[str, list[bytes]] = {"image": [], "parsing": []}
        for image, mask in zip(images, masks, strict=True):
            for name, path in (("image", image), ("parsing", mask)):
                data = path.read_bytes()
                np.asarray(Image.open(io.BytesIO(data)))
                columns[name].append(data)
        pq.write_table(pa.table(columns), root / "plain.parquet")

    seconds: dict[str, float] = {}
    for number in range(ROUNDS):
        out = root / f"out-{number}"
        ways: dict[str, Callable[[], object]] = {
            "convert": partial(convert_tree, root, out),
            "floor": floor,
            "plain": plain,
        }
        for name, way in ways.items():
            seconds[name] = min(seconds.get(name, 1e9), timed(way))
        dataset = Dataset.open(str(out))
        files = sorted(out.rglob("*.parquet"))
        seconds["verify"] = min(seconds.get("verify", 1e9), timed(partial(check, dataset)))
        seconds["hash"] = min(seconds.get("hash", 1e9), timed(partial(hash_all, files)))
    megabytes = sum(path.stat().st_size for path in files) / 1e6
    return {
        "convert, images/s": len(images) / seconds["convert"],
        "read and decoded once by all cores, images/s": len(images) / seconds["floor"],
        "convert / that floor": seconds["floor"] / seconds["convert"],
        "plain loop of one thread, images/s": len(images) / seconds["plain"],
        "verify, MB/s": megabytes / seconds["verify"],
        "SHA-256 of the same files by one thread, MB/s": megabytes / seconds["hash"],
    }


def timed(way: Callable[[], object]) -> float:
    began = time.perf_counter()
    way()
    return time.perf_counter() - began


def check(dataset: Dataset) -> None:
    if problems := dataset.verify():
        raise RuntimeError(problems[0])


def hash_all(files: list[Path]) -> None:
    for path in files:
        hashlib.sha256(path.read_bytes()).digest()


def memory(small: Path, large: Path) -> dict[str, float]:
    """Peaks of a process that converts."""
    peaks = [child("convert_once", str(root), str(root / "once"))["GiB"] for root in (small, large)]
    return {
        f"peak memory of conversion, {SMALL:,} images, GiB": peaks[0],
        "peak memory of conversion, GiB": peaks[1],
        "of these, imports, GiB": child("nothing")["GiB"],
    }


def resuming(root: Path) -> dict[str, float]:
    """Seconds of conversions in processes of their own: undisturbed, and the second run after a kill at two thirds."""
    whole = child("convert_once", str(root), str(root / "undisturbed"))["s"]
    args = [
        sys.executable,
        "-m",
        "benchmarks.data.convert",
        "--child",
        "convert_and_stop",
        str(root),
        str(root / "killed"),
    ]
    with subprocess.Popen(args, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
    rest = child("convert_once", str(root), str(root / "killed"))["s"]
    prints = {Dataset.open(str(root / name)).fingerprint for name in ("undisturbed", "killed")}
    if len(prints) > 1:
        raise RuntimeError("the second run ended in another data set")
    return {
        "whole, s": whole,
        "resume after a kill at two thirds, s": rest,
        "resume after a kill / whole": rest / whole,
    }


def child(*args: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.data.convert", "--child", *args]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout)


def convert_once(root: str, out: str) -> dict[str, float]:
    seconds = timed(lambda: convert_tree(Path(root), Path(out)))
    return nothing() | {"s": seconds}


def convert_and_stop(root: str, out: str) -> dict[str, float]:
    def stop(stage: str, done: int, total: int) -> None:
        if stage == "write" and done == total * 2 // 3:
            print("now", flush=True)
            time.sleep(600)

    convert_tree(Path(root), Path(out), stop)
    return {}


def nothing() -> dict[str, float]:
    """The peak of this process so far."""
    return {"GiB": peak_gib()}


CHILDREN: dict[str, Callable[..., dict[str, float]]] = {
    "convert_once": convert_once,
    "convert_and_stop": convert_and_stop,
    "nothing": nothing,
}

if __name__ == "__main__":
    main()
