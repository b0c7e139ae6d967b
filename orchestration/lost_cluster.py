"""A local Ray whose raylet or GCS ends, killed or out of memory. Ray would wait for ever, or end the process without a word."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

from orchestration.signals import GO_ON, Interruption, has_received, is_main_thread, number_of

WATCHED = {"raylet": "Ray's raylet", "gcs_server": "Ray's GCS server"}
EVERY_S = 0.2
SIGNAL = signal.SIGUSR2  # from the watching thread to the main one, which may be anywhere in Ray

_lost: list[str] = []


class ClusterLostError(RuntimeError):
    """A process without which the local Ray cannot work ended. The same request can succeed."""


class _ClusterLost(KeyboardInterrupt):
    """Ray passes on KeyboardInterrupt alone, and of that the class is lost."""


def is_lost() -> bool:
    """Whether Ray ended by itself. Where a signal ended this process as well, as Slurm sends it to all, that is the cause."""
    return bool(_lost) and not has_received()


def error_of(error: BaseException, how_to_go_on: str = GO_ON) -> BaseException:
    """`error`, or ClusterLostError where that is the cause of an interruption."""
    if isinstance(error, _ClusterLost) and has_received():
        return Interruption(number_of(error), f"interrupted. {GO_ON}")
    if not (is_lost() and isinstance(error, KeyboardInterrupt)):
        return error
    return ClusterLostError(f"{_lost[0]} ended: it was killed, or the machine had no memory left. {how_to_go_on}")


def watch(node: Any) -> None:
    """Interrupt the main thread when a process of `node` (Ray's own record of a local cluster) ends before the cluster does.

    On another thread than the main one, or without a node, this does nothing.
    """
    if node is None or not is_main_thread():
        return
    _lost.clear()
    signal.signal(SIGNAL, interrupt)
    is_over, main = threading.Event(), threading.get_ident()
    atexit.register(is_over.set)  # before Ray ends its processes: it registered earlier

    def look() -> None:
        while not is_over.wait(EVERY_S) and not _lost and is_current(node):
            ended = [WATCHED[kind] for kind, _ in node.dead_processes() if kind in WATCHED]
            if ended and is_current(node) and not is_over.is_set():
                _lost.append(ended[0])
                signal.pthread_kill(main, SIGNAL)

    threading.Thread(target=look, name="watch Ray", daemon=True).start()


def interrupt(number: int, frame: FrameType | None) -> None:
    if _lost:
        raise _ClusterLost


def is_current(node: Any) -> bool:
    """Whether the cluster of this node was not shut down."""
    from ray._private import worker

    return worker._global_node is node


def leave(status: int) -> None:
    """End this process, if its cluster is lost, with what is left of that: Ray's own way out waits for the lost process."""
    if not _lost:
        return
    from ray._private import worker

    sys.stdout.flush()
    sys.stderr.flush()
    if worker._global_node is not None:
        worker._global_node.kill_all_processes(check_alive=False, allow_graceful=False)
    os._exit(status)
