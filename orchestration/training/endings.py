"""How a group of workers ended: it returned, failed for good, was lost or pre-empted, or found no room."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from datasets.storage.store import Store
from orchestration.errors import cause, first_line, origin
from orchestration.training.worker import FAILURE
from orchestration.workers.hang import Hangs

PEER_LOST = ("onnection closed by peer", "onnection reset by peer")  # gloo's and NCCL's words, with addresses around
CONTROLLER_LOST = "Ray Train's controller ended"


class End(Enum):
    RETURNED = auto()  # at the last epoch, or because the workers were asked to stop
    FAILED = auto()  # no other group would get further
    LOST = auto()
    PREEMPTED = auto()
    NO_ROOM = auto()  # others took the place before the workers had it


@dataclass(frozen=True)
class Failure:
    """What a run is reported to have failed of. may_resume: nothing of the run is wrong; the same may succeed later."""

    type: str
    message: str
    may_resume: bool = False


@dataclass(frozen=True)
class Ending:
    """returned: what rank 0 returned. failure: what went wrong. what: the same in the middle of a sentence."""

    end: End
    returned: dict[str, Any] | None = None
    failure: Failure | None = None
    what: str = ""


def ending_of(returned: dict[str, Any] | None, error: BaseException | None, store: Store, hangs: Hangs) -> Ending:
    """returned, error: of the group, one of them. What a worker recorded as final comes before Ray's error."""
    recorded = json.loads(store.read(FAILURE)) if error and store.exists(FAILURE) else (returned or {}).get("failure")
    if recorded:
        return Ending(End.FAILED, failure=Failure(recorded["type"], recorded["message"]))
    if error is None:
        return Ending(End.RETURNED, returned)
    return of_error(error, hangs)


def of_error(error: BaseException, hangs: Hangs) -> Ending:
    from ray.exceptions import RayActorError
    from ray.train import ControllerError, PreemptionError, WorkerGroupError

    failure = Failure(type(origin(error)).__name__, cause(error))
    if message := hangs.look():  # Ray's own words depend on which of its processes sees the end first
        return Ending(End.LOST, failure=Failure("the last attempt stood still", message), what=message.rstrip("."))
    if isinstance(error, PreemptionError):
        return Ending(End.PREEMPTED, failure=failure, what="a node was pre-empted")
    if isinstance(error, WorkerGroupError):
        return of_workers(error.worker_failures, failure)
    if isinstance(error, RayActorError):
        why = "it was killed, or the machine had no memory left."
        return Ending(End.LOST, failure=Failure(CONTROLLER_LOST, why), what=f"{CONTROLLER_LOST}: {why}")
    if isinstance(error, ControllerError):
        return of_controller(error.controller_failure, failure)
    return Ending(End.FAILED, failure=failure)


def of_workers(failures: dict[int, Exception], failure: Failure) -> Ending:
    """failures: by rank. The ends of processes come before what the others raised because of them."""
    from ray.exceptions import RayActorError

    inner = {rank: getattr(error, "health_check_failure", error) for rank, error in failures.items()}
    dead = {rank: error for rank, error in inner.items() if isinstance(error, RayActorError)}
    ranks = ", ".join(map(str, sorted(dead)))
    if any(error.preempted for error in dead.values()):
        return Ending(End.PREEMPTED, failure=failure, what=f"the node of rank {ranks} was pre-empted")
    if dead:
        what = f"rank {ranks} ended: killed, out of memory, or its node was lost"
        return Ending(End.LOST, failure=failure, what=what)
    rank = min(failures)
    said = first_line(failures[rank])
    if any(text in said for text in PEER_LOST):
        what = f"rank {rank} lost the connection to a worker that ended, or whose node was lost"
    else:
        what = f"rank {rank} stopped with {type(origin(failures[rank])).__name__}: {said}"
    return Ending(End.LOST, failure=failure, what=what)


def of_controller(failure: Exception, said: Failure) -> Ending:
    from ray.train.v2._internal import exceptions

    if isinstance(failure, exceptions.WorkerGroupStartupTimeoutError):
        return Ending(End.NO_ROOM, failure=said, what="the workers found no room in time")
    if isinstance(failure, exceptions.WorkerGroupStartupFailedError):
        return Ending(End.LOST, failure=said, what=f"the workers did not start: {first_line(failure)}")
    return Ending(End.FAILED, failure=said)
