"""The RayJob and its queue: protected, ended with a checkpoint, continued, and admitted."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

from orchestration.cli.commands.train import TRAIN
from orchestration.signals import GRACE_S

ROOT = Path(__file__).resolve().parents[2]
INFRA = ROOT / "infra"


def test_the_rayjob_is_protected_ends_and_takes_secrets_from_kubernetes(rayjob: dict[str, Any]) -> None:
    spec = rayjob["spec"]
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["rayClusterSpec"]["authOptions"]["mode"] == "token"
    groups = [spec["rayClusterSpec"]["headGroupSpec"], *spec["rayClusterSpec"]["workerGroupSpecs"]]
    for group in groups:
        pod = group["template"]["spec"]
        mounted = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]}
        assert mounted <= {volume["name"] for volume in pod["volumes"]}
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert f"USER {pod['securityContext']['runAsUser']}\n" in (INFRA / "Dockerfile").read_text()
        for container in pod["containers"]:
            confined = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
            assert container["securityContext"] == confined
    secrets = [
        [entry["secretRef"]["name"] for entry in group["template"]["spec"]["containers"][0]["envFrom"]]
        for group in groups
    ]
    assert secrets == [["redress-storage", "redress-tracking"]] * 2, "a sweep's trials talk to MLflow from any node"
    assert groups[1]["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1


def stop_hook(rayjob: dict[str, Any]) -> list[str]:
    [container] = rayjob["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"]
    return list(container["lifecycle"]["preStop"]["exec"]["command"])


def test_the_heads_hook_ends_the_driver_and_waits_for_it(rayjob: dict[str, Any], tmp_path: Path) -> None:
    """A process that is called as the driver is, and one whose words merely contain that."""
    (tmp_path / "orchestration").mkdir()
    driver = "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: (time.sleep(1), sys.exit(143)))\n"
    (tmp_path / "orchestration" / "__main__.py").write_text(f"{driver}print('runs', flush=True)\ntime.sleep(60)\n")
    words = ["python", "-m", "orchestration", "train", "cal-ltcc"]
    other = ["sh", "-c", "echo runs; sleep 60; : python -m orchestration train"]
    started = [
        subprocess.Popen(line, executable=program, cwd=tmp_path, stdout=subprocess.PIPE, text=True, process_group=0)
        for line, program in ((words, sys.executable), (other, "/bin/sh"))
    ]
    try:
        for process in started:
            assert process.stdout is not None
            assert process.stdout.readline() == "runs\n"
        waited = threading.Thread(target=started[0].wait)  # as the driver's parent does
        waited.start()
        assert subprocess.run(stop_hook(rayjob), timeout=60).returncode == 0
        waited.join(0.5)
        assert started[0].returncode == 143, "the hook returned before the driver had ended"
        assert started[1].poll() is None
    finally:
        for process in started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def test_a_driver_that_does_not_end_leaves_time_for_ray(rayjob: dict[str, Any]) -> None:
    [limit] = re.findall(r"-lt (\d+)", stop_hook(rayjob)[-1])
    assert 60 < int(limit) < GRACE_S


def test_a_repeated_rayjob_continues_its_run(rayjob: dict[str, Any]) -> None:
    words = shlex.split(rayjob["spec"]["entrypoint"])
    assert rayjob["spec"]["backoffLimit"] > 0
    assert words[words.index("--run-file") + 1] == f"s3://reid/runs/{rayjob['metadata']['name']}.run"
    command = words[words.index("orchestration") + 1 :]
    assert command.pop(0) == "train"
    TRAIN.parse([word for word in command if not word.startswith(("--result", "s3://reid/results"))])


def test_the_queue_has_room_and_a_priority_for_the_rayjob(rayjob: dict[str, Any], queue: list[Any]) -> None:
    """Kueue lets a job whose queue or priority class is missing wait for ever, without a word."""
    labels = rayjob["metadata"]["labels"]
    of_kind = {kind: [one for one in queue if one["kind"] == kind] for kind in {one["kind"] for one in queue}}
    [local] = of_kind["LocalQueue"]
    [whole] = of_kind["ClusterQueue"]
    assert labels["kueue.x-k8s.io/queue-name"] == local["metadata"]["name"]
    assert local["spec"]["clusterQueue"] == whole["metadata"]["name"]
    priorities = {one["metadata"]["name"]: one["value"] for one in of_kind["WorkloadPriorityClass"]}
    assert priorities[labels["kueue.x-k8s.io/priority-class"]] == max(priorities.values())
    flavors = {one["metadata"]["name"] for one in of_kind["ResourceFlavor"]}
    room: dict[str, int] = {}
    for group in whole["spec"]["resourceGroups"]:
        for flavor in group["flavors"]:
            assert flavor["name"] in flavors
            assert [one["name"] for one in flavor["resources"]] == group["coveredResources"]
            room |= {one["name"]: int(one["nominalQuota"].removesuffix("Gi")) for one in flavor["resources"]}
    asked: Counter[str] = Counter({"cpu": 1, "memory": 1})  # of the pod that submits the job
    cluster = rayjob["spec"]["rayClusterSpec"]
    for group, replicas in (
        (cluster["headGroupSpec"], 1),
        *((one, one["replicas"]) for one in cluster["workerGroupSpecs"]),
    ):
        [container] = group["template"]["spec"]["containers"]
        for name, amount in container["resources"]["requests"].items():
            asked[name] += replicas * int(str(amount).removesuffix("Gi"))
    assert asked.keys() == room.keys()
    assert all(asked[name] <= room[name] for name in room), (asked, room)
    assert rayjob["spec"]["shutdownAfterJobFinishes"] is True, "Kueue takes no other"
    assert "suspend" not in rayjob["spec"], "Kueue sets it; without Kueue such a job would never start"
