"""Processes on the cluster run our code: `datasets` is ours, also where a library of that name is installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestration import cluster
from orchestration.config.load import load
from orchestration.training.train import train
from tests.servers.process import free_port
from tests.tiny import tiny_dataset

ROOT = Path(__file__).resolve().parents[2]
TELL_FROM_WORKERS = """
import json, sys
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
import ray
from orchestration import cluster

def which(_=None):
    import datasets, orchestration
    return [datasets.__doc__, orchestration.__doc__, sys.path[-1]]

environment = {"env_vars": {"PYTHONPATH": sys.argv[1]}}
cluster.connect()
told = {"driver": which(), "task": ray.get(ray.remote(which).options(runtime_env=environment, num_cpus=0.5).remote())}
trainer = TorchTrainer(
    which,
    train_loop_config={},
    scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": 0.5}),
    run_config=RunConfig(storage_path=sys.argv[2], worker_runtime_env=environment),
)
told["train worker"] = trainer.fit().return_value
print(json.dumps(told))
"""


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder for PYTHONPATH that puts a library called `datasets` where site-packages are: last on sys.path."""
    library = tmp_path / "site-packages" / "datasets"
    library.mkdir(parents=True)
    (library / "__init__.py").write_text('"""The library."""\n')
    start = tmp_path / "start"
    start.mkdir()
    (start / "sitecustomize.py").write_text(f"import sys\nsys.path.append({str(library.parent)!r})\n")
    return start


def in_a_process(code: str, installed: Path, *words: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, str(installed), *words],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(installed)} | environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_the_library_is_found_where_ours_is_not(installed: Path) -> None:
    """So that the next test can fail."""
    found = in_a_process("import sys; sys.path.remove(''); import datasets; print(datasets.__doc__)", installed)
    assert found == "The library."


def test_only_code_travels_to_a_cluster_of_others(tmp_path: Path) -> None:
    """Ray's own packaging of a checkout that somebody works in."""
    from ray._private.runtime_env.packaging import create_package

    root = tmp_path / "checkout"
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for name in tracked:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    private = ["private.jpg", "datasets/face.png", "datasets/people/face", "datasets/people/names.yaml", "notes.py"]
    private += [
        "orchestration/experiments/face.jpg",
        "methods/weights.safetensors",
        ".env",
        "infra/.env",
        "runs/a/journal",
    ]
    for name in private:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"private")
    with open(root / "large.bin", "wb") as file:
        file.truncate(1 << 30)  # a hole: it takes no room on the disk
    new = [
        "methods/new.py",
        "orchestration/experiments/new-demo.yaml",
        "datasets/new/__init__.py",
        "datasets/new/read.py",
    ]
    for name in new:
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("# written today")

    package = tmp_path / "package.zip"
    create_package(str(root), package, include_gitignore=True, excludes=cluster.all_but_code(root))
    packed = {name for name in zipfile.ZipFile(package).namelist() if not name.endswith("/")}
    code = {name for name in tracked if name.startswith(tuple(f"{folder}/" for folder in cluster.CODE))}
    assert packed == {name for name in code if name.endswith((".py", ".yaml"))} | {*new, "pyproject.toml"}


class Starts:
    """Stands for ray.init: fails with these errors, one after another, then starts."""

    def __init__(self, *errors: Exception) -> None:
        self.errors, self.calls = list(errors), 0

    def __call__(self, **options: Any) -> None:
        self.calls += 1
        os.write(2, b"what Ray's processes write\n")
        if self.errors:
            raise self.errors.pop(0)


LATE = Exception("The current node timed out during startup. This could happen because …")
LOG_LINES = Exception("\n" + "\n".join(f"2026-01-01 INFO head.py:{line} -- started a module" for line in range(20)))


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Starts]:
    def fail(*errors: Exception) -> Starts:
        made = Starts(*errors)
        monkeypatch.setattr("ray.init", made)
        monkeypatch.setattr("ray.shutdown", lambda: None)
        return made

    return fail


