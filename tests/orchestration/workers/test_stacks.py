"""The stacks of this process, of a stopped one, and why one cannot be read."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from orchestration.workers import stacks
from orchestration.workers.stacks import Frame, NoStackError, of_process, of_this_process, where

SUBJECT = """
import sys

def stand():
    print("here", flush=True); sys.stdin.read()

stand()
"""


def test_where_is_the_innermost_line_of_redress() -> None:
    ours, library = Frame(f"{stacks.ROOT}/datasets/x.py", 7, "read"), Frame("/usr/lib/socket.py", 9, "recv")
    assert where([library, ours, Frame(f"{stacks.ROOT}/methods/y.py", 8, "f")]) == "datasets/x.py:7 in read"
    assert where([library]) == "/usr/lib/socket.py:9 in recv"
    assert where([Frame(f"{stacks.ROOT}/.venv/lib/torch.py", 3, "g"), ours]) == "datasets/x.py:7 in read"
    assert where([]) == ""


def test_the_thread_that_trains_stands_first_in_the_stacks_of_this_process() -> None:
    go_on = threading.Event()
    other = threading.Thread(target=go_on.wait, name="another")
    other.start()
    found = of_this_process(threading.get_ident())
    go_on.set()
    other.join()
    first, _, rest = found.text.partition("\n\n")
    assert "test_the_thread_that_trains_stands_first" in first
    assert "thread 'another'" in rest
    assert found.where.startswith("orchestration/workers/stacks.py:")


def test_the_stack_of_a_stopped_process_is_read(tmp_path: Path) -> None:
    script = tmp_path / "subject.py"
    script.write_text(SUBJECT)
    with subprocess.Popen(
        [sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        found = of_process(process.pid, process.pid)
        process.kill()
    assert found.where == f"{script}:5 in stand"
    assert f"  {script}:7 in <module>" in found.text


def test_a_stack_that_cannot_be_read_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    with pytest.raises(NoStackError, match="py-spy: "):
        of_process(gone.pid, gone.pid)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(NoStackError, match=r"py-spy is missing; it comes with ray\[default\]"):
        of_process(1, 1)
