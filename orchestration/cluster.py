"""The Ray cluster that a command runs on: the one it was started in or pointed at, else one of its own here."""

from __future__ import annotations

import functools
import logging
import os
import secrets
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestration import lost_cluster, numerics
from orchestration.addresses import cluster_address
from orchestration.errors import RequestError, first_line
from orchestration.signals import handlers_kept

if TYPE_CHECKING:
    from orchestration.config.settings import ResourceSettings

ROOT = Path(__file__).resolve().parents[1]
CODE = ("benchmarks", "datasets", "methods", "orchestration")  # what a node of another's cluster gets: their packages
RECIPES = "orchestration/experiments"
log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
ANSWER_S = 10.0
# Ray reads these when it is imported. What they silence says nothing about a run.
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # a process of each group's; the supervisor sees drains itself
}


class RayUnavailableError(RuntimeError):
    """No Ray cluster started or answered. Nothing was begun; the same command can succeed later."""


def connect(say: Callable[[str], None] | None = None) -> None:
    """Connect to Ray unless this process already is; `say` reports which one.

    Inside a job that is the job's cluster, which has this source tree already; with RAY_ADDRESS set it is the cluster
    there, and its workers get the code of this source tree as working directory. Otherwise a local cluster starts, on
    loopback and with a token of its own; it has a dashboard, without which Ray Train floods the log. Object-store keys are
    no part of this: each node has them in its environment.

    Raises: AddressError; RayUnavailableError where no cluster starts or answers.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    in_job, address = is_job(), check_address()
    check_answers()
    if not in_job and not address:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what fails is raised; the rest is Ray's own chatter
        # Otherwise Ray replaces 127.0.0.1 by the machine's address.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    import ray

    quiet_logs()
    if ray.is_initialized():
        return
    if say:
        say("connecting to Ray" if in_job or address else "starting Ray")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address and not in_job:
        options["runtime_env"] = {"working_dir": str(ROOT), "excludes": all_but_code(ROOT)}
    elif not in_job:
        options["runtime_env"] = {"env_vars": {"PYTHONPATH": python_path()}}
        options |= {"include_dashboard": True, "num_cpus": max(2, os.cpu_count() or 2), "_node_ip_address": LOOPBACK}
    if numerics.is_portable():
        environment = options.setdefault("runtime_env", {}).setdefault("env_vars", {})
        environment |= numerics.PORTABLE
    if address or in_job:
        join(options, address or "this job's address")
    else:
        start(options, say or log.warning)


def check_address() -> str | None:
    """RAY_ADDRESS; None where it is not set. Raises: AddressError."""
    address = os.environ.get("RAY_ADDRESS")
    return cluster_address(address, "RAY_ADDRESS") if address else None


def check_answers() -> None:
    """Check quickly that something listens at RAY_ADDRESS, where that counts: Ray tries for longer.

    Raises: AddressError; RayUnavailableError.
    """
    address = None if is_job() else check_address()
    if not address:
        return
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host:  # auto: Ray knows where
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_S).close()
    except (OSError, OverflowError) as error:
        raise unanswered(address, error) from error


def unanswered(address: str, error: Exception) -> RayUnavailableError:
    return RayUnavailableError(
        f"no Ray cluster answers at {address} ({first_line(error)}). Check RAY_ADDRESS and RAY_AUTH_TOKEN, or unset "
        "RAY_ADDRESS to use this machine."
    )


def join(options: Mapping[str, Any], address: str) -> None:
    """Raises: RayUnavailableError."""
    import ray

    try:
        with stderr_unless_it_fails(), handlers_kept():
            ray.init(**options)
    except Exception as error:  # another version, a wrong token: Ray raises its plainest classes
        raise unanswered(address, error) from error


def start(options: Mapping[str, Any], say: Callable[[str], None]) -> None:
    """Start a local cluster; where that fails, once more: on a busy machine Ray's limit of 30 s is short.

    Raises: RayUnavailableError.
    """
    import ray

    failure = attempt_start(options)
    if failure is None:
        watch_local()
        return
    say(f"Ray did not start ({reason(failure)}); starting it once more")
    ray.shutdown()
    failure = attempt_start(options)
    if failure is None:
        watch_local()
        return
    ray.shutdown()
    raise RayUnavailableError(
        f"Ray did not start on this machine in two attempts ({reason(failure)}). Free processors and memory, and try again; "
        f"Ray's logs are in {tempfile.gettempdir()}/ray/session_latest/logs."
    ) from failure


def attempt_start(options: Mapping[str, Any]) -> Exception | None:
    """Start a cluster, or return why none started. What Ray's processes write meanwhile is in its logs, too."""
    import ray

    with stderr_unless_it_fails(), handlers_kept(), apart_from_our_process_group():
        try:
            ray.init(**options)
        except Exception as error:  # Ray raises its plainest class
            return error
    return None