def test_a_late_start_of_ray_is_tried_once_more(
    starts: Callable[..., Starts], capfd: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []
    made = starts(LATE)
    cluster.start({}, said.append)
    assert made.calls == 2
    assert said == [f"Ray did not start ({LATE}); starting it once more"]
    assert capfd.readouterr().err == "", "nor does Ray's own output of the first attempt"


def test_ray_that_never_starts_is_one_sentence(
    starts: Callable[..., Starts], capfd: pytest.CaptureFixture[str]
) -> None:
    made = starts(LOG_LINES, LOG_LINES, LOG_LINES)
    with pytest.raises(cluster.RayUnavailableError) as found:
        cluster.start({}, print)
    assert made.calls == 2
    assert "in two attempts (its dashboard was not ready in time). Free processors and memory" in str(found.value)
    assert "\n" not in str(found.value)
    assert capfd.readouterr().err == ""


def test_a_cluster_that_does_not_answer_is_named(starts: Callable[..., Starts]) -> None:
    made = starts(ConnectionError("ray client could not connect\nand much more"))
    with pytest.raises(
        cluster.RayUnavailableError, match=r"no Ray cluster answers at 10\.0\.0\.1:6379 \(ray client could"
    ):
        cluster.join({}, "10.0.0.1:6379")
    assert made.calls == 1


ASK = """
import json, time
from orchestration import cluster
from orchestration.cli.main import failure
begun = time.monotonic()
try:
    cluster.connect(lambda text: None)
except Exception as error:
    print(json.dumps([failure(error), time.monotonic() - begun]))
"""


def test_an_address_that_nobody_answers_at_is_told_at_once(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    told, seconds = json.loads(in_a_process(ASK, tmp_path, RAY_ADDRESS=address))
    assert told["status"] == 1
    assert told["error"]["type"] == "RayUnavailableError"
    assert told["error"]["message"].startswith(f"no Ray cluster answers at {address} ([Errno 111] Connection refused)")
    assert seconds < 10, "before Ray is asked"


@pytest.mark.parametrize("address", ["nowhere.invalid:6379", "ray://127.0.0.1:99999"])
def test_hosts_and_ports_that_do_not_exist_are_told(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(cluster.RayUnavailableError, match=f"no Ray cluster answers at {address}"):
        cluster.check_answers()


def test_training_creates_nothing_where_no_cluster_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free_port()}")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    data = tiny_dataset(tmp_path / "data", persons=16)
    words = [
        f"data={data}",
        f"storage={tmp_path / 'runs'}",
        "augment.height=32",
        "augment.width=16",
        "method.width=0.125",
    ]
    with pytest.raises(cluster.RayUnavailableError, match="no Ray cluster answers"):
        train(load("baseline-demo", words))
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_an_address_that_is_none_is_a_wrong_request(tmp_path: Path) -> None:
    told, _ = json.loads(in_a_process(ASK, tmp_path, RAY_ADDRESS="http://127.0.0.1:8265"))
    assert told["status"] == 2
    assert "`ray job submit`" in told["error"]["message"]


def test_another_error_of_ray_while_connecting_is_told_with_the_address(starts: Callable[..., Starts]) -> None:
    starts(RuntimeError("Version mismatch: the cluster has Ray 1\nand much more"))
    with pytest.raises(
        cluster.RayUnavailableError, match=r"at 10\.0\.0\.1:6379 \(Version mismatch: the cluster has Ray 1\)"
    ):
        cluster.join({}, "10.0.0.1:6379")


@pytest.mark.ray
@pytest.mark.timeout(300)
def test_tasks_and_train_workers_import_our_datasets(ray_cluster: str, installed: Path, tmp_path: Path) -> None:
    import datasets
    import orchestration

    told = json.loads(in_a_process(TELL_FROM_WORKERS, installed, str(tmp_path / "train"), RAY_ADDRESS=ray_cluster))
    ours = [datasets.__doc__, orchestration.__doc__, str(installed.parent / "site-packages")]
    assert told == {"driver": ours, "task": ours, "train worker": ours}
