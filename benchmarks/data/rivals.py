"""Our stream beside MosaicML Streaming and WebDataset, on the same images on local disk.

    python -m benchmarks.data.rivals [--json]    # --lock: renew rivals.txt after requirements.lock has changed

Each turns 128×256 JPEGs of 15 kB, without and with a parsing mask (PNG), into uint8 batches of 64 for a consumer that does
nothing, in a process of its own on the machine's cores, the files in the page cache. Rates and CPU time (of all threads and
worker processes) are those after the first ten batches; best of several rounds taken in turn. Memory is what all processes
together hold at their peak, shared pages once, pages of program files left out.

Ours draws identity-balanced batches (16 people × 4 images, a window of 2 row groups in each of 8 lanes) and verifies the
SHA-256 of everything it reads; theirs read in stored order and verify nothing. Of each rival the best of 0 to 3 worker
processes and of two decoders counts (torchvision's operators without their Python layer, Pillow), images collated in the
decoder's memory order. What they do and ours does not is not asked for here: downloading shards, mixing sources,
shuffling over the whole set (MosaicML Streaming), pipelines of arbitrary steps over any stream (WebDataset).

Their environment (rivals.txt; cloud clients, transformers …) is built once in build/rivals-venv. It sees our torch,
torchvision and Pillow, so that both sides decode with the same code.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import re
import select
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image
from torch.nn import functional

from benchmarks.data.libraries import FILES, LIBRARIES, MODULES, NUM, SIZE, Way, samples
from benchmarks.report import options

REQUIRED = ("mosaicml-streaming==0.13.0", "webdataset==1.0.2")
ROOT = Path(__file__).resolve().parents[2]
PINNED, VENV = ROOT / "benchmarks/data/rivals.txt", ROOT / "build/rivals-venv"
SETTLED, ROUNDS = 10, 3  # batches before the clock starts; rounds of the best settings
TARGET = 1.0  # images/s and images per CPU-s, ours over each rival's

FIGURES: dict[str, Callable[[Iterator[float]], float]] = {
    "images/s": max,
    "CPU-s per 1,000": min,
    "first batch, s": min,
    "bytes read per byte": min,
}


def main() -> None:
    """Print each library's figures and the ratios."""
    parser = options(__doc__)
    parser.add_argument("--lock", action="store_true", help="pin the rivals' packages again in rivals.txt")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(*args.serve)
    elif args.lock:
        lock()
    elif args.json:
        print(json.dumps(compared(environment())))
    else:
        show(compared(environment()))


def compared(python: str) -> dict[str, dict[str, dict[str, Any]]]:
    """Figures of each library, without and with masks. python: the rivals' interpreter."""
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder))
        hosts = {name: Host(name, sys.executable if name == "ours" else python, folder) for name in LIBRARIES}
        best = tune(
            hosts, {name: [Way(name, n) for n in ((1, 2) if name == "ours" else (0, 1, 2, 3))] for name in hosts}
        )
        plain = compare(hosts, best)
        best = tune(hosts, {name: [dataclasses.replace(way, masks=True)] for name, way in best.items()})
        return {"images": plain, "images with masks": compare(hosts, best)}


def show(found: dict[str, dict[str, dict[str, Any]]]) -> None:
    for what, table in found.items():
        print(
            f"\n{what:20} {'images/s':>9} {'CPU-s per 1,000':>16} {'first batch, s':>15} {'MiB':>6} {'read':>6}  settings"
        )
        for name, row in table.items():
            print(
                f"{name:20} {row['images/s']:9.0f} {row['CPU-s per 1,000']:16.3f} {row['first batch, s']:15.2f} "
                f"{row['peak MiB']:6.0f} {row['bytes read per byte']:6.2f}  {row['settings']}"
            )
        for name, row in list(table.items())[1:]:
            for figure in ("images/s, ours / theirs", "images per CPU-s, ours / theirs"):
                verdict = "holds" if row[figure] >= TARGET else "MISSED"
                print(f"{name}: {figure:34} {row[figure]:5.2f}   target >= {TARGET}   {verdict}")


