"""Errors that a command reports in one message, and the text of that message.

Errors of libraries become text here alone: of MLflow and the database behind it, of Ray, of ONNX Runtime, of archives and of a
full disk. What was being opened or done is known where it happens, and stands before this text.
"""

from __future__ import annotations

import errno
import re
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

from datasets.storage.address import without_secret

__all__ = [
    "RequestError",
    "ServiceUnavailableError",
    "UnreachableError",
    "cause",
    "first_line",
    "origin",
    "without_secret",
]


class RequestError(ValueError):
    """The request was wrong, and nothing was started: one message that says what to do, exit status 2."""


class UnreachableError(RequestError):
    """The tracking server does not answer, and nothing was started."""


class ServiceUnavailableError(RuntimeError):
    """MLflow was unavailable for longer than a command waits. The same request can succeed later."""


def first_line(error: Any) -> str:
    """The first line of an error's message, without secrets: clients quote the addresses that they were given."""
    text = without_secret(cause(error)).strip()
    return text.splitlines()[0] if text else type(error).__name__


def cause(error: Any) -> str:
    """The message of an error. Of a library's error: what happened, what it means and what to do."""
    error = origin(error)
    explain = LIBRARIES.get(type(error).__module__.partition(".")[0], str)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):  # the storage names its own address
        where = error.filename or f"probably the folder for temporary files ({tempfile.gettempdir()}) or the database's"
        return f"{error.strerror}: {where}. Free space there, then give the same command again"
    return explain(error)


def origin(error: Any) -> Any:
    """The error that a process on Ray raised, without what Ray put around it; any other error as it is."""
    while type(error).__module__.partition(".")[0] == "ray":
        failures = getattr(error, "worker_failures", None)  # of Ray Train: rank → error
        inner = most_telling(failures) if failures else None
        for name in ("cause", "controller_failure", "health_check_failure", "__cause__"):
            inner = inner or getattr(error, name, None)
        if not isinstance(inner, BaseException) or type(inner).__name__ == "UserCodeException":
            break  # Ray Data leaves of the error the text alone
        error = inner
    return error


def most_telling(failures: Mapping[int, Any]) -> Any:
    """Of the errors of a group's workers that of the lowest rank; a worker that ran out of memory comes first, and those who
    lost their connection to another last."""

    def place(rank: int) -> tuple[bool, bool, int]:
        error, text = origin(failures[rank]), str(failures[rank]).lower()
        is_of_torch = isinstance(error, RuntimeError) and type(error).__module__.partition(".")[0] in (
            "builtins",
            "torch",
        )
        return type(error).__name__ != "OutOfMemoryError", is_of_torch and "connection" in text, rank

    return failures[min(failures, key=place)]


def kind(error: Any, table: Mapping[str, str]) -> str | None:
    """The entry of a table that has the name of the error's class, or else of a class above it."""
    return next((table[one.__name__] for one in type(error).__mro__ if one.__name__ in table), None)


def told(what: str, meaning: str | None) -> str:
    return f"{what.rstrip('.')} ({meaning})" if meaning else what


# What SQLite says → what it means for a user. SQLAlchemy puts the statement and its parameters around it.
DATABASE = {
    "database is locked": "another process is writing to it. Try again, or end that process",
    "readonly database": "its file was deleted, replaced or write-protected. Restore it",
    "no such table": "its file was deleted, or is no MLflow database. Restore it",
    "unable to open database file": "its folder is missing or cannot be read. Check the address",
    "disk is full": "its disk is full. Free space there",
    "disk I/O error": "its file was deleted, or its disk fails. Restore it",
    "malformed": "its file is damaged. Restore it",
    "not a database": "its file is damaged or of another kind. Restore it",
}


def of_mlflow(error: Any) -> str:
    """The message of the database behind an error of MLflow or SQLAlchemy; else its own."""
    at = error
    while type(at).__module__.partition(".")[0] in ("mlflow", "sqlalchemy"):  # ours have their own words
        if (database := getattr(at, "orig", None)) is not None:
            return told(str(database), next((m for text, m in DATABASE.items() if text in str(database)), None))
        at = at.__cause__ or at.__context__
    return str(error)


