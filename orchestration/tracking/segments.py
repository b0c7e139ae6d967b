"""Append-only lists of JSON records in a store without append: segments `<folder>/<n>.jsonl`, of which the newest grows.

A segment has a header line, then a record per line. While it is small, it is rewritten as a whole and atomically, so a
reader never sees half a line, and lines that were read never change. A segment that was rewritten often is closed early:
all writes together are at most `MAX_AMPLIFICATION` times what the list holds.
"""

from __future__ import annotations

import json
import threading
import time
from typing import Any

from datasets.storage.store import Store

FLUSH_S = 1.0
LONGEST_WAIT_S = 5.0
SEGMENT_BYTES = 128 << 10
MAX_AMPLIFICATION = 4

Record = dict[str, Any]


class JournalError(RuntimeError):
    """The records in a run's storage are damaged or incomplete; the run cannot be resumed from them."""


class SegmentTakenError(RuntimeError):
    """Another process writes to the same list of records."""


def segment_path(folder: str, number: int) -> str:
    return f"{folder}/{number:06d}.jsonl"


def encode(record: Record) -> bytes:
    """One line. Floats are written with `repr`, so every float64 comes back bit for bit (NaN and infinities too)."""
    return json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes, address: str) -> Record:
    """Raises: JournalError that names the segment."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise JournalError(f"{address} is damaged ({error}). Restore the file, or start a new run.") from error
    if not isinstance(record, dict):
        raise JournalError(f"{address} is damaged: a line holds no record. Restore the file, or start a new run.")
    return record


class SegmentWriter:
    """Appends records and writes them from its own thread, or at once with `flush`, which any thread may call.

    The thread writes after `flush_s` seconds where that opens or doubles the segment, and after `LONGEST_WAIT_S` in any
    case. A new writer opens a new segment and never changes those of an earlier process.

    Raises (append, flush, close): StoreError where the store kept failing beyond its retries, SegmentTakenError where
    another process opened the next segment first. What was appended stays buffered, so a later `flush` may succeed.
    """

    def __init__(
        self, store: Store, folder: str, header: Record, *, flush_s: float = FLUSH_S, segment_bytes: int = SEGMENT_BYTES
    ) -> None:
        self.store, self.folder, self.flush_s, self.segment_bytes = store, folder, flush_s, segment_bytes
        self._header = encode(header)
        self._number = len(store.list(folder))
        self._content = bytearray(self._header)
        self._saved = len(self._header)  # bytes of the content that are in the store (a lone header need not be)
        self._written = 0  # bytes of this segment that were sent to the store, again and again
        self._opened = False
        self._failure: Exception | None = None
        self._guard = threading.Lock()
        self._writing = threading.Lock()
        self._pending, self._closed = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def append(self, record: Record) -> None:
        if self._failure is not None:
            raise self._failure
        line = encode(record)
        with self._guard:
            self._content += line
        self._pending.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._write_regularly, name=f"write {self.folder}", daemon=True)
            self._thread.start()

    def flush(self) -> None:
        """Write everything appended so far to the store."""
        with self._writing:
            self._write()

    def close(self) -> None:
        """Flush and end the thread."""
        self._closed.set()
        self._pending.set()
        if self._thread is not None:
            self._thread.join()
        self.flush()

    def _write_regularly(self) -> None:
        while not self._closed.is_set():
            self._pending.wait()
            since = time.monotonic()
            while not self._closed.wait(self.flush_s) and not self._is_due(time.monotonic() - since):
                pass
            if self._closed.is_set():
                return
            self._pending.clear()
            with self._writing:
                try:
                    self._write()
                except Exception as error:
                    self._failure = error  # raised by the next `append`, unless a `flush` succeeds before

    def _is_due(self, waited_s: float) -> bool:
        return not self._opened or waited_s >= LONGEST_WAIT_S or len(self._content) >= 2 * self._saved

    def _write(self) -> None:
        """Called with the lock `_writing`: an older content must not overwrite a newer one."""
        with self._guard:
            data = bytes(self._content)
        if len(data) > self._saved:
            self._write_segment(data)
        self._failure = None

    def _write_segment(self, data: bytes) -> None:
        path = segment_path(self.folder, self._number)
        if not self._opened and self.store.exists(path):
            raise SegmentTakenError(
                f"{self.store.join(path)} was written by another process during this run. Only one process may train a "
                "run: end the other, then resume."
            )
        self.store.write(path, data)
        self._opened, self._saved, self._written = True, len(data), self._written + len(data)
        # the next write is no shorter than this one, so the bound still holds after it
        if len(data) >= self.segment_bytes or self._written > (MAX_AMPLIFICATION - 1) * len(data):
            self._begin_segment(len(data))

    def _begin_segment(self, length: int) -> None:
        """Go on in a new segment with what follows the first `length` bytes."""
        with self._guard:
            self._content = bytearray(self._header) + self._content[length:]
        self._number, self._opened = self._number + 1, False
        self._saved, self._written = len(self._header), 0


class SegmentReader:
    """Reads a list of records from its start, and then the records added since the last call."""

    def __init__(self, store: Store, folder: str) -> None:
        self.store, self.folder = store, folder
        self._number, self._offset = 0, 0
        self._header: Record = {}

    def read_new(self) -> list[tuple[Record, Record]]:
        """(header of its segment, record) of every record added since the last call, in order."""
        found = self._read_segment()
        while self.store.exists(segment_path(self.folder, self._number + 1)):
            found += self._read_segment()  # it may have grown in between; now it is final
            self._number, self._offset = self._number + 1, 0
            found += self._read_segment()
        return found

    def _read_segment(self) -> list[tuple[Record, Record]]:
        path = segment_path(self.folder, self._number)
        size = self.store.size(path)
        if size is None or size <= self._offset:
            return []
        data = self.store.read(path, self._offset, size - self._offset)
        data = data[: data.rfind(b"\n") + 1]
        records = [decode(line, self.store.join(path)) for line in data.splitlines()]
        if self._offset == 0 and records:
            self._header = records.pop(0)
        self._offset += len(data)
        return [(self._header, record) for record in records]
