"""Workers that do not reach each other are named, and so is a network interface that a machine lacks."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from ray.train.torch import config

from orchestration.errors import RequestError
from orchestration.workers.group import VARIABLES, GroupBackend, GroupConfig, start_group, use_interface
from tests.servers.process import free_port

ROOT = Path(__file__).resolve().parents[3]
SUBJECT = """
import json, os, sys, time
import torch.distributed as dist
from orchestration.workers import group

rank, workers, fault = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
if fault == "leaves" and rank == 1:
    group.first_collective = lambda *_: time.sleep(15)
try:
    group.use_interface("lo")
    group.start_group("gloo", rank, workers, "env://", 77, answer_s=float(sys.argv[4]))
    limit = dist.distributed_c10d._get_default_group()._get_backend(group.torch.device("cpu")).options._timeout
    print(json.dumps([limit.total_seconds(), *(os.environ[name] for name in group.VARIABLES)]), flush=True)
    dist.barrier()
except group.NoAnswerError as error:
    print(json.dumps(str(error)), flush=True)
time.sleep(600)  # as Ray's processes, which outlive an error
"""


def start(ranks: list[int], workers: int, fault: str = "none", answer_s: float = 60) -> list[Any]:
    """What the given ranks of a group say after they have started, or failed to."""
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SUBJECT, str(rank), str(workers), fault, str(answer_s)],
            env=os.environ | place,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in ranks
    ]
    try:
        return [json.loads(process.stdout.readline()) for process in processes if process.stdout]
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_workers_that_answer_get_the_limit_of_collectives_and_the_interface() -> None:
    assert start([0, 1], 2) == [[77, "lo", "lo"]] * 2


def test_a_worker_that_does_not_come_is_named_with_those_who_did() -> None:
    host = socket.gethostname()
    for said in start([0, 1], 3, answer_s=12):
        assert said.startswith("rank 2 did not reach rank 0 at 127.0.0.1:")
        assert f"within 12 s; rank 0 on {host}, rank 1 on {host} did. Check the network" in said


@pytest.mark.long
def test_a_worker_that_does_not_take_part_in_the_first_collective_leaves_both_ends_named() -> None:
    said = start([0, 1], 2, "leaves", answer_s=12)[0]
    host = socket.gethostname()
    assert said.startswith(f"rank 0 on {host} got no answer within 12 s from all of rank 1 on {host} (")
    assert "resources.network_interface" in said


def test_an_interface_that_this_machine_lacks_is_refused_with_those_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(
        RequestError, match=rf"network_interface = eth99: {socket.gethostname()} has no .* it has .*\blo\b"
    ):
        use_interface("eth99")
    assert not {*VARIABLES} & os.environ.keys()


def test_ray_train_calls_our_start_and_its_own_function_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = config._setup_torch_process_group
    used: list[Any] = []

    def on_start(self: Any, worker_group: Any, backend_config: Any) -> None:
        used.append(config._setup_torch_process_group)
        raise RuntimeError("stopped")

    class Workers:
        def execute(self, *call: Any) -> None:
            used.append(call)

    monkeypatch.setattr(config._TorchBackend, "on_start", on_start)
    with pytest.raises(RuntimeError, match="stopped"):
        GroupBackend().on_start(Workers(), GroupConfig(interface="lo"))
    assert used == [(use_interface, "lo"), start_group]
    assert config._setup_torch_process_group is theirs
    assert not dist.is_initialized()
