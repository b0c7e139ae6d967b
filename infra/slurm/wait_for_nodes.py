"""Wait until every node of a Slurm job has joined its Ray cluster. The exit status is 0 then, else 1 with one message.

A training that started with fewer would wait for the others, or for ever.
"""

from __future__ import annotations

import argparse
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

POLL_S = 0.2
ACCELERATOR = "accelerator_type:"  # Ray's prefix of a resource that each node with such a device has
MAY_MIX = "REDRESS_MIXED_ACCELERATORS"


class NodesMissingError(RuntimeError):
    """The cluster is not, or will not be, what the job asked for."""


def wait_for(nodes: Sequence[str], address: str, steps: Sequence[int], timeout_s: float) -> None:
    """nodes: their names in Ray. steps: the processes of srun that hold Ray's nodes. Raises: NodesMissingError."""
    deadline = time.monotonic() + timeout_s

    def give_up(missing: Sequence[str]) -> None:
        told = f"{len(nodes) - len(missing)} of {len(nodes)} nodes have joined Ray at {address}; missing: {', '.join(missing)}."
        if not all(is_alive(step) for step in steps):
            raise NodesMissingError(f"{told} A step that holds Ray ended: its reason is above.")
        if time.monotonic() > deadline:
            raise NodesMissingError(
                f"{told} Gave up after {timeout_s:g} s. Check that these nodes reach the first one and share its storage. "
                "REDRESS_NODES_WAIT_S sets the limit in seconds, REDRESS_HEAD_ADDRESS the first node's address."
            )
        time.sleep(POLL_S)

    wait_for_port(address, lambda: give_up(nodes))
    import ray

    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    while missing := missing_of(nodes, ray.nodes()):
        give_up(missing)
    check_accelerators(ray.nodes())


def wait_for_port(address: str, give_up: Callable[[], None]) -> None:
    """Until something listens at host:port: Ray itself ends a process that waits for longer than it likes."""
    host, _, port = address.rpartition(":")
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
            return
        except OSError:
            give_up()


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def missing_of(wanted: Sequence[str], found: Sequence[Mapping[str, Any]]) -> list[str]:
    """The wanted names that no live node has, in their order. found: as `ray.nodes()` gives them."""
    there = {node["NodeName"] for node in found if node["Alive"]}
    return [name for name in wanted if name not in there]


def check_accelerators(found: Sequence[Mapping[str, Any]]) -> None:
    """Raises: NodesMissingError where nodes have different accelerators: each step would take as long as the slowest."""
    kinds = {
        name.removeprefix(ACCELERATOR) for node in found for name in node["Resources"] if name.startswith(ACCELERATOR)
    }
    if len(kinds) > 1 and os.environ.get(MAY_MIX) != "1":
        raise NodesMissingError(
            f"the nodes have different accelerators: {', '.join(sorted(kinds))}. Ask sbatch for one kind (--gpus-per-node "
            f"KIND:COUNT, or --constraint), or set {MAY_MIX}=1."
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address")
    parser.add_argument("nodes", nargs="+")
    parser.add_argument("--timeout", type=float, required=True)
    parser.add_argument("--steps", type=int, nargs="+", default=[])
    given = parser.parse_args()
    try:
        wait_for(given.nodes, given.address, given.steps, given.timeout)
    except NodesMissingError as error:
        print(f"redress on Slurm: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