def watch_local() -> None:
    from ray._private import worker

    lost_cluster.watch(worker._global_node)


def reason(error: Exception) -> str:
    """One line: Ray's message may be the end of a log file."""
    text = str(error)
    return first_line(error) if "\n" not in text.strip() and text.strip() else "its dashboard was not ready in time"


def all_but_code(root: Path) -> list[str]:
    """Patterns as in a .gitignore that exclude everything in `root` but Python packages and recipes.

    Ray sends the rest of a working directory, and a checkout may hold private images and large files.
    """
    inner = [Path(folder) for name in CODE for folder, _, files in os.walk(root / name) if "__init__.py" in files]
    packages = sorted({*CODE, *(folder.relative_to(root).as_posix() for folder in inner)})
    recipes = [Path(folder).relative_to(root).as_posix() for folder, _, _ in os.walk(root / RECIPES)]
    allowed = [*packages, *recipes, *(f"{p}/*.py" for p in packages), *(f"{r}/*.yaml" for r in recipes)]
    return ["*", "!/.", "!/pyproject.toml", *(f"!/{path}" for path in allowed)]


@contextmanager
def apart_from_our_process_group() -> Iterator[None]:
    """Processes that Ray starts in this block do not get the signals that this process group gets.

    A terminal and a batch system signal the whole group. Ray would end before the checkpoint was written. Its processes still
    end with this one: the kernel tells them.
    """
    from ray._private import services

    theirs: Any = services.ConsolePopen
    setattr(services, theirs.__name__, functools.partial(theirs, process_group=0))
    try:
        yield
    finally:
        setattr(services, theirs.__name__, theirs)


@contextmanager
def stderr_unless_it_fails() -> Iterator[None]:
    """Keeps back what native code writes to descriptor 2, and shows it where the block raises."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        except BaseException:
            file.seek(0)
            os.write(kept, file.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def quiet_logs() -> None:
    """Silence Ray's controllers, which log each change of state: progress and journal report on a run."""
    for name in ("ray", "ray.train", "ray.data", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)


def python_path() -> str:
    """The repository root first: these folders are not installed, and one shares its name with a known library."""
    rest = os.environ.get("PYTHONPATH")
    return f"{ROOT}{os.pathsep}{rest}" if rest else str(ROOT)


def use_gpu(workers: int, resources: ResourceSettings) -> bool:
    """Whether each worker gets a GPU: as the experiment says; "auto" where the cluster has enough of them.

    Before a local cluster starts, its GPUs are those of this machine.
    """
    if resources.gpu != "auto":
        return bool(resources.gpu)
    ray = sys.modules.get("ray")  # importing it would fix settings that `connect` makes
    if ray is not None and ray.is_initialized():
        return total("GPU") >= workers
    import torch

    return torch.cuda.device_count() >= workers


def check_resources(workers: int, resources: ResourceSettings, say: Callable[[str], None]) -> None:
    """Raises RequestError where the connected cluster can never hold the workers: Ray itself would wait for ever.

    A cluster that this process did not start may grow on demand: then `say` reports that training waits for it.
    """
    needs = {"CPU": workers * resources.cpus}
    if use_gpu(workers, resources):
        needs["GPU"] = workers
    lacking = {resource: needed for resource, needed in needs.items() if needed > total(resource) + 1e-6}
    for resource, needed in lacking.items():
        found = f"{workers} workers need {needed:g} {resource}s, the Ray cluster has {total(resource):g}"
        if is_remote():
            say(f"{found} now: training starts when it has grown")
        else:
            raise RequestError(
                f"{found}. Set workers lower, resources.cpus to a fraction, or RAY_ADDRESS to a larger cluster."
            )


def is_on_loopback() -> bool:
    """Whether no other machine can reach the connected cluster."""
    import ray

    return {node["NodeManagerAddress"] for node in ray.nodes()} == {LOOPBACK}


def is_remote() -> bool:
    """Whether the cluster is one that this process does not start."""
    return is_job() or check_address() is not None


def is_job() -> bool:
    """Whether this process was started by `ray job submit`."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def total(resource: str) -> float:
    import ray

    return float(ray.cluster_resources().get(resource, 0))


def trials_that_fit(nodes: Sequence[Mapping[str, float]], needs: Mapping[str, float], workers: int) -> int:
    """How many groups of `workers` the nodes hold at once, each worker being on one node with all that it needs.

    More than these would wait for one another with half of their workers each, and none would ever start.
    """
    places = sum(min(int(node.get(name, 0) / need + 1e-6) for name, need in needs.items()) for node in nodes)
    return places // workers
