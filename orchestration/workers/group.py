"""The start of the workers' process group: through which network, and that every worker answers before the data are read.

This replaces private names of Ray Train; the version of Ray is pinned.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from ray.train.torch import TorchConfig, config
from ray.train.torch.config import _TorchBackend

from orchestration.errors import RequestError

ANSWER_S = 60.0  # for all workers to connect, and for their first collective
POLL_S = 0.01
VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
CHECK = (
    "Check the network between these machines, and that resources.network_interface names the interface that reaches the "
    "others."
)

kept: list[dist.TCPStore] = []  # rank 0's store, for as long as its process lives


class NoAnswerError(RuntimeError):
    """Workers do not reach each other. The message names both ends."""


@dataclass
class GroupConfig(TorchConfig):
    """interface: the name of the network interface on every machine; None for the one that gloo and NCCL choose."""

    interface: str | None = None

    @property
    def backend_cls(self) -> type[GroupBackend]:
        return GroupBackend


class GroupBackend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        if backend_config.interface is not None:
            worker_group.execute(use_interface, backend_config.interface)
        theirs = config._setup_torch_process_group
        setattr(config, theirs.__name__, start_group)
        try:
            super().on_start(worker_group, backend_config)
        finally:
            setattr(config, theirs.__name__, theirs)


def start_group(
    backend: str,
    world_rank: int,
    world_size: int,
    init_method: str,
    timeout_s: int,
    answer_s: float = ANSWER_S,
) -> None:
    """Runs on each worker, in place of Ray's function, and calls it.

    Raises: NoAnswerError.
    """
    limit = timedelta(seconds=answer_s)
    if world_size > 1:
        meeting = meet(world_rank, world_size, limit)
    try:
        config._setup_torch_process_group(backend, world_rank, world_size, init_method, max(1, round(answer_s)))
        if world_size > 1:
            first_collective(limit, backend)
    except RuntimeError as error:
        if world_size == 1:
            raise
        raise NoAnswerError(meeting.told(answer_s, error)) from error
    dist.set_timeout(timedelta(seconds=timeout_s))


def use_interface(name: str) -> None:
    """Runs on each worker. Raises: RequestError where its machine has no such interface."""
    found = [name for _, name in socket.if_nameindex()]
    if name not in found:
        raise RequestError(
            f"resources.network_interface = {name}: {socket.gethostname()} has no such interface; it has "
            f"{', '.join(found)}. Set one that all machines have, or null to let gloo and NCCL choose."
        )
    for variable in VARIABLES:
        os.environ[variable] = name


class Meeting:
    """Where the workers of a group come together before it exists: they know each other's machines."""

    def __init__(self, store: dist.Store, rank: int, workers: int) -> None:
        self.store, self.rank, self.workers = store, rank, workers
        self.store.set(f"host/{rank}", socket.gethostname())

    def missing(self) -> list[int]:
        return [rank for rank in range(self.workers) if not self.store.check([f"host/{rank}"])]

    def host(self, rank: int) -> str:
        return self.store.get(f"host/{rank}").decode()

    def told(self, seconds: float, error: Exception) -> str:
        others = {rank: self.host(rank) for rank in range(self.workers) if rank != self.rank}
        said = str(error).strip().splitlines()[0]
        return (
            f"rank {self.rank} on {self.host(self.rank)} got no answer within {seconds:.0f} s from all of "
            f"{listed(others.items())} ({said}). {CHECK}"
        )


def meet(rank: int, workers: int, limit: timedelta) -> Meeting:
    """Wait until all workers reach rank 0. Raises: NoAnswerError with those that did not."""
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    seconds, here = limit.total_seconds(), socket.gethostname()
    try:
        store = dist.TCPStore(
            address, port, is_master=rank == 0, timeout=limit, wait_for_workers=False, multi_tenant=True
        )
    except (dist.DistNetworkError, dist.DistStoreError) as error:
        raise NoAnswerError(
            f"rank {rank} on {here} did not reach rank 0 at {address}:{port} within {seconds:.0f} s. {CHECK}"
        ) from error
    if rank == 0:
        kept.append(store)  # `init_process_group` asks for the same one
    try:
        meeting = Meeting(store, rank, workers)
        missing = wait_for_all(meeting, seconds)
    except dist.DistNetworkError as error:
        raise NoAnswerError(f"rank {rank} on {here} lost rank 0 at {address}:{port}. {CHECK}") from error
    if missing:
        absent = ", ".join(f"rank {one}" for one in missing)
        came = listed((one, meeting.host(one)) for one in range(workers) if one not in missing)
        raise NoAnswerError(
            f"{absent} did not reach rank 0 at {address}:{port} within {seconds:.0f} s; {came} did. {CHECK}"
        )
    return meeting


def wait_for_all(meeting: Meeting, seconds: float) -> list[int]:
    """The ranks that have not come after so many seconds."""
    deadline = time.monotonic() + seconds
    while (missing := meeting.missing()) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    return missing


def first_collective(limit: timedelta, backend: str) -> None:
    """Raises: RuntimeError where it does not end in time."""
    if backend == "nccl":
        import ray.train.torch

        torch.cuda.set_device(ray.train.torch.get_device())
    work = dist.all_reduce(torch.ones(1, device="cuda" if backend == "nccl" else "cpu"), async_op=True)
    deadline = time.monotonic() + limit.total_seconds()
    while work is not None and not work.is_completed():
        if time.monotonic() > deadline:
            raise RuntimeError("the first collective did not end")
        time.sleep(POLL_S)
    if work is not None:
        work.wait()


def listed(hosts: Iterable[tuple[int, str]]) -> str:
    return ", ".join(f"rank {rank} on {host}" for rank, host in hosts)
