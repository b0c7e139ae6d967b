"""The cluster launcher's file, and what all ways of running on a cluster have in common."""

from __future__ import annotations

import os
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

from orchestration.signals import GRACE_S

ROOT = Path(__file__).resolve().parents[2]
INFRA = ROOT / "infra"
VERSIONS = dict(re.findall(r"^([A-Za-z0-9_.-]+)==([^\s;]+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE))


def test_ray_accepts_the_cluster_file(launcher: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(launcher)
    validate_config(config)
    assert config["available_node_types"]["head"]["max_workers"] == 0


def test_aws_accepts_every_node_type(launcher: dict[str, Any]) -> None:
    import botocore.session
    from botocore.validate import ParamValidator

    ec2 = botocore.session.get_session().get_service_model("ec2")
    shape = ec2.operation_model("RunInstances").input_shape
    for name, node in launcher["available_node_types"].items():
        report = ParamValidator().validate({"MinCount": 1, "MaxCount": 1, **node["node_config"]}, shape)
        assert not report.has_errors(), f"{name}: {report.generate_report()}"


def test_both_kinds_of_node_start_with_the_token_and_the_services_addresses(launcher: dict[str, Any]) -> None:
    for role in ("head", "worker"):
        start = launcher[f"{role}_start_ray_commands"][-1]
        assert "RAY_AUTH_MODE=token" in start
        assert ". ~/.redress.env" in start
    assert {"~/.ray/auth_token", "~/.redress.env"} <= set(launcher["file_mounts"])
    assert "--dashboard-host=127.0.0.1" in launcher["head_start_ray_commands"][-1]


def test_the_options_of_every_ray_start_exist(launcher: dict[str, Any], compose: dict[str, Any]) -> None:
    from ray.scripts.scripts import start

    known = {option for parameter in start.params for option in parameter.opts}
    commands = [launcher["head_start_ray_commands"][-1], launcher["worker_start_ray_commands"][-1]]
    commands += [service["command"] for service in compose["services"].values() if "ray start" in str(service)]
    assert len(commands) == 4
    for command in commands:
        words = shlex.split(command[command.index("ray start") :])
        unknown = {word.split("=")[0] for word in words if word.startswith("--")} - known
        assert not unknown, f"{command}: {unknown}"


def test_the_head_is_no_spot_instance_and_the_spot_workers_are(launcher: dict[str, Any]) -> None:
    [script] = re.findall(
        r"nohup ~/redress/(\S+) \$RAY_HEAD_IP:6379 .*& ray", launcher["worker_start_ray_commands"][-1]
    )
    assert os.access(ROOT / script, os.X_OK), "what tells Ray of a notice"
    types = launcher["available_node_types"]
    assert "InstanceMarketOptions" not in types[launcher["head_node_type"]]["node_config"]
    assert types["gpu-spot"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}


def test_what_the_image_copies_is_there() -> None:
    sources = re.findall(r"^COPY (.+) \S+$", (INFRA / "Dockerfile").read_text(), re.MULTILINE)
    names = {name for line in sources for name in line.split()}
    assert {"datasets", "methods", "orchestration", "requirements.lock", "pyproject.toml"} <= names
    allowed = (INFRA / "Dockerfile.dockerignore").read_text()
    for name in names:
        assert (ROOT / name).exists(), name
        assert f"!{name}\n" in allowed, f"{name} is not in the build's context"


def test_the_versions_named_are_the_locked_ones(rayjob: dict[str, Any]) -> None:
    assert rayjob["spec"]["rayClusterSpec"]["rayVersion"] == VERSIONS["ray"]
    text = (INFRA / "mlflow.Dockerfile").read_text()
    pins = dict(re.findall(r'"([a-z0-9-]+)(?:\[\w+\])?==([^"]+)"', text))
    names = ("mlflow", "pyarrow", "boto3", "psycopg", "prometheus-flask-exporter")
    assert pins == {name: VERSIONS[name] for name in names}
    assert len(pins) == len(re.findall(r'"[a-z0-9\[\]-]+[=><~]', text)), "all of them are pinned"


def test_every_way_leaves_a_driver_the_grace_for_its_checkpoint(
    launcher: dict[str, Any], compose: dict[str, Any], rayjob: dict[str, Any]
) -> None:
    name = "RAY_JOB_STOP_WAIT_TIME_S"  # 3 s, if it is not set
    assert re.findall(rf"{name}=(\d+)", launcher["head_start_ray_commands"][-1]) == ["100"]
    assert compose["services"]["head"]["environment"][name] == 100 < GRACE_S
    cluster = rayjob["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert group["template"]["spec"]["terminationGracePeriodSeconds"] == GRACE_S
        [container] = group["template"]["spec"]["containers"]
        times = {entry["name"]: int(entry["value"]) for entry in container["env"]}
        assert all(time < GRACE_S for time in times.values()), "what is left is Ray's own end"
    assert times["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"] > 0, "the workers live on until the driver has saved"
    batch = (INFRA / "slurm" / "redress.sbatch").read_text()
    assert f"#SBATCH --signal=B:TERM@{GRACE_S}\n" in batch
    assert f"{GRACE_S} s" in (INFRA / "README.md").read_text()


def test_every_object_store_is_small_and_fits_into_the_shared_memory(
    launcher: dict[str, Any], compose: dict[str, Any], rayjob: dict[str, Any]
) -> None:
    cluster = rayjob["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    sizes = {int(group["rayStartParams"]["object-store-memory"]) for group in groups}
    starts = [launcher["head_start_ray_commands"][-1], launcher["worker_start_ray_commands"][-1]]
    starts += [compose["services"][name]["command"] for name in ("head", "worker")]
    sizes |= {int(*re.findall(r"--object-store-memory=(\d+)", start)) for start in starts}
    sizes |= {int(*re.findall(r"^object_store=(\d+)$", (INFRA / "slurm/node.sh").read_text(), re.MULTILINE))}
    assert sizes == {2 << 30}
    for group in groups:
        [shared] = [volume for volume in group["template"]["spec"]["volumes"] if volume["name"] == "shm"]
        assert shared["emptyDir"] == {"medium": "Memory", "sizeLimit": "4Gi"}
        [container] = group["template"]["spec"]["containers"]
        assert {"name": "shm", "mountPath": "/dev/shm"} in container["volumeMounts"]
        assert int(container["resources"]["limits"]["memory"].removesuffix("Gi")) > 4, "it counts as memory"
    assert {compose["services"][name]["shm_size"] for name in ("head", "worker")} == {"4gb"}


def test_no_way_mixes_kinds_of_gpu(launcher: dict[str, Any], rayjob: dict[str, Any], queue: list[Any]) -> None:
    gpus = {
        node["node_config"]["InstanceType"] for name, node in launcher["available_node_types"].items() if name != "head"
    }
    assert len(gpus) == 1
    [workers] = rayjob["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    [kind] = [one["spec"] for one in queue if one["kind"] == "ResourceFlavor" and "spec" in one]
    assert workers["template"]["spec"]["nodeSelector"] == kind["nodeLabels"]
    assert kind["nodeLabels"].keys() == {"nvidia.com/gpu.product"}


def test_python_versions_of_images_and_nodes_are_supported() -> None:
    supported = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert supported == ">=3.11,<3.14", "Ubuntu 24.04 has Python 3.12, the MLflow image names 3.12: look at both"


def test_the_readme_knows_every_service_and_file(compose: dict[str, Any]) -> None:
    text = (INFRA / "README.md").read_text()
    files = (
        "compose.yaml",
        "ray_cluster.yaml",
        "kubernetes/rayjob.yaml",
        "kubernetes/queue.yaml",
        "slurm/redress.sbatch",
    )
    for file in (*files, "redress.env.example"):
        assert file in text
    for name in ("s3", "mlflow", "postgres", "head", "prometheus"):
        assert f"{name}:" in text, name
    assert "127.0.0.1:3000" in text
