"""A Ray cluster of several nodes on this machine: a head and further raylets, with token authentication."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tests.servers.process import BIN, HOST, Process, ServerError, clean_environment, free_port, listens

OBJECT_STORE_BYTES = 160 << 20
START_S = 120  # a node takes 8 s on two idle cores
ATTEMPTS = 3  # on a busy machine a raylet gives up after 15 s
# `ray start` asks once for 30 s whether its node has joined, and then gives up: so short a time that a busy machine needs more.
PATIENT_RAY = """
import sys, time
from ray._private import services
ask, last = services.get_node, time.monotonic() + 110
def ask_again(*arguments):
    while True:
        try:
            return ask(*arguments)
        except RuntimeError:
            if time.monotonic() > last:
                raise
services.get_node = ask_again
from ray.scripts.scripts import main
sys.argv[0] = "ray"
main()
"""


@dataclass
class Cluster:
    """A running cluster. `dashboard` is its job address; `environment` is what a shell needs that submits to it.

    start_node: starts one more node, which joins.
    """

    address: str
    dashboard: str
    token: str
    environment: dict[str, str]
    start_node: Callable[[], Process]
    nodes: list[Process] = field(default_factory=list)

    def submit(
        self,
        entrypoint: Sequence[str],
        *,
        working_dir: Path,
        env_vars: Mapping[str, str] | None = None,
        excludes: Sequence[str] = (),
        timeout_s: float = 240,
    ) -> subprocess.CompletedProcess[str]:
        """`ray job submit --working-dir …` as a person types it; waits and returns exit status and output."""
        runtime_env = {"env_vars": dict(env_vars or {}), "excludes": list(excludes)}
        command = [
            *(str(BIN / "ray"), "job", "submit", f"--working-dir={working_dir}"),
            f"--runtime-env-json={json.dumps(runtime_env)}",
            *("--", *entrypoint),
        ]
        env = self.environment | {"RAY_API_SERVER_ADDRESS": self.dashboard}
        return subprocess.run(
            command, env=env, cwd=working_dir, capture_output=True, text=True, timeout=timeout_s, check=False
        )

    def drain(self, i: int, deadline_s: int = 600) -> None:
        """Announce that node `i` will be taken away, as a cloud's spot notice does. The node goes on."""
        node_id = alive(self)[node_address(i)]
        command = [
            *(str(BIN / "ray"), "drain-node", f"--address={self.address}", f"--node-id={node_id}"),
            *("--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=a spot notice"),
            f"--deadline-remaining-seconds={deadline_s}",
        ]
        subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=120, check=True)

    def get(self, path: str) -> Any:
        """A page of the dashboard's API, with the token."""
        request = urllib.request.Request(self.dashboard + path, headers={"Authorization": f"Bearer {self.token}"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)


@contextmanager
def ray_nodes(num_nodes: int = 2, *, cpus: int = 2, environment: Mapping[str, str] | None = None) -> Iterator[Cluster]:
    """Run a cluster of `num_nodes` nodes with `cpus` each; node i has one of the resource `node-i`.

    environment: what every process on the nodes has besides, such as addresses and keys of an object store. A job's
    runtime environment is no place for keys: the dashboard shows it.

    Logs and sockets lie in short folders of the system's temporary directory: a socket's path may have 107 bytes.
    """
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="r", ignore_cleanup_errors=True)))
        token = secrets.token_hex(32)
        env = clean_environment(home / "home") | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": token,
            "RAY_USAGE_STATS_ENABLED": "0",
            "PYTHONWARNINGS": "ignore",
        }
        node_env = env | dict(environment or {})
        port, dashboard_port = free_port(), free_port()
        head = ["--head", f"--port={port}", f"--dashboard-port={dashboard_port}", f"--dashboard-host={HOST}"]

        def start_node() -> Process:
            i = len(cluster.nodes)
            role = [*head, "--include-dashboard=true"] if i == 0 else [f"--address={cluster.address}"]
            for attempt in range(ATTEMPTS):
                folder, agent_port = home / f"n{i}{attempt}", free_port()
                folder.mkdir()
                node = Process(
                    [sys.executable, "-c", PATIENT_RAY, "start", *role, *node_options(i, cpus, folder, agent_port)],
                    folder / "log",
                    node_env,
                    folder,
                )
                stack.callback(node.stop)
                try:
                    node.wait_until(partial(listens, agent_port, node_address(i)), timeout_s=START_S)
                    node.wait_until(lambda: node_address(i) in alive(cluster), timeout_s=START_S)
                except ServerError:
                    if attempt == ATTEMPTS - 1:
                        raise
                    node.stop()
                else:
                    cluster.nodes.append(node)
                    break
            return node

        cluster = Cluster(f"{node_address(0)}:{port}", f"http://{HOST}:{dashboard_port}", token, env, start_node)
        for _ in range(num_nodes):
            start_node()
        yield cluster


def node_address(i: int) -> str:
    """Each node's own loopback address, as machines have; 127.0.0.1 Ray would replace by the network card's."""
    return f"127.0.0.{2 + i}"


def node_options(i: int, cpus: int, folder: Path, agent_port: int) -> list[str]:
    return [
        "--block",
        f"--node-ip-address={node_address(i)}",
        f"--num-cpus={cpus}",
        f"--object-store-memory={OBJECT_STORE_BYTES}",
        f"--temp-dir={folder}",
        f"--resources={json.dumps({f'node-{i}': 1})}",
        f"--ray-client-server-port={free_port()}",
        # By default every cluster's agent wants port 52365; the one that does not get it takes no jobs.
        f"--dashboard-agent-listen-port={agent_port}",
        "--disable-usage-stats",
    ]


def num_alive(cluster: Cluster) -> int:
    return len(alive(cluster))


def alive(cluster: Cluster) -> dict[str, str]:
    """The ids of the nodes that the dashboard shows as alive, by address; none while it does not answer."""
    try:
        answer = cluster.get("/api/v0/nodes?detail=0")
    except (urllib.error.URLError, OSError, ValueError):
        return {}
    rows = answer["data"]["result"]["result"]
    return {row["node_ip"]: row["node_id"] for row in rows if row["state"] == "ALIVE"}
