"""A process of a local Ray that ends is an error of the main thread, which may be waiting anywhere."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from orchestration import lost_cluster
from orchestration.lost_cluster import ClusterLostError, error_of, is_lost, watch
from orchestration.signals import Interruption, first_signal_noted, forget, handlers_kept


class Node:
    """What Ray knows of a local cluster: here processes that sleep."""

    def __init__(self, *kinds: str) -> None:
        command = [sys.executable, "-c", "import time; time.sleep(60)"]
        self.processes = {kind: subprocess.Popen(command) for kind in kinds}

    def dead_processes(self) -> list[tuple[str, subprocess.Popen[bytes]]]:
        return [(kind, process) for kind, process in self.processes.items() if process.poll() is not None]


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    found = Node("gcs_server", "raylet", "dashboard")
    monkeypatch.setattr(lost_cluster, "is_current", lambda node: node is found)
    before = signal.getsignal(lost_cluster.SIGNAL)
    forget()
    with handlers_kept():
        watch(found)
        yield found
    monkeypatch.setattr(lost_cluster, "is_current", lambda node: False)
    signal.signal(lost_cluster.SIGNAL, before)
    lost_cluster._lost.clear()
    for process in found.processes.values():
        process.kill()
        process.wait()


@pytest.mark.parametrize(("kind", "name"), [("raylet", "Ray's raylet"), ("gcs_server", "Ray's GCS server")])
def test_a_lost_process_interrupts_the_main_thread_and_is_named(node: Node, kind: str, name: str) -> None:
    node.processes[kind].kill()
    with pytest.raises(KeyboardInterrupt) as caught:
        time.sleep(30)
    assert is_lost()
    error = error_of(caught.value, "Go on.")
    assert isinstance(error, ClusterLostError)
    assert str(error) == f"{name} ended: it was killed, or the machine had no memory left. Go on."
    assert isinstance(error_of(KeyboardInterrupt()), ClusterLostError), "as Ray passes it on"


def test_a_signal_to_all_processes_is_an_interruption_and_no_loss(node: Node) -> None:
    """As Slurm ends a job: Ray's processes are gone, and this one was asked to end."""
    with first_signal_noted():
        os.kill(os.getpid(), signal.SIGTERM)
        node.processes["raylet"].kill()
        with pytest.raises(KeyboardInterrupt) as caught:
            time.sleep(30)
    assert not is_lost()
    error = error_of(caught.value)
    assert isinstance(error, Interruption)
    assert error.number == signal.SIGTERM
    forget()


def test_other_processes_and_other_errors_are_no_loss(node: Node) -> None:
    node.processes["dashboard"].kill()
    time.sleep(1)
    assert not is_lost()
    interruption, failure = Interruption(signal.SIGTERM, "x"), ValueError("y")
    assert error_of(interruption) is interruption
    lost_cluster._lost.append("Ray's raylet")
    assert error_of(failure) is failure
