"""The files of a checkpoint that hold rows of tensors which are divided over workers (`methods.sharded`).

`model.<worker>.safetensors`, `optimizers.<worker>.safetensors`   the rows of a worker, named as in the files of all workers
`rows.<worker>.json`   what that worker has written; gone once `checkpoint.json` says it

Each worker writes its own rows, and reads the rows that it needs, whoever wrote them. No worker holds all of them.
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import astuple, dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from datasets.storage.store import Store
from methods.sharded.share import Rows
from orchestration.engine.snapshot import Snapshot
from orchestration.engine.strategies.strategy import OwnRows

WAIT_S = 1800.0  # for the slowest worker's file
LOOK_S = 0.01, 1.0  # between looks, at first and at most
CHUNK = 64 << 20  # bytes that are hashed at once

RowsByFile = dict[str, dict[str, Rows]]  # file → tensor → which of its rows are there


@dataclass(frozen=True)
class Written:
    """Row files and what is in them. digests: SHA-256, by file."""

    digests: dict[str, str]
    rows: RowsByFile


class OwnSnapshot:
    """This worker's rows at one moment, in memory that is kept from one checkpoint to the next."""

    def __init__(self) -> None:
        self.snapshot = Snapshot()
        self.rows: tuple[dict[str, Rows], dict[str, Rows]] = ({}, {})

    def take(self, own: OwnRows) -> None:
        """As `Snapshot.take`."""
        self.snapshot.take(own.state)
        self.rows = (own.model, own.optimizers)

    def write(self, store: Store, folder: str, files: tuple[str, str], worker: int) -> Written:
        """Write the rows to a checkpoint's folder. files: the names of those of all workers."""
        names = [file_of(name, worker) for name in files]
        contents = (self.snapshot.model.content, self.snapshot.optimizers.content)
        for name, content in zip(names, contents, strict=True):
            store.write(f"{folder}/{name}", content)
        digests = {name: hashlib.sha256(data).hexdigest() for name, data in zip(names, contents, strict=True)}
        return Written(digests, dict(zip(names, self.rows, strict=True)))


def file_of(name: str, worker: int) -> str:
    """`model.safetensors` → `model.3.safetensors`."""
    stem, _, suffix = name.rpartition(".")
    return f"{stem}.{worker}.{suffix}"


def common_id() -> str:
    """A new id that is the same on all workers, which call it together."""
    box = [uuid.uuid4().hex]
    if dist.is_initialized():
        dist.broadcast_object_list(box, src=0)
    return box[0]


def announce(store: Store, folder: str, worker: int, attempt: str, written: Written) -> None:
    """Tell worker 0 what this worker has written. attempt: an id of this checkpoint that no earlier attempt had."""
    described = {"attempt": attempt, "digests": written.digests, "rows": as_json(written.rows)}
    store.write(note_of(folder, worker), json.dumps(described).encode())


def collect(store: Store, folder: str, workers: int, attempt: str, wait_s: float = WAIT_S) -> Written:
    """Wait for the row files of all workers but 0. Raises: TimeoutError naming a worker that does not write."""
    digests: dict[str, str] = {}
    rows: RowsByFile = {}
    until, pause = time.monotonic() + wait_s, LOOK_S[0]
    for worker in range(1, workers):
        while (note := read_note(store, folder, worker)).get("attempt") != attempt:
            if time.monotonic() > until:
                raise TimeoutError(
                    f"{store.join(folder)}: worker {worker} has not written its rows of the classifiers in {wait_s:.0f} s"
                )
            time.sleep(pause)
            pause = min(2 * pause, LOOK_S[1])
        digests |= note["digests"]
        rows |= from_json(note["rows"])
    return Written(digests, rows)


def read_note(store: Store, folder: str, worker: int) -> dict[str, Any]:
    """What a worker announced; empty where it has not."""
    path = note_of(folder, worker)
    found: dict[str, Any] = json.loads(store.read(path)) if store.exists(path) else {}
    return found


def clear_notes(store: Store, folder: str, workers: int) -> None:
    for worker in range(1, workers):
        store.delete(note_of(folder, worker))


def note_of(folder: str, worker: int) -> str:
    return f"{folder}/rows.{worker}.json"


def as_json(rows: RowsByFile) -> dict[str, dict[str, list[int]]]:
    return {file: {name: list(astuple(one)) for name, one in tensors.items()} for file, tensors in rows.items()}


def from_json(described: Mapping[str, Mapping[str, list[int]]]) -> RowsByFile:
    """The inverse of `as_json`. Raises: ValueError, TypeError."""
    return {file: {name: rows_of(*one) for name, one in tensors.items()} for file, tensors in described.items()}


def rows_of(first: int, count: int, total: int) -> Rows:
    if not all(type(value) is int for value in (first, count, total)) or not 0 <= first <= first + count <= total:
        raise ValueError(f"rows {first}, {count} of {total}")
    return Rows(first, count, total)


def totals(rows: RowsByFile, file: str) -> dict[str, int]:
    """How many rows each tensor of `file` has that is divided over row files."""
    return {name: one.total for _, tensors in files_of(rows, file) for name, one in tensors.items()}


def files_of(rows: RowsByFile, file: str) -> Iterator[tuple[str, dict[str, Rows]]]:
    """The row files that belong to `file`, with what is in them."""
    stem = file.partition(".")[0]
    return ((name, tensors) for name, tensors in rows.items() if name.partition(".")[0] == stem)


def read_rows(
    rows: RowsByFile, file: str, wanted: Mapping[str, Rows], load: Callable[[str], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """The wanted rows of the tensors of `file` that are divided over row files, and the tensors there without rows.

    wanted: by tensor; others are left out. load: reads a row file; a file without a wanted row is not read, and one is in
    memory at a time. Raises: ValueError where a wanted row is in no file.
    """
    found: dict[str, Tensor] = {}
    missing = {name: one.count for name, one in wanted.items()}
    for name, there in files_of(rows, file):
        overlaps = {tensor: overlap(wanted[tensor], one) for tensor, one in there.items() if tensor in wanted}
        if not any(length for _, _, length in overlaps.values()):
            continue
        content = load(name)
        for tensor, (into, start, length) in overlaps.items():
            part, one = content[tensor], wanted[tensor]
            whole = found.setdefault(tensor, torch.empty(one.count, *part.shape[1:], dtype=part.dtype))
            whole[into : into + length] = part[start : start + length]
            missing[tensor] -= length
        found |= {tensor: value for tensor, value in content.items() if tensor not in there}
    for tensor, number in missing.items():
        if number:
            raise ValueError(f"{number} rows of {tensor} are in no file")
    return found


def overlap(wanted: Rows, there: Rows) -> tuple[int, int, int]:
    """(place in the wanted rows, place in those that are there, number) of the rows that both have."""
    low, high = max(wanted.first, there.first), min(wanted.end, there.end)
    return (low - wanted.first, low - there.first, high - low) if low < high else (0, 0, 0)


def digest(store: Store, path: str) -> str:
    """SHA-256 of a file, which need not fit into memory. Raises: StoreError."""
    tally, start, size = hashlib.sha256(), 0, store.size(path) or 0
    while start < size:
        tally.update(store.read(path, start, min(CHUNK, size - start)))
        start += CHUNK
    return tally.hexdigest()
