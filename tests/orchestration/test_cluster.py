"""Processes on the cluster run our code: `datasets` is ours, also where a library of that name is installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.ray
@pytest.mark.timeout(300)
def test_tasks_and_train_workers_import_our_datasets(ray_cluster: str, installed: Path, tmp_path: Path) -> None:
    import datasets
    import orchestration

    told = json.loads(in_a_process(TELL_FROM_WORKERS, installed, str(tmp_path / "train"), RAY_ADDRESS=ray_cluster))
    ours = [datasets.__doc__, orchestration.__doc__, str(installed.parent / "site-packages")]
    assert told == {"driver": ours, "task": ours, "train worker": ours}