def tune(hosts: dict[str, Host], ways: dict[str, list[Way]]) -> dict[str, Way]:
    """The fastest way of each library: of those given, and of the best of them with the other decoder."""
    best: dict[str, Way] = {}
    for name, host in hosts.items():
        say(f"{name}: writing {NUM} images{', with masks' * ways[name][0].masks}")
        host.ask("write", ways[name][0])
        best[name] = max(ways[name], key=host.images_per_s)
        if name != "ours":
            best[name] = max((best[name], dataclasses.replace(best[name], decoder="Pillow")), key=host.images_per_s)
    return best


def compare(hosts: dict[str, Host], best: dict[str, Way]) -> dict[str, dict[str, Any]]:
    for _ in range(ROUNDS):
        for name, way in best.items():
            hosts[name].images_per_s(way)
    found: dict[str, dict[str, Any]] = {}
    for name, way in best.items():
        results = hosts[name].results[way]
        found[name] = {figure: pick(result[figure] for result in results) for figure, pick in FIGURES.items()}
        found[name] |= {"peak MiB": hosts[name].peak_mib(way), "settings": str(way)}
    for name, row in found.items():
        if name != "ours":
            row["images/s, ours / theirs"] = found["ours"]["images/s"] / row["images/s"]
            row["images per CPU-s, ours / theirs"] = row["CPU-s per 1,000"] / found["ours"]["CPU-s per 1,000"]
    return found


# Measuring, in the process of one library.


