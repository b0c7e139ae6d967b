"""What the files of infra/ and the cluster launcher's say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
INFRA = ROOT / "infra"


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
