"""The files of infra/ and the cluster launcher's: valid for the tools that read them, as far as those can be asked here."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

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


def test_python_versions_of_images_and_nodes_are_supported() -> None:
    supported = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert supported == ">=3.11,<3.14", "Ubuntu 24.04 has Python 3.12, the MLflow image names 3.12: look at both"


def test_the_readme_knows_every_service_and_file(compose: dict[str, Any]) -> None:
    text = (INFRA / "README.md").read_text()
    for file in ("compose.yaml", "ray_cluster.yaml", "kubernetes/rayjob.yaml", "redress.env.example"):
        assert file in text
    for name in ("s3", "mlflow", "postgres", "head"):
        assert f"{name}:" in text, name
