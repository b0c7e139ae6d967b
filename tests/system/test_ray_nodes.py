"""The two-node cluster of the system tests: what it promises, and that nobody gets in without the token."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.servers.ray_nodes import Cluster, num_alive, ray_nodes

pytestmark = pytest.mark.system

PROBE = """
import json, ray
ray.init(log_to_driver=False, logging_level="ERROR")

@ray.remote(num_cpus=1)
def where():
    import datasets, methods, orchestration
    return [ray.get_runtime_context().get_node_id(), orchestration.__file__]

places = ray.get([where.options(resources={f"node-{i}": 0.01}).remote() for i in range(2)])
print("PLACES", json.dumps(places))
"""


def test_a_job_from_the_repository_reaches_workers_on_both_nodes(two_nodes: Cluster, root: Path) -> None:
    done = two_nodes.submit(["python", "-c", PROBE], working_dir=root)
    assert done.returncode == 0, done.stdout + done.stderr
    places = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("PLACES")).split(" ", 1)[1])
    assert len({node for node, _ in places}) == 2
    assert all("working_dir_files" in file for _, file in places), "workers import the code that was submitted"


@pytest.mark.parametrize("token", [None, "0" * 64])
def test_the_job_address_refuses_a_request_without_the_token(two_nodes: Cluster, token: str | None) -> None:
    request = urllib.request.Request(two_nodes.dashboard + "/api/jobs/")
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    with pytest.raises(urllib.error.HTTPError) as refusal:
        urllib.request.urlopen(request, timeout=10)
    assert refusal.value.code in (401, 403)


def test_an_exit_status_of_the_job_reaches_the_submitting_shell(two_nodes: Cluster, tmp_path: Path) -> None:
    done = two_nodes.submit(["python", "-c", "raise SystemExit(2)"], working_dir=tmp_path)
    assert done.returncode == 1, "ray job submit knows only 0 and 1: programs read --result instead"


def test_a_second_cluster_stops_its_own_processes_alone(two_nodes: Cluster) -> None:
    with ray_nodes(1, cpus=1) as other:
        assert num_alive(other) == 1
        family = [process for node in other.nodes for process in node.family()]
        assert len(family) > 5
    assert [process for process in family if process.is_running()] == []
    assert num_alive(two_nodes) == 2
