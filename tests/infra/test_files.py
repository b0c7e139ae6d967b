"""The files of infra/ and the cluster launcher's: valid for the tools that read them, as far as those can be asked here."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestration.cli.commands.train import TRAIN
from orchestration.signals import GRACE_S

ROOT = Path(__file__).resolve().parents[2]
INFRA = ROOT / "infra"
VERSIONS = dict(re.findall(r"^([A-Za-z0-9_.-]+)==([^\s;]+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
SECRETS = (
    "AWS_SECRET_ACCESS_KEY",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_ADMIN_PASSWORD",
    "MLFLOW_FLASK_SERVER_SECRET_KEY",
    "RAY_AUTH_TOKEN",
    "POSTGRES_PASSWORD",
    "GRAFANA_ADMIN_PASSWORD",
)
NEEDS = {  # the secrets of each service of the compose file
    "s3": {"AWS_SECRET_ACCESS_KEY"},
    "bucket": {"AWS_SECRET_ACCESS_KEY"},
    "postgres": {"POSTGRES_PASSWORD"},
    "mlflow": {
        "AWS_SECRET_ACCESS_KEY",
        "POSTGRES_PASSWORD",
        "MLFLOW_ADMIN_PASSWORD",
        "MLFLOW_FLASK_SERVER_SECRET_KEY",
    },
    "user": {"MLFLOW_ADMIN_PASSWORD", "MLFLOW_TRACKING_PASSWORD"},
    "head": {"AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD", "RAY_AUTH_TOKEN"},
    "worker": {"AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD", "RAY_AUTH_TOKEN"},  # a sweep's trials log there
    "prometheus": {"MLFLOW_TRACKING_PASSWORD"},
    "grafana": {"GRAFANA_ADMIN_PASSWORD"},
}


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


@pytest.fixture(scope="module")
def launcher() -> dict[str, Any]:
    return load(ROOT / "ray_cluster.yaml")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return load(INFRA / "compose.yaml")


@pytest.fixture(scope="module")
def rayjob() -> dict[str, Any]:
    return load(INFRA / "kubernetes" / "rayjob.yaml")


@pytest.fixture(scope="module")
def queue() -> list[Any]:
    return list(yaml.safe_load_all((INFRA / "kubernetes" / "queue.yaml").read_text()))


def environment_names() -> set[str]:
    text = (INFRA / "redress.env.example").read_text()
    return set(re.findall(r"^([A-Z_]+)=", text, re.MULTILINE))


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


def test_compose_asks_for_nothing_that_the_example_environment_lacks(compose: dict[str, Any]) -> None:
    used = set(re.findall(r"\$\{([A-Z_]+)", (INFRA / "compose.yaml").read_text()))
    assert used <= environment_names(), used - environment_names()


def test_compose_publishes_on_the_loopback_alone(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), f"{name} publishes {port}"


PINNED = re.compile(r"([a-z0-9./-]+):[a-z0-9.-]*[0-9][a-z0-9.-]*\$\{([A-Z]+_DIGEST)(:-)?\}")  # name:version${X_DIGEST}


def images_of_others(compose: dict[str, Any]) -> dict[str, str]:
    """Every image that is pulled, with the place that names it."""
    found = {
        service["image"]: f"service {name}"
        for name, service in compose["services"].items()
        if service["image"] not in ("redress", "redress-mlflow")
    }
    for file in sorted(INFRA.glob("*Dockerfile")):
        found |= dict.fromkeys(re.findall(r"^FROM (\S+)", file.read_text(), re.MULTILINE), file.name)
    return found


def test_every_image_of_others_has_a_version_and_takes_a_digest(compose: dict[str, Any]) -> None:
    images = images_of_others(compose)
    assert len(images) == 6
    names = {}
    for image, place in images.items():
        found = PINNED.fullmatch(image)
        assert found, f"{place}: {image} has no version, or no variable for a digest"
        names[found[2]] = place
    assert len(names) == 6, "each has its own variable"
    example = dict(re.findall(r"^([A-Z]+_DIGEST)=(.*)$", (INFRA / "redress.env.example").read_text(), re.MULTILINE))
    assert example.keys() == names.keys()
    assert all(re.fullmatch(r"(@sha256:[0-9a-f]{64})?", digest) for digest in example.values())
    for name, place in names.items():
        if place.endswith("Dockerfile"):
            assert re.search(rf"^ARG {name}=$", (INFRA / place).read_text(), re.MULTILINE), place
    given = [service["build"].get("args", {}) for service in compose["services"].values() if "build" in service]
    assert {name for one in given for name in one} == {n for n, place in names.items() if place.endswith("Dockerfile")}


def test_make_digests_prints_a_line_for_each_image(compose: dict[str, Any], tmp_path: Path) -> None:
    """Docker is a script that knows a digest for each name, as a registry does."""
    docker = tmp_path / "docker"
    answer = 'printf "sha256:"; printf %s "$4" | sha256sum | cut -c-64'
    docker.write_text(f'#!/bin/sh\n[ "$1 $2 $3" = "buildx imagetools inspect" ] || exit 9\n{answer}\n')
    docker.chmod(0o755)
    found = {image: PINNED.fullmatch(image) for image in images_of_others(compose)}
    expected = {
        one[2]: f"@sha256:{hashlib.sha256(image.partition('$')[0].encode()).hexdigest()}"
        for image, one in found.items()
        if one
    }
    environment = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["make", "-s", "digests"], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert dict(line.split("=", 1) for line in done.stdout.splitlines()) == expected
    docker.write_text("#!/bin/sh\nexit 1\n")
    assert subprocess.run(["make", "-s", "digests"], cwd=ROOT, env=environment, capture_output=True).returncode != 0


def test_each_compose_service_gets_its_secrets_alone(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        configs = [compose["configs"][entry["source"]] for entry in service.get("configs", ())]
        text = str([service, *configs])
        assert {secret for secret in SECRETS if f"{{{secret}" in text} == NEEDS[name], name


def test_no_address_of_compose_holds_a_password(compose: dict[str, Any]) -> None:
    """Some characters of a password would need to be encoded there, which compose cannot do."""
    assert not re.findall(r"://[^\s@]*\$\{[^\s@]*@", str(compose))


def test_compose_services_are_confined(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "cap_add" not in service, name
        assert not service.get("privileged"), name
    assert [name for name, service in compose["services"].items() if "tables" in service.get("networks", ())] == [
        "postgres",
        "mlflow",
    ]
    assert compose["services"]["postgres"]["networks"] == ["tables"]
    assert compose["networks"]["tables"]["internal"] is True


def test_only_s3_of_the_object_store_listens_beyond_its_container(compose: dict[str, Any]) -> None:
    bound = dict(re.findall(r"-(\S*ip\S*)=(\S+)", compose["services"]["s3"]["command"]))
    assert bound == {"ip": "127.0.0.1", "ip.bind": "127.0.0.1", "s3.ip.bind": "0.0.0.0"}


def test_compose_services_refer_to_what_is_there(compose: dict[str, Any]) -> None:
    names = set(compose["services"])
    for name, service in compose["services"].items():
        assert set(service.get("depends_on", ())) <= names, name
        assert {entry["source"] for entry in service.get("configs", ())} <= set(compose["configs"]), name
        assert {entry.split(":")[0] for entry in service.get("volumes", ())} <= set(compose["volumes"]), name
        assert set(service.get("networks", ())) <= set(compose["networks"]), name
        if "build" in service:
            context = (INFRA / service["build"]["context"]).resolve()
            assert (context / service["build"]["dockerfile"]).is_file(), name


def test_the_example_environment_holds_no_secret() -> None:
    text = (INFRA / "redress.env.example").read_text()
    for name in SECRETS:
        assert re.search(rf"^{name}=$", text, re.MULTILINE), f"{name} has a value"


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
