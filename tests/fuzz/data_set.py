"""Data sets: whatever stands in manifest, index and shards, a message names the file, or the rows are those written."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from datasets.format.manifest import INDEX, MANIFEST
from datasets.format.schema import Sample
from datasets.shards.dataset import Dataset
from tests.fuzz.edits import CHANGES, EDITS, changed, edited
from tests.fuzz.target import Case, Target
from tests.tiny import tiny_dataset

SHARD, OTHER_SHARD = "train/00000.parquet", "query/00000.parquet"
LABELS = ("person", "clothes", "camera", "sequence", "frame", "key")
ADVICE = ("again", "restore", "heck")  # what a refusal tells to do
Files = dict[str, bytes]
Use = tuple[dict[str, list[Sample]], list[str]]

INTEGERS = [-1, 0, 1, 5, 2**31 - 1, 2**40, 2**62, 2**63 - 1]
TEXTS = [None, "", "x", "../x", OTHER_SHARD, "train", "0" * 64, "PAR1", "PAR1PAR1", "x" * 100]


@functools.cache
def whole() -> Files:
    """A data set of several shards and row groups, as files."""
    with tempfile.TemporaryDirectory() as folder:
        tiny_dataset(folder, persons=3, images=2, test_persons=2, row_group_bytes=6000, shard_bytes=14_000)
        root = Path(folder)
        return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@functools.cache
def rows() -> dict[str, list[Sample]]:
    """Those that were written."""
    with tempfile.TemporaryDirectory() as folder:
        found, problems = use(put(Path(folder), {}))
    assert problems == []
    return found


def put(folder: Path, files: Files) -> Path:
    """The data set with some files changed."""
    for name, data in (whole() | files).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def use(folder: Path) -> Use:
    """Opens, reads and verifies a data set: its rows, and the problems that are told."""
    dataset = Dataset.open(str(folder))
    for split in dataset.splits:
        index = dataset.index(split)
        assert len(index.keys()) == len(index.frames()) == len(index)
        index.clothes_owner()
    dataset.indexes(*dataset.splits)
    problems = dataset.verify()
    return {split: list(dataset.samples(split)) for split in dataset.splits}, problems


def case(folder: Path, files: Files, *names: str, also: Callable[[Use], bool] = lambda found: False) -> Case:
    """Refused with a message that names one of the files, or the very rows that were written. also: what else is right."""
    put(folder, files)
    rows()

    def call() -> None:
        found = use(folder)
        assert found[0] == rows() or also(found), "other rows were read, and nothing was told"

    return Case(call, (names, ADVICE))


def sealed(content: dict[str, Any]) -> bytes:
    """A manifest whose fingerprint is that of its content."""
    content = {name: value for name, value in content.items() if name != "fingerprint"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode(errors="surrogatepass")
    return json.dumps(content | {"fingerprint": hashlib.sha256(text).hexdigest()}).encode()


def with_index(data: bytes) -> Files:
    """Another index, its digest in the manifest."""
    content = json.loads(whole()[MANIFEST])
    content["index"] |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    return {INDEX: data, MANIFEST: sealed(content)}


@functools.cache
def index_table() -> pa.Table:
    return pq.read_table(io.BytesIO(whole()[INDEX]))


def index_of(table: pa.Table) -> bytes:
    """A table as index.parquet, cut where the manifest's splits are."""
    out, row = io.BytesIO(), 0
    with pq.ParquetWriter(out, table.schema) as writer:
        for split in json.loads(whole()[MANIFEST])["splits"].values():
            writer.write_table(table.slice(row, split["rows"]))
            row += split["rows"]
    return out.getvalue()


def with_column(table: pa.Table, name: str, values: list[Any]) -> pa.Table:
    field = table.schema.field(name)
    return table.set_column(table.schema.get_field_index(name), field, pa.array(values, field.type))


# Manifests: bytes changed; another shape under a right fingerprint; text that is none


def manifest(given: Any, folder: Path) -> Case:
    if "text" in given:
        data = given["text"].encode(errors="surrogatepass")
    elif "edits" in given:
        data = edited(whole()[MANIFEST], given["edits"])
    else:
        data = sealed(changed(json.loads(whole()[MANIFEST]), given["changes"]))
    return case(folder, {MANIFEST: data}, MANIFEST, INDEX, ".parquet")


