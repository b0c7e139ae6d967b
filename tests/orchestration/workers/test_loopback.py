"""A process group's store listens on loopback alone, and serves the processes of the group."""

from __future__ import annotations

import socket
from typing import Any

import psutil
import pytest
import torch.distributed as dist
from ray.train.torch import config

from orchestration.workers import loopback
from orchestration.workers.loopback import LoopbackBackend, LoopbackConfig, listen


def test_the_store_listens_on_loopback_and_answers() -> None:
    address, port = listen()
    try:
        listening = [c.laddr for c in psutil.Process().net_connections("inet") if c.status == psutil.CONN_LISTEN]
        assert {place.ip.removeprefix("::ffff:") for place in listening if place.port == port} == {"127.0.0.1"}
        other = dist.TCPStore(address, port, is_master=False)
        other.set("key", "value")
        assert loopback.kept[-1].get("key") == b"value"
        with socket.socket() as elsewhere:
            elsewhere.settimeout(1)
            assert elsewhere.connect_ex(("127.0.0.2", port)) != 0
    finally:
        loopback.kept.pop()


def test_ray_train_uses_the_store_and_its_own_address_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs, used = config.get_address_and_port, []

    def on_start(self: Any, worker_group: Any, backend_config: Any) -> None:
        used.append(config.get_address_and_port)
        raise RuntimeError("stopped")

    monkeypatch.setattr(config._TorchBackend, "on_start", on_start)
    assert LoopbackConfig().backend_cls is LoopbackBackend
    with pytest.raises(RuntimeError, match="stopped"):
        LoopbackBackend().on_start(None, LoopbackConfig())
    assert used == [listen]
    assert config.get_address_and_port is theirs
