"""Puts the repository root first on sys.path, as the `redress` command does, and holds the session's Ray cluster."""

from __future__ import annotations

import functools
import logging
import os
import re
import secrets
import sys
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parents[1]
if sys.path[0] != str(ROOT):
    sys.path.insert(0, str(ROOT))

from orchestration import numerics  # noqa: E402  (of this tree; it imports no torch)

numerics.use("portable")  # so that numbers are the same on all machines

# Machines are shared: an example may take any time. One profile for every @given.
settings.register_profile("redress", deadline=None)
settings.load_profile("redress")

# Ray reads its authentication when it is imported, so this stands before any test module. With a token of our own in
# the environment it neither looks for one in the home directory nor writes one there.
os.environ |= {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else a FutureWarning from every process without a GPU
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # workers stay where relative addresses were written
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.3",  # each fit() ends up to 4 s sooner than with the default of 2 s
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # no cloud takes these machines back: a process less in each fit()
}
os.environ.pop("RAY_ADDRESS", None)
os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # two processes of tests with a thread per core each stand in each other's way


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """As `--dist loadfile`, but one process runs every file that uses the Ray cluster: starting a second costs more."""
    from xdist.scheduler import LoadFileScheduling

    class OneCluster(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = config.rootpath / nodeid.partition("::")[0]
            return "ray" if uses_ray(file) else str(file)

    return OneCluster(config, log) if config.getoption("dist") == "loadfile" else None


@functools.cache
def uses_ray(file: Path) -> bool:
    return bool(re.search(r'\bray_cluster: str|"ray_cluster"', file.read_text(encoding="utf-8")))


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, Any, Any]:
    """A test of a golden case runs inside `golden.judging`."""
    golden = sys.modules.get("tests.golden")  # loaded where a test uses it
    parameters = list(pyfuncitem.callspec.params.values()) if hasattr(pyfuncitem, "callspec") else []
    case = next((value for value in parameters if golden and isinstance(value, golden.Case)), None)
    if not golden or case is None:
        return (yield)
    result = True  # called, where an error was allowed
    of_a_part = any(isinstance(value, str) and value in case.expected for value in parameters)
    with golden.judging(case, of_a_part=of_a_part):
        result = yield
    return result


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[str]:
    """A local Ray of 4 CPUs (give workers fractions of one), started once for the session; yields its address.

    It has a dashboard (helpers of Train and Tune ask its state API) and is quiet: what workers print goes only to the
    logs in the session's folder.
    """
    import ray

    from tests.servers.process import free_port

    with tempfile.TemporaryDirectory(prefix="r", ignore_cleanup_errors=True) as folder:  # sockets need a short path
        ray.init(
            address="local",
            num_cpus=4,
            object_store_memory=256 << 20,
            include_dashboard=True,
            dashboard_port=free_port(),
            log_to_driver=False,
            logging_level=logging.ERROR,
            _temp_dir=folder,
        )
        yield ray.get_runtime_context().gcs_address
        ray.shutdown()