# Classes of Ray's errors → what it means and what to do. Ray's own text is several lines of ids, or a traceback.
AGAIN = "Give the same command again: what was finished is kept"
ENDED = f"a process of the Ray cluster ended: it was killed, ran out of memory, or its machine was lost. {AGAIN}"
LOST = f"a machine of the Ray cluster was lost. {AGAIN}"
NO_ROOM = "the Ray cluster has no machine for a process of this size. Set workers or resources lower"
RAY = {
    "RayActorError": ENDED,
    "WorkerCrashedError": ENDED,
    "NodeDiedError": LOST,
    "ObjectLostError": LOST,
    "LocalRayletDiedError": f"Ray on this machine was ended. {AGAIN}",
    "OutOfMemoryError": "Ray ended a process, because its machine ran out of memory. Set batch.people, stream.cache_bytes or "
    "the number of workers on a machine lower",
    "ObjectStoreFullError": "Ray's object store is full. Set workers lower, or give the machine a larger /dev/shm",
    "OutOfDiskError": f"the disk of Ray's files is full. Free space in {tempfile.gettempdir()}. {AGAIN}",
    "ActorUnschedulableError": NO_ROOM,
    "TaskUnschedulableError": NO_ROOM,
    "RuntimeEnvSetupError": f"Ray could not give a process its code. {AGAIN}",
    "AuthenticationError": "the Ray cluster refused the token. Set RAY_AUTH_TOKEN to the cluster's",
    "GetTimeoutError": f"the Ray cluster did not answer in time. {AGAIN}",
    "RpcError": f"the Ray cluster did not answer. {AGAIN}",
}


CHAINED = "The above exception was the direct cause of the following exception"


def of_ray(error: Any) -> str:
    """What a class of Ray's errors means; else a line of Ray's text, of a traceback that which says what was raised."""
    if kind(error, {"RayTaskError": "its text is a traceback"}) or getattr(error, "_actor_init_failed", False):
        return raised_first(str(error))
    lines = [line.strip() for line in (kind(error, RAY) or str(error)).splitlines() if line.strip()]
    memory = re.search(
        r"Memory on the node \(IP: ([^,]+),.*?\) was (\S+) used / (\S+)", str(getattr(error, "message", ""))
    )
    more = f" ({memory[1]}: {memory[2]} of {memory[3]} used)" if memory else ""
    return lines[0] + more if lines else type(error).__name__


def raised_first(trace: str) -> str:
    """As in `ValueError: no such split`: the first line about the first exception of a traceback's text."""
    lines = trace.partition(CHAINED)[0].strip().splitlines()
    inside = [at for at, line in enumerate(lines) if line.startswith("  ")]
    found = lines[inside[-1] + 1 :] if inside else lines[-1:]
    return re.sub(r"^(\w+\.)+(?=\w+:)", "", (found or lines[-1:] or [""])[0].strip())


# Classes of ONNX Runtime's errors, which share no base class.
ONNX = {
    "InvalidProtobuf": "it is no ONNX file, or damaged. Export or copy it again",
    "InvalidGraph": "its graph is not valid. Export it again",
    "NoSuchFile": "a file of its weights is missing. Copy the .onnx.data file beside it",
    "NotImplemented": "this ONNX Runtime lacks one of its operators. Export it with another opset, or as .pt2",
    "InvalidArgument": "it takes other inputs. Export it for images [B, 3, H, W]",
}


def of_onnxruntime(error: Any) -> str:
    """ONNX Runtime puts its name, a number and the class before what it says."""
    said = str(error).rpartition("] : ")[2].partition(" : ")[2]
    said = (said.partition(" : ")[2] or said or str(error)).strip()
    return told(said.splitlines()[0] if said else type(error).__name__, kind(error, ONNX))


def of_an_archive(error: Any) -> str:
    return told(str(error), "the archive is damaged or cut short. Copy or export it again")


LIBRARIES: dict[str, Callable[[Any], str]] = {
    "mlflow": of_mlflow,
    "sqlalchemy": of_mlflow,
    "ray": of_ray,
    "onnxruntime": of_onnxruntime,
    "zipfile": of_an_archive,
    "tarfile": of_an_archive,
    "zlib": of_an_archive,
}
