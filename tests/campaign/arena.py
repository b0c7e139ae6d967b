"""The folders of a campaign: one place of work that each attack finds as before, and copies of it to restore it from."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.campaign import launch

ROOT = Path(__file__).resolve().parents[2]
FOREIGN = ("AWS_", "MLFLOW_", "RAY_", "REDRESS_", "S3_")
DISK_BYTES = 512 << 20


class Arena:
    """out: the campaign's folder. Every attack works in `out/work`: runs remember the addresses of their files.

    What commands write is below `disk`, which can be a file system of its own with a size.
    """

    def __init__(self, out: Path) -> None:
        self.out, self.work, self.grounds = out, out / "work", out / "grounds"
        self.grounds.mkdir(parents=True, exist_ok=True)
        self.disk, self.runs = self.work / "disk", self.work / "disk" / "runs"
        self.database = self.work / "mlflow.db"
        # Ray's sockets lie below it, and their paths must be short.
        self.temporary = Path(tempfile.mkdtemp(prefix="rc"))
        self.unmount()

    def close(self) -> None:
        self.unmount()
        for folder in (self.temporary, self.work):
            shutil.rmtree(folder, ignore_errors=True)

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        return kept | {
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "RAY_worker_niceness": "0",  # by default workers give way to whatever else a shared machine does
            "TMPDIR": str(self.temporary),
            "MLFLOW_TRACKING_URI": f"sqlite:///{self.database}",
            launch.FOLDERS: json.dumps([str(self.work)]),
        }

    def keep(self, ground: str) -> None:
        """Keep the place of work as a ground that attacks start from."""
        unfinished = self.grounds / f".{ground}"
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.copytree(self.work, unfinished)
        unfinished.rename(self.grounds / ground)

    def has(self, ground: str) -> bool:
        return (self.grounds / ground).is_dir()

    def restore(self, ground: str | None, disk_bytes: int | None = None) -> bool:
        """Make the place of work what it was. disk_bytes: the size of its disk.

        Returns False where the system lets nobody mount such a disk.
        """
        self.unmount()
        shutil.rmtree(self.work, ignore_errors=True)
        for entry in self.temporary.iterdir():
            shutil.rmtree(entry, ignore_errors=True) if entry.is_dir() else entry.unlink()
        self.disk.mkdir(parents=True)
        if disk_bytes and not self.mount(DISK_BYTES):
            return False
        if ground:
            shutil.copytree(self.grounds / ground, self.work, dirs_exist_ok=True)
        if disk_bytes:
            self.resize(used(self.disk) + disk_bytes)
        return True

    def mount(self, num_bytes: int) -> bool:
        command = ["mount", "-t", "tmpfs", "-o", f"size={num_bytes}", "tmpfs", str(self.disk)]
        return subprocess.run(command, check=False, capture_output=True).returncode == 0

    def resize(self, num_bytes: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={num_bytes}", str(self.disk)], check=True)

    def unmount(self) -> None:
        if os.path.ismount(self.disk):
            subprocess.run(["umount", str(self.disk)], check=True)


def used(folder: Path) -> int:
    """Bytes that files take in blocks of 4 KiB, as on a disk in memory."""
    found = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            found += 4096 + (path.stat().st_size + 4095) // 4096 * 4096
    return found


def furnish(arena: Arena) -> None:
    """What every attack needs: data sets, a source to convert, a parsing model, an MLflow database."""
    from datasets.conversion.holdout import holdout
    from tests.tiny import tiny_dataset

    arena.restore(None)
    data = tiny_dataset(arena.work / "data", persons=16, clothes=2, images=6, row_group_bytes=8 << 10)
    holdout(data, str(arena.work / "held"), persons=4)
    tiny_dataset(arena.work / "bare", persons=16, clothes=2, images=6, row_group_bytes=8 << 10, parsing=False)
    write_source(arena.work / "source", Path(data))
    write_parser(arena.work / "parser.pt2")
    in_new_process(f"from mlflow import MlflowClient; MlflowClient('sqlite:///{arena.database}').search_experiments()")
    arena.keep("base")


def write_source(folder: Path, data: Path) -> None:
    """The images of a data set as a folder with a table."""
    from datasets.shards.dataset import Dataset

    dataset = Dataset.open(str(data))
    folder.mkdir()
    with (folder / "table.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("path", "person", "split", "clothes", "camera"))
        for split in dataset.splits:
            for sample in dataset.samples(split):
                path = folder / sample.key
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(sample.image)
                table.writerow((sample.key, sample.person, split, sample.clothes, sample.camera))


def write_parser(path: Path) -> None:
    """A parsing network with random weights as an exported graph: it is attacked, not judged."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 6, 3, padding=1)).eval()
    shapes = ({0: torch.export.Dim("batch", min=1)},)
    torch.export.save(torch.export.export(network, (torch.zeros(2, 3, 32, 16),), dynamic_shapes=shapes), str(path))


def in_new_process(code: str) -> None:
    import sys

    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


Prepare = Callable[[Arena], Any]
