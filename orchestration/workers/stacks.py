"""Where a process stands: the stacks of its threads, its own or those of another process of the same machine."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
DUMP_S = 20.0  # of py-spy, which takes 0.1 s


class Stacks(NamedTuple):
    """text: of all threads. where: the innermost line of redress on the thread that trains, `path:line in function`."""

    text: str
    where: str


class Frame(NamedTuple):
    file: str
    line: int
    function: str


class NoStackError(RuntimeError):
    """Another process's stack could not be read. The message says why."""


def of_this_process(thread: int) -> Stacks:
    """thread: `threading.get_ident()` of the one that trains."""
    names = {one.ident: one.name for one in threading.enumerate()}
    frames = sys._current_frames()
    blocks = []
    for ident in sorted(frames, key=lambda ident: ident != thread):
        lines = "".join(traceback.format_stack(frames[ident])).rstrip()
        blocks.append(f"thread {names.get(ident, ident)!r}, innermost line last:\n{lines}\n")
    found = traceback.extract_stack(frames[thread]) if thread in frames else []
    return Stacks("\n".join(blocks), where([Frame(one.filename, one.lineno or 0, one.name) for one in reversed(found)]))


def of_process(pid: int, thread: int) -> Stacks:
    """Read by py-spy without stopping the process, which may be stopped already.

    thread: the system's id of the one that trains.
    Raises: NoStackError.
    """
    command = Path(sys.executable).with_name("py-spy")
    try:
        done = subprocess.run(
            [str(command), "dump", "--nonblocking", "--json", "--pid", str(pid)],
            capture_output=True,
            text=True,
            timeout=DUMP_S,
            check=False,
        )
    except FileNotFoundError as error:
        raise NoStackError(f"{command} is missing; it comes with ray[default]") from error
    except subprocess.TimeoutExpired as error:
        raise NoStackError(f"py-spy did not answer within {DUMP_S:.0f} s") from error
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise NoStackError(f"py-spy: {said[0] if said else f'exit status {done.returncode}'} (it needs SYS_PTRACE)")
    threads = sorted(json.loads(done.stdout), key=lambda one: thread not in (one["os_thread_id"], one["thread_id"]))
    return Stacks("\n".join(map(block_of, threads)), where(frames_of(threads[0])) if threads else "")


def block_of(thread: dict[str, Any]) -> str:
    lines = [f"  {one.file}:{one.line} in {one.function}" for one in frames_of(thread)]
    return "\n".join([f"thread {thread['thread_name']!r}, innermost line first:", *lines, ""])


def frames_of(thread: dict[str, Any]) -> list[Frame]:
    return [Frame(one["filename"], one["line"], one["name"]) for one in thread["frames"]]


def where(frames: Sequence[Frame]) -> str:
    """The innermost frame of redress, else the innermost. frames: innermost first."""
    for frame in frames:
        path = Path(frame.file)
        if path.is_relative_to(ROOT) and ".venv" not in path.parts:
            return f"{path.relative_to(ROOT)}:{frame.line} in {frame.function}"
    return f"{frames[0].file}:{frames[0].line} in {frames[0].function}" if frames else ""
