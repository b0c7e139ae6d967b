"""Segments: append-only lists of records that a reader follows, whatever the store and other processes do."""

from __future__ import annotations

import json
import math
import struct
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.storage.store import Store, StoreError, open_store
from orchestration.tracking import segments
from orchestration.tracking.segments import (
    MAX_AMPLIFICATION,
    JournalError,
    SegmentReader,
    SegmentTakenError,
    SegmentWriter,
    encode,
    segment_path,
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "run"))


@settings(max_examples=200)
@given(st.floats(allow_nan=True, allow_infinity=True))
def test_every_float_comes_back_bit_for_bit(value: float) -> None:
    back = json.loads(encode({"value": value}))["value"]
    assert math.isnan(back) if math.isnan(value) else struct.pack("<d", back) == struct.pack("<d", value)


def test_a_reader_that_follows_sees_each_record_once_over_many_segments(store: Store) -> None:
    writer = SegmentWriter(store, "list", {"who": 1}, segment_bytes=200)
    reader = SegmentReader(store, "list")
    seen = []
    for number in range(60):
        writer.append({"step": number})
        if number % 3 == 0:
            writer.flush()
        if number % 7 == 0:
            seen += reader.read_new()
    writer.close()
    seen += reader.read_new()
    assert [record["step"] for _, record in seen] == list(range(60))
    assert all(header == {"who": 1} for header, _ in seen)
    assert len(store.list("list")) > 3
    assert reader.read_new() == []


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of each write to any store from now on."""
    written: list[int] = []
    write = Store.write

    def counting(self: Store, path: str, data: bytes) -> None:
        written.append(len(data))
        write(self, path, data)

    monkeypatch.setattr(Store, "write", counting)
    return written


def stored_bytes(store: Store) -> int:
    return sum(store.size(path) or 0 for path in store.list("list"))


@pytest.mark.parametrize("record", [1, 700, 5_000])
def test_all_writes_are_a_bounded_multiple_of_the_list(
    record: int, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each record is written at once, as at one slow step a flush."""
    written = counted(monkeypatch)
    writer = SegmentWriter(store, "list", {"who": 1}, flush_s=60)
    for step in range(100):
        writer.append({"step": step, "text": "x" * record})
        writer.flush()
        assert sum(written) <= MAX_AMPLIFICATION * stored_bytes(store)
    writer.close()
    assert [found["step"] for _, found in SegmentReader(store, "list").read_new()] == list(range(100))


def test_a_steady_list_has_large_segments_and_few_writes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread waits until a write doubles the segment: a step a second (here: a hundredth) of 700 bytes."""
    written = counted(monkeypatch)
    writer = SegmentWriter(store, "list", {"who": 1}, flush_s=0.01, segment_bytes=64 << 10)
    for step in range(150):
        writer.append({"step": step, "text": "x" * 700})
        time.sleep(0.01)
    writer.close()
    assert len(store.list("list")) <= 3
    assert sum(written) <= MAX_AMPLIFICATION * stored_bytes(store)
    assert len(written) <= 30


def test_a_lone_record_is_written_after_the_longest_wait(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "LONGEST_WAIT_S", 0.05)
    writer = SegmentWriter(store, "list", {"who": 1}, flush_s=0.01)
    writer.append({"step": 0, "text": "x" * 10_000})
    writer.flush()
    writer.append({"step": 1})  # does not double the segment
    reader = SegmentReader(store, "list")
    seen: list[int] = []
    deadline = time.monotonic() + 20
    while len(seen) < 2 and time.monotonic() < deadline:
        seen += [record["step"] for _, record in reader.read_new()]
        time.sleep(0.01)
    assert seen == [0, 1]
    writer.close()


def test_a_second_writer_of_the_same_segment_is_stopped(store: Store) -> None:
    first, second = (SegmentWriter(store, "list", {}, flush_s=60) for _ in range(2))
    first.append({"step": 0})
    first.flush()
    second.append({"step": 0})
    with pytest.raises(SegmentTakenError, match="Only one process"):
        second.flush()


def test_records_wait_while_the_store_fails_and_are_written_when_it_is_back(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    store = open_store(str(folder))
    writer = SegmentWriter(store, "list", {}, flush_s=60)
    writer.append({"step": 0})
    folder.write_text("a file where the folder should be")
    with pytest.raises(StoreError):
        writer.flush()
    folder.unlink()
    writer.append({"step": 1})
    writer.flush()
    assert [record["step"] for _, record in SegmentReader(store, "list").read_new()] == [0, 1]


def test_a_flush_of_another_thread_makes_up_for_a_write_that_failed_before_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer's own thread is in the middle of a write, which fails when the flush already waits for its turn."""
    begun, fails = threading.Event(), threading.Event()
    write = Store.write

    def failing(self: Store, path: str, data: bytes) -> None:
        if begun.is_set():
            return write(self, path, data)
        begun.set()
        assert fails.wait(30)
        raise StoreError("the store is gone")

    monkeypatch.setattr(Store, "write", failing)
    writer = SegmentWriter(store, "list", {}, flush_s=0)
    writer.append({"step": 0})
    assert begun.wait(30)
    flush = threading.Thread(target=writer.flush)
    flush.start()
    flush.join(0.1)
    assert flush.is_alive()
    fails.set()
    flush.join(30)
    writer.append({"step": 1})
    writer.close()
    assert [record["step"] for _, record in SegmentReader(store, "list").read_new()] == [0, 1]


def test_a_new_writer_opens_a_new_segment(store: Store) -> None:
    for number in range(2):
        writer = SegmentWriter(store, "list", {"writer": number})
        writer.append({"step": number})
        writer.close()
    assert store.list("list") == ["list/000000.jsonl", "list/000001.jsonl"]
    found = SegmentReader(store, "list").read_new()
    assert [(header["writer"], record["step"]) for header, record in found] == [(0, 0), (1, 1)]


def test_a_writer_without_records_leaves_no_file(store: Store) -> None:
    SegmentWriter(store, "list", {"who": 1}).close()
    assert store.list("list") == []
    assert SegmentReader(store, "list").read_new() == []


def test_half_a_line_is_read_when_it_is_whole(store: Store) -> None:
    """A store that is not atomic may show a part of the newest segment."""
    header, first, second = (encode(one) for one in ({"who": 1}, {"step": 0}, {"step": 1}))
    reader, path = SegmentReader(store, "list"), segment_path("list", 0)
    store.write(path, header + first + second[:5])
    assert reader.read_new() == [({"who": 1}, {"step": 0})]
    assert reader.read_new() == []
    store.write(path, header + first + second)
    assert reader.read_new() == [({"who": 1}, {"step": 1})]


def test_a_failed_write_in_the_background_is_raised_by_the_next_append(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    store = open_store(str(folder))
    writer = SegmentWriter(store, "list", {}, flush_s=0.01)
    folder.write_text("a file where the folder should be")

    def append_for(seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            writer.append({"step": 0})
            time.sleep(0.01)

    with pytest.raises(StoreError):
        append_for(20)
    folder.unlink()
    writer.close()
    assert SegmentReader(store, "list").read_new()[0][1] == {"step": 0}


@pytest.mark.parametrize("line", [b"{", b"3", b"\xff", b"[]", b"[" * 100_000])
def test_a_damaged_line_names_its_segment(line: bytes, tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.write("journal/000000.jsonl", b'{"a":1}\n{"step":0}\n' + line + b"\n")
    with pytest.raises(JournalError, match=rf"{tmp_path}/journal/000000\.jsonl is damaged"):
        SegmentReader(store, "journal").read_new()