def serve(library: str, folder: str) -> None:
    """Carries out the tasks on standard input, each in a process forked fresh from this one, which has only imported."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "This DataLoader will create")  # more workers than cores: that is the question
    __import__(MODULES[library])
    for line in sys.stdin:
        task, settings = json.loads(line)
        if os.fork() == 0:
            way = Way(**settings)
            result = measure(way, folder) if task == "measure" else LIBRARIES[library][0](way, folder)
            print(json.dumps(result), flush=True)
            return
        if os.wait()[1]:
            sys.exit(f"{library} failed at {task} {settings}")


def measure(way: Way, folder: str) -> dict[str, float]:
    """One epoch."""
    began, (_, read) = time.perf_counter(), spent()
    first_s, num, before, since, cpu = 0.0, 0, 0, began, 0.0
    batches = LIBRARIES[way.library][1](way, folder)
    for number, (images, _, *masks) in enumerate(batches):
        if number == 0:
            first_s = time.perf_counter() - began
        if images.shape[1:] != (*SIZE, 3) or images.dtype != torch.uint8 or len(masks) != way.masks:
            raise ValueError(f"{way.library} delivers {images.dtype} {list(images.shape)} with {len(masks)} masks")
        num += len(images)
        if number == SETTLED:
            before, since, (cpu, _) = num, time.perf_counter(), spent()
    wall_s, (cpu_end, read_end) = time.perf_counter() - since, spent()  # workers stay until the loader goes
    delivered = sum(len(image) + len(mask or b"") for _, _, image, mask in samples(folder, way.masks)) * num / NUM
    return {
        "images/s": (num - before) / wall_s,
        "CPU-s per 1,000": (cpu_end - cpu) / (num - before) * 1000,
        "first batch, s": first_s,
        "bytes read per byte": (read_end - read) / delivered,
    }


def spent() -> tuple[float, int]:
    """CPU-seconds of this process and its workers so far, and bytes that they have read."""
    cpu, read = 0.0, 0
    for process in family(os.getpid()):
        times = process.cpu_times()
        cpu, read = cpu + times.user + times.system, read + process.io_counters().read_chars
    return cpu, read


def family(pid: int) -> list[psutil.Process]:
    return [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]


class Host:
    """A process that has a library loaded and measures with it in forks of itself."""

    def __init__(self, library: str, python: str, folder: str) -> None:
        self.process = subprocess.Popen(
            [python, "-m", "benchmarks.data.rivals", "--serve", library, folder],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.results: dict[Way, list[dict[str, float]]] = {}

    def images_per_s(self, way: Way) -> float:
        """The best so far, after one more epoch."""
        results = self.results.setdefault(way, [])
        results.append(self.ask("measure", way))
        say(f"{way.library}, {way}: {results[-1]['images/s']:.0f} images/s")
        return max(result["images/s"] for result in results)

    def ask(self, task: str, way: Way) -> Any:
        self.begin(task, way)
        return self.answer()

    def peak_mib(self, way: Way) -> float:
        """The peak of the host, the fork that reads an epoch, and its workers together."""
        self.begin("measure", way)
        assert self.process.stdout
        peak = 0
        while not select.select([self.process.stdout], [], [], 0.03)[0]:
            peak = max(peak, sum(map(held_kib, family(self.process.pid))))
        self.answer()
        return peak / 1024

    def begin(self, task: str, way: Way) -> None:
        assert self.process.stdin
        self.process.stdin.write(json.dumps([task, dataclasses.asdict(way)]) + "\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            sys.exit(1)  # the host has said why
        return json.loads(line)


def held_kib(process: psutil.Process) -> int:
    """Memory of a process, what it shares with others by its share, pages of files left out."""
    try:
        text = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):  # it has just ended
        return 0
    return sum(int(kib) for kib in re.findall(r"^Pss_(?:Anon|Shmem): +(\d+) kB", text, re.MULTILINE))


# The files, and the rivals' environment.


def write_files(folder: Path) -> None:
    from benchmarks.data.augment import crops

    for n, file in enumerate(crops(FILES, quality=94)):
        (folder / f"{n}.jpg").write_bytes(file)
        coarse = torch.from_numpy(np.random.default_rng(n).random((1, 20, 8, 4), np.float32))
        labels = functional.interpolate(coarse, SIZE, mode="bicubic")[0].argmax(0)
        Image.fromarray(labels.numpy().astype(np.uint8)).save(folder / f"{n}.png")


def environment() -> str:
    """The interpreter of the rivals' environment, which is built if it is not there as rivals.txt says."""
    shared = sysconfig.get_path("purelib")
    wanted, ready = hashlib.sha256(PINNED.read_bytes() + shared.encode()).hexdigest(), VENV / ".ready"
    if not ready.exists() or ready.read_text() != wanted:
        say(f"building the rivals' environment in {VENV.relative_to(ROOT)} (once; about 430 MB)")
        shutil.rmtree(VENV, ignore_errors=True)
        pip = [uv(), "pip", "install", "--quiet", "--compile-bytecode", "--require-hashes", "--no-deps"]
        try:
            subprocess.run([uv(), "venv", "--quiet", "--python", sys.executable, str(VENV)], check=True)
            subprocess.run([*pip, "--python", str(VENV), "-r", str(PINNED)], check=True)
        except subprocess.CalledProcessError:
            sys.exit(
                "the rivals' environment could not be built, so there is nothing to compare with. It needs the package "
                "index once: run this again where that is reached, or copy build/rivals-venv from a machine with the "
                "same Python and the same path to the project"
            )
        (next(VENV.glob("lib/python*/site-packages")) / "shared.pth").write_text(shared + "\n")  # after its own
        ready.write_text(wanted)
    return str(VENV / "bin/python")


def lock() -> None:
    """Pins what REQUIRED needs beyond our own packages, NumPy apart: MosaicML Streaming wants an older one."""
    pins = re.findall(r"^([\w.-]+)==(\S+)( ;[^\\]*)?", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    shared = [pin for pin in pins if pin[0] != "numpy"]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "required.txt").write_text("\n".join(REQUIRED))
        Path(folder, "shared.txt").write_text(
            "\n".join(f"{name}=={version}{marker}" for name, version, marker in shared)
        )
        words = [
            "--universal",
            "--python-version",
            "3.11",
            "--generate-hashes",
            "--no-header",
            "--no-annotate",
            "--quiet",
        ]
        words += ["-c", f"{folder}/shared.txt", f"{folder}/required.txt", "-o", str(PINNED)]
        without = [word for name, _, _ in shared for word in ("--no-emit-package", name)]
        subprocess.run([uv(), "pip", "compile", *words, *without], check=True)


def uv() -> str:
    return str(Path(sys.executable).with_name("uv"))


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
