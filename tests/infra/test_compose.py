"""The compose file: what each service gets, where it listens, and what it refers to."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
INFRA = ROOT / "infra"
PINNED = re.compile(r"([a-z0-9./-]+):[a-z0-9.-]*[0-9][a-z0-9.-]*\$\{([A-Z]+_DIGEST)(:-)?\}")  # name:version${X_DIGEST}
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


def environment_names() -> set[str]:
    text = (INFRA / "redress.env.example").read_text()
    return set(re.findall(r"^([A-Z_]+)=", text, re.MULTILINE))


def test_compose_asks_for_nothing_that_the_example_environment_lacks(compose: dict[str, Any]) -> None:
    used = set(re.findall(r"\$\{([A-Z_]+)", (INFRA / "compose.yaml").read_text()))
    assert used <= environment_names(), used - environment_names()


def test_compose_publishes_on_the_loopback_alone(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), f"{name} publishes {port}"


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
