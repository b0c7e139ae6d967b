"""The Ray cluster that a command runs on: the one it was started in or pointed at, else one of its own on this machine."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
EXCLUDES = [".venv", ".git", "runs", "demo", "build"]


def connect() -> None:
    """Connect to Ray unless this process already is.

    Inside a job that is the job's cluster, which has this source tree already; with RAY_ADDRESS set it is the cluster
    there, and its workers get this source tree as working directory. Otherwise a local cluster starts, with its dashboard
    (without it Ray Train floods the log). Object-store keys are no part of this: each node has them in its environment.
    """
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    import ray

    if ray.is_initialized():
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        ray.init(**quiet)
    elif os.environ.get("RAY_ADDRESS"):
        ray.init(runtime_env={"working_dir": str(ROOT), "excludes": EXCLUDES}, **quiet)
    else:
        runtime_env = {"env_vars": {"PYTHONPATH": python_path()}}
        ray.init(runtime_env=runtime_env, include_dashboard=True, num_cpus=max(2, os.cpu_count() or 2), **quiet)


def python_path() -> str:
    """The repository root first: these folders are not installed, and one shares its name with a known library."""
    rest = os.environ.get("PYTHONPATH")
    return f"{ROOT}{os.pathsep}{rest}" if rest else str(ROOT)
