"""What the supervisor sees of a running cluster. Nodes that are drained, killed and added: tests/system/test_elastic.py."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from orchestration.workers import nodes
from tests.servers.process import HOST, free_port, listens


@pytest.mark.ray
def test_places_are_those_that_nobody_holds(ray_cluster: str) -> None:
    import ray
    from ray.util import placement_group, remove_placement_group

    half = {"CPU": 0.5}
    assert nodes.capacity(half) == 8
    assert nodes.capacity({"CPU": 3.0}) == 1
    assert nodes.capacity({"CPU": 1.0, "GPU": 1.0}) == 0
    in_time(lambda: nodes.places(half) == 8)
    held = placement_group([{"CPU": 1.0}, {"CPU": 0.5}])
    ray.get(held.ready(), timeout=60)
    in_time(lambda: nodes.places(half) == 5)
    assert nodes.capacity(half) == 8
    remove_placement_group(held)
    in_time(lambda: nodes.places(half) == 8)


@pytest.mark.ray
def test_a_node_that_is_up_answers_and_stays(ray_cluster: str) -> None:
    assert nodes.silent() == []
    assert nodes.leaving() == []
    assert len(nodes.staying()) == 1


def test_a_port_at_which_nothing_listens_does_not_answer() -> None:
    port = free_port()
    assert not listens(port)
    assert not nodes.answers({"NodeManagerAddress": HOST, "NodeManagerPort": port})


def in_time(is_so: Callable[[], bool], timeout_s: float = 60) -> None:
    """Ray's view of free resources follows within moments."""
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)
