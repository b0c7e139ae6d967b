"""A training of two workers on a cluster of its own: where it listens, and how Ctrl-C and SIGTERM end it."""

from __future__ import annotations

import ipaddress
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow import MlflowClient

from datasets.storage.store import open_store
from orchestration.engine import checkpoint
from orchestration.tracking.journal import read_steps
from tests.servers.process import wait_for
from tests.tiny import tiny_dataset

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]

SMALL = [
    "workers=2", "resources.cpus=0.5", "batch={people: 4, images: 2, lanes: 2}", "augment.height=64", "augment.width=32",
    "method.width=0.25", "optimizers.model.schedule=null", "epochs=40", "checkpoint.every_epochs=100",
]  # fmt: skip
# Tests that run in the background inherit that Ctrl-C is ignored.
LAUNCH = """
import runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.argv = ["redress", *sys.argv[1:]]
runpy.run_module("orchestration", run_name="__main__", alter_sys=True)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("signals")


def start(folder: Path, root: Path, name: str, *words: str) -> subprocess.Popen[bytes]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment = kept | {"OMP_NUM_THREADS": "1", "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}"}
    with (folder / f"{name}.json").open("w") as out, (folder / f"{name}.log").open("w") as log:
        return subprocess.Popen(
            [sys.executable, "-c", LAUNCH, "train", *words, "--json"],
            cwd=root, stdout=out, stderr=log, env=environment, start_new_session=True,
        )  # fmt: skip


def run_folder(folder: Path) -> Path | None:
    return next(iter((folder / "runs").glob("*")), None)


def steps(folder: Path) -> list[int]:
    found = run_folder(folder)
    return [record["step"] for _, record in read_steps(open_store(str(found)))] if found else []


def listening(process: int) -> set[str]:
    """The addresses at which a process and all below it accept connections."""
    parent = psutil.Process(process)
    found: set[str] = set()
    for one in (parent, *parent.children(recursive=True)):
        try:
            found |= {c.laddr.ip for c in one.net_connections("inet") if c.status == psutil.CONN_LISTEN}
        except psutil.NoSuchProcess:
            continue
    return found


def is_loopback(address: str) -> bool:
    ip = ipaddress.ip_address(address)
    return (getattr(ip, "ipv4_mapped", None) or ip).is_loopback


def answer(folder: Path, name: str) -> dict[str, Any]:
    return dict(json.loads((folder / f"{name}.json").read_text()))


def test_signals_end_a_run_with_a_checkpoint_and_it_listens_on_loopback_alone(folder: Path, root: Path) -> None:
    data = tiny_dataset(folder / "data", persons=12, size=(64, 32))
    words = ["baseline-demo", f"data={data}", f"storage={folder / 'runs'}", *SMALL]
    first = start(folder, root, "first", *words)
    wait_for(lambda: len(steps(folder)) > 5, first, folder / "first.log")
    assert all(map(is_loopback, listening(first.pid)))
    first.send_signal(signal.SIGINT)
    assert first.wait(90) == 130, (folder / "first.log").read_text()[-3000:]
    run = run_folder(folder)
    assert run is not None
    found = checkpoint.latest(open_store(str(run)))
    assert found is not None
    assert found.progress.step == len(steps(folder)), "no step is lost"
    told = answer(folder, "first")
    assert told["status"] == 130
    assert f"interrupted at step {found.progress.step}" in told["error"]["message"]
    assert f"redress train --resume {run.name}" in told["error"]["message"]
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    assert client.get_run(run.name).info.status == "KILLED"

    before = len(steps(folder))
    second = start(folder, root, "second", "--resume", run.name, f"storage={folder / 'runs'}")
    wait_for(lambda: len(steps(folder)) > before + 5, second, folder / "second.log")
    os.killpg(second.pid, signal.SIGTERM)  # as a batch system does: every process of the group
    assert second.wait(90) == 143, (folder / "second.log").read_text()[-3000:]
    assert answer(folder, "second")["status"] == 143
    assert client.get_run(run.name).info.status == "KILLED"
    later = checkpoint.latest(open_store(str(run)))
    assert later is not None
    assert steps(folder) == list(range(len(steps(folder))))
