"""The process group of a cluster on loopback alone: torch's store listens on 127.0.0.1, by default on every interface.

This replaces private names of Ray Train; the version of Ray is pinned.
"""

from __future__ import annotations

import socket
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from ray.train.torch import config

from orchestration.cluster import LOOPBACK
from orchestration.workers.group import GroupBackend, GroupConfig, kept


def listen() -> tuple[str, int]:
    """Runs on rank 0: start the store that `env://` finds at the returned address."""
    listening = socket.create_server((LOOPBACK, 0), backlog=128)
    port = listening.getsockname()[1]
    store = dist.TCPStore(
        LOOPBACK,
        port,
        is_master=True,
        timeout=timedelta(minutes=30),
        wait_for_workers=False,
        multi_tenant=True,  # `init_process_group` asks for the same store
        master_listen_fd=listening.detach(),
        use_libuv=True,
    )
    kept.append(store)
    return LOOPBACK, port


class LoopbackBackend(GroupBackend):
    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        theirs = config.get_address_and_port
        config.get_address_and_port = listen
        try:
            super().on_start(worker_group, backend_config)
        finally:
            config.get_address_and_port = theirs


class LoopbackConfig(GroupConfig):
    @property
    def backend_cls(self) -> type[LoopbackBackend]:
        return LoopbackBackend
