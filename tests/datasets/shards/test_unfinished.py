"""Notes of an interrupted writer: of one output alone, damaged ones ignored, shards kept as far as they are whole in a row."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow as pa
import pytest

from datasets.format.index import INDEX_SCHEMA
from datasets.format.manifest import Shard
from datasets.shards.unfinished import FOLDER, Finished, Unfinished, forget, shard_path
from datasets.storage.store import Store, open_store

OUTPUT, OTHER = b"a" * 32, b"b" * 32


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path))


def kept(store: Store, split: str, number: int, rows: int = 2) -> Finished:
    """A shard of the store with its note."""
    path, data = shard_path(split, number), f"{split} {number}".encode() * 100
    store.write(path, data)
    finished = Finished(Shard(path, rows, 1, len(data), hashlib.sha256(data).hexdigest()), "p", 1, ((4, 2), None))
    content = {name: pa.nulls(rows, INDEX_SCHEMA.field(name).type) for name in INDEX_SCHEMA.names}
    content |= {"key": pa.array([f"{split}-{number}-{row}" for row in range(rows)])}
    Unfinished(store, OUTPUT).keep(finished, pa.table(content, schema=INDEX_SCHEMA))
    return finished


def test_a_note_is_recalled_for_its_output_alone_and_only_whole(store: Store, tmp_path: Path) -> None:
    notes = Unfinished(store, OUTPUT)
    assert notes.recall("checks") is None
    notes.remember("checks", b"found")
    assert notes.recall("checks") == b"found"
    assert Unfinished(store, OTHER).recall("checks") is None
    path = tmp_path / FOLDER / "checks"
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole[:40] + bytes([whole[40] ^ 1]) + whole[41:], b"", whole + b"x"):
        path.write_bytes(damaged)
        assert notes.recall("checks") is None
    path.write_bytes(whole)
    assert notes.recall("checks") == b"found"
    notes.remember("checks", b"")
    assert notes.recall("checks") == b""
    forget(store)
    assert notes.recall("checks") is None
    assert store.list() == []


def test_a_kept_shard_comes_back_with_its_rows(store: Store) -> None:
    finished = kept(store, "train", 0)
    notes = Unfinished(store, OUTPUT)
    assert notes.finished(["train", "query"]) == {"train": [finished], "query": []}
    assert notes.rows(finished).schema == INDEX_SCHEMA
    assert notes.rows(finished)["key"].to_pylist() == ["train-0-0", "train-0-1"]
    assert Unfinished(store, OTHER).finished(["train"]) == {"train": []}


def test_shards_count_up_to_the_first_that_is_missing_or_altered(store: Store, tmp_path: Path) -> None:
    shards = [kept(store, "train", number) for number in range(4)]
    query = kept(store, "query", 0, rows=3)
    progress: list[int] = []
    notes = Unfinished(store, OUTPUT)
    assert notes.finished(["train", "query"], progress.append) == {"train": shards, "query": [query]}
    assert progress == [8, 11]
    path = tmp_path / shards[2].shard.path
    data = path.read_bytes()
    for damaged in (data[:-1], data[:-1] + b"x"):
        path.write_bytes(damaged)
        assert notes.finished(["train"]) == {"train": shards[:2]}
    path.unlink()
    assert notes.finished(["train"]) == {"train": shards[:2]}
    path.write_bytes(data)
    (tmp_path / FOLDER / "train/00001").unlink()
    assert notes.finished(["train"]) == {"train": shards[:1]}


def test_notes_are_no_shards(store: Store) -> None:
    kept(store, "train", 0)
    assert [path for path in store.list() if path.endswith(".parquet")] == ["train/00000.parquet"]
    assert f"{FOLDER}/train/00000" in store.list()
