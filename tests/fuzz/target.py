"""A target of fuzzing, and the one property that every input of it has."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from datasets.errors import CorruptData, DataError
from datasets.images.decode import DecodeError
from datasets.storage.store import StoreError
from orchestration.engine.checkpoint import CorruptCheckpointError
from orchestration.errors import RequestError
from orchestration.tracking.journal import ReplayMismatch
from orchestration.tracking.segments import JournalError

OURS = (
    RequestError, DataError, CorruptData, StoreError, DecodeError, CorruptCheckpointError, JournalError, ReplayMismatch,
)  # fmt: skip
SECONDS = 10  # of CPU time, for one input
PEAK_BYTES = 512 << 20  # by which one input may raise the process's peak of memory
OUT = "out"  # the only folder in which a call may write


@dataclass(frozen=True)
class Case:
    """An input that is ready. call: the function that users reach, with its own checks where the input is accepted.

    told: groups of words; the message of a refusal has at least one of each.
    """

    call: Callable[[], object]
    told: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Target:
    """inputs: plain JSON, so that a failure can be kept as a file. prepare: writes an input's files into the given folder."""

    inputs: st.SearchStrategy[Any]
    prepare: Callable[[Any, Path], Case]


def judge(target: Target, given: Any, room: Path) -> bool:
    """True where the input is accepted, False where one of our errors refuses it. room: a folder that is emptied.

    Raises: AssertionError where the message, time, memory or files are wrong; whatever else the call raises.
    """
    shutil.rmtree(room, ignore_errors=True)
    for name in ("given", "here", OUT):
        (room / name).mkdir(parents=True)
    case = target.prepare(given, room / "given")
    files, begun, peak = snapshot(room), time.process_time(), peak_bytes()
    refusal = None
    with contextlib.chdir(room / "here"):
        try:
            case.call()
        except OURS as error:
            refusal = str(error)
    seconds, grown = time.process_time() - begun, peak_bytes() - peak
    assert seconds <= SECONDS, f"took {seconds:.0f} s"
    assert grown <= PEAK_BYTES, f"took {grown >> 20} MiB"
    assert snapshot(room) == files, f"wrote {sorted(set(snapshot(room)) ^ set(files))}"
    for words in case.told if refusal is not None else ():
        assert any(word in str(refusal) for word in words), f"says none of {words}: {refusal}"
    return refusal is None


def snapshot(room: Path) -> dict[str, tuple[int, int]]:
    """Every file and folder but those in OUT, with size and time of change. Reading changes none."""
    found = {}
    for folder, folders, files in os.walk(room):
        if folder == str(room):
            folders.remove(OUT)
        for name in (*folders, *files):
            about = os.lstat(path := os.path.join(folder, name))
            found[path] = about.st_size, about.st_mtime_ns
    return found


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
