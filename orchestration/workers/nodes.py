"""The nodes of the connected Ray cluster: which take workers, which are leaving, which have fallen silent.

`ray.nodes()` is public. Drains, free resources by node and the places of actors are known to Ray's own state alone, a
private name: one file, and Ray's version is pinned.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any

from orchestration.cluster import trials_that_fit

ANSWER_S = 2.0  # of a raylet, to open a connection
WORKER = "RayTrainWorker"


def places(needs: Mapping[str, float]) -> int:
    """How many more workers with these needs fit now."""
    free = state().available_resources_per_node()
    return trials_that_fit([free.get(node, {}) for node in staying()], needs, 1)


def capacity(needs: Mapping[str, float]) -> int:
    """How many workers would fit if nothing else ran."""
    return trials_that_fit([node["Resources"] for node in staying().values()], needs, 1)


def staying() -> dict[str, Mapping[str, Any]]:
    """The nodes, by id, that Ray lists as alive and that nobody drains."""
    import ray

    gone = state().get_draining_nodes()
    return {node["NodeID"]: node for node in ray.nodes() if node["Alive"] and node["NodeID"] not in gone}


def leaving() -> list[str]:
    """The addresses of the nodes that are being drained and have workers of this process's trainings.

    A spot notice and `ray drain-node` drain a node.
    """
    import ray

    drained = state().get_draining_nodes()
    if not drained:
        return []
    used = {
        actor["Address"]["NodeID"]
        for actor in state()
        .actor_table(None, ray.JobID.from_hex(ray.get_runtime_context().get_job_id()), "ALIVE")
        .values()
        if actor["ActorClassName"].rpartition(".")[2] == WORKER
    }
    return sorted(node["NodeManagerAddress"] for node in ray.nodes() if node["NodeID"] in used & drained.keys())


def silent() -> list[str]:
    """The addresses of nodes that Ray lists as alive and whose raylet accepts no connection.

    Ray drops such a node when its health checks have failed, half a minute to a minute after it was lost.
    """
    return sorted(node["NodeManagerAddress"] for node in staying().values() if not answers(node))


def answers(node: Mapping[str, Any]) -> bool:
    try:
        socket.create_connection((node["NodeManagerAddress"], node["NodeManagerPort"]), timeout=ANSWER_S).close()
    except OSError:
        return False
    return True


def state() -> Any:
    import ray

    return ray._private.state.state