# An index: bytes changed, its digest right or wrong; values, columns, types, lengths that lie


def index(given: Any, folder: Path) -> Case:
    table = index_table()
    name = table.schema.names[given["column"] % len(table.schema.names)]
    values = table[name].to_pylist()
    how, row = given["how"], given["row"] % len(values)
    if how in ("bytes", "sealed bytes"):
        data = edited(whole()[INDEX], given["edits"])
        return case(folder, with_index(data) if how == "sealed bytes" else {INDEX: data}, INDEX, MANIFEST, ".parquet")
    if how == "footer":
        name, values = "footer", table["footer"].to_pylist()
        there = [at for at, footer in enumerate(values) if footer]
        row = there[given["row"] % len(there)]
        values[row] = edited(values[row], given["edits"])
        table = with_column(table, name, values)
    elif how in ("value", "column"):
        value = value_of(table.schema.field(name).type, given["value"])
        values = [value] * len(values) if how == "column" else [*values[:row], value, *values[row + 1 :]]
        table = with_column(table, name, values)
    elif how == "drop":
        table = table.drop_columns([name])
    elif how == "shorten":
        table = table.slice(0, len(table) - 1 - row % 10)
    else:
        column = table.schema.get_field_index(name)
        table = table.set_column(column, name, pa.array([[1]] * len(table), pa.list_(pa.int8())))
    files = with_index(index_of(table))
    if name in LABELS and how in (
        "value",
        "column",
    ):  # rows come from the shards; that the index has other labels is told
        is_same = values == index_table()[name].to_pylist()
        return case(folder, files, INDEX, also=lambda found: is_same or bool(found[1]))
    return case(folder, files, INDEX, ".parquet")


def value_of(kind: pa.DataType, number: int) -> Any:
    if pa.types.is_integer(kind):
        value = INTEGERS[number % len(INTEGERS)]
        return min(value, 2**31 - 1) if kind.bit_width == 32 else value
    text = TEXTS[number % len(TEXTS)]
    return text.encode() if text is not None and pa.types.is_binary(kind) else text


# Shards: bytes changed; a row group's under a digest that is right


def shards(given: Any, folder: Path) -> Case:
    name = SHARD if given["resealed"] or given["row"] % 2 else OTHER_SHARD
    if not given["resealed"]:
        return case(folder, {name: edited(whole()[name], given["edits"])}, name)
    place = index_table().slice(0, 1).to_pylist()[0]
    begin, end = place["offset"], place["offset"] + place["length"]
    group = (edited(whole()[name][begin:end], given["edits"]) + bytes(place["length"]))[: place["length"]]
    shard = whole()[name][:begin] + group + whole()[name][end:]
    digests = [
        hashlib.sha256(group).hexdigest() if (row["shard"], row["group"]) == (name, 0) else row["sha256"]
        for row in index_table().select(["shard", "group", "sha256"]).to_pylist()
    ]
    files = with_index(index_of(with_column(index_table(), "sha256", digests)))
    content = json.loads(files[MANIFEST])
    content["splits"]["train"]["shards"][0]["sha256"] = hashlib.sha256(shard).hexdigest()
    return case(
        folder,
        files | {name: shard, MANIFEST: sealed(content)},
        name,
        also=lambda found: any(name in problem for problem in found[1]),
    )


NUMBERS = st.integers(0, 10**6)
HOW = ["bytes", "sealed bytes", "footer", "value", "value", "value", "column", "drop", "shorten", "type"]
MANIFEST_TARGET = Target(
    st.fixed_dictionaries({"edits": EDITS})
    | st.fixed_dictionaries({"changes": CHANGES})
    | st.fixed_dictionaries({"text": st.text(st.sampled_from('{}[]":, \t1eE-.\\u\ufeff\udcff')) | st.text()}),
    manifest,
)
INDEX_TARGET = Target(
    st.fixed_dictionaries(
        {"how": st.sampled_from(HOW), "column": NUMBERS, "row": NUMBERS, "value": NUMBERS, "edits": EDITS}
    ),
    index,
)
SHARDS_TARGET = Target(st.fixed_dictionaries({"resealed": st.booleans(), "row": NUMBERS, "edits": EDITS}), shards)
