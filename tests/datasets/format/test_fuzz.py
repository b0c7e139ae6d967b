"""Whatever stands in shards, index and manifest: a message that names the file, or the rows that were written. Nothing else."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datasets.errors import CorruptData, DataError
from datasets.format.manifest import INDEX, MANIFEST
from datasets.format.schema import Sample
from datasets.shards.dataset import Dataset
from datasets.sources import Source, open_source
from datasets.sources.source import walk
from datasets.storage.store import StoreError
from tests.tiny import tiny_dataset


class Files(dict[str, bytes]):
    """Path → content."""

    def __repr__(self) -> str:
        return f"{len(self)} files"


class Rows(dict[str, list[Sample]]):
    """Split → samples."""

    def __repr__(self) -> str:
        return f"rows of {', '.join(self)}"


REFUSED = (DataError, CorruptData, StoreError)
EXAMPLES = settings(
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """A data set of several shards and row groups, as files."""
    folder = tmp_path_factory.mktemp("whole")
    tiny_dataset(folder, persons=3, images=2, test_persons=2, row_group_bytes=6000, shard_bytes=14_000)
    return Files(
        {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    )


@pytest.fixture(scope="module")
def use(whole: Files, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Files], tuple[Rows, list[str]]]:
    """Opens, reads and verifies the data set with some files changed: its rows, and the problems that are told."""
    folder = tmp_path_factory.mktemp("changed")

    def changed(files: Files) -> tuple[Rows, list[str]]:
        shutil.rmtree(folder)
        for name, data in (whole | files).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        dataset = Dataset.open(str(folder))
        for split in dataset.splits:
            index = dataset.index(split)
            assert len(index.keys()) == len(index.frames()) == len(index)
            index.clothes_owner()
        dataset.indexes(*dataset.splits)
        problems = dataset.verify()
        return Rows({split: list(dataset.samples(split)) for split in dataset.splits}), problems

    return changed


@pytest.fixture(scope="module")
def rows(use: Callable[[Files], tuple[Rows, list[str]]]) -> Rows:
    """Those that were written."""
    found, problems = use(Files())
    assert problems == []
    return found


def used(use: Callable[[Files], tuple[Rows, list[str]]], files: Files, *names: str) -> tuple[Rows, list[str]] | None:
    """None where the files are refused, which takes a message that names one of them and says what to do."""
    try:
        return use(files)
    except REFUSED as error:
        message = str(error)
    assert any(name in message for name in names), message
    assert any(word in message for word in ("again", "restore", "heck")), message
    return None


def check(use: Callable[[Files], tuple[Rows, list[str]]], rows: Rows, files: Files, *names: str) -> None:
    """Refused with a message, or the very rows that were written."""
    found = used(use, files, *names)
    assert found is None or found[0] == rows


@st.composite
def alterations(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """Some flips, cuts, insertions and overwritings of bytes."""
    steps = draw(
        st.lists(st.tuples(st.sampled_from("fcio"), st.floats(0, 1, exclude_max=True)), min_size=1, max_size=4)
    )
    patch = draw(st.binary(min_size=1, max_size=8) | st.sampled_from([b"\xff" * 4, b"\0" * 8, b"\x80" * 9]))

    def alter(data: bytes) -> bytes:
        for kind, place in steps:
            at = int(place * len(data))
            if kind == "f" and data:
                data = data[:at] + bytes([data[at] ^ 1 << len(patch) % 8]) + data[at + 1 :]
            elif kind == "c":
                data = data[:at]
            elif kind == "i":
                data = data[:at] + patch + data[at:]
            else:
                data = data[:at] + patch + data[at + len(patch) :]
        return data

    return alter


def sealed(content: dict[str, Any]) -> bytes:
    """A manifest whose fingerprint is that of its content."""
    content = {name: value for name, value in content.items() if name != "fingerprint"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return json.dumps(content | {"fingerprint": hashlib.sha256(text.encode()).hexdigest()}).encode()


def with_index(files: Files, data: bytes) -> Files:
    """Another index, its digest in the manifest."""
    content = json.loads(files[MANIFEST])
    content["index"] |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    return Files({INDEX: data, MANIFEST: sealed(content)})


def index_of(table: pa.Table, files: Files) -> bytes:
    """A table as index.parquet, cut where the manifest's splits are."""
    out, row = io.BytesIO(), 0
    with pq.ParquetWriter(out, table.schema) as writer:
        for split in json.loads(files[MANIFEST])["splits"].values():
            writer.write_table(table.slice(row, split["rows"]))
            row += split["rows"]
    return out.getvalue()


def with_column(table: pa.Table, name: str, values: list[Any]) -> pa.Table:
    field = table.schema.field(name)
    return table.set_column(table.schema.get_field_index(name), field, pa.array(values, field.type))


@EXAMPLES
@given(name=st.sampled_from(["train/00000.parquet", "query/00000.parquet", INDEX, MANIFEST]), alter=alterations())
def test_altered_bytes_are_named_or_never_read(whole: Files, use: Any, rows: Rows, name: str, alter: Any) -> None:
    check(use, rows, Files({name: alter(whole[name])}), name)


STRANGE: list[Any] = [
    None, True, -1, 0, 1, 1.5, 2**31, 2**63, 10**30, float("inf"), "", "x", "../x", "/etc/passwd", "\0", "train", [], {},
    [1], [[]], {"a": 1}, "0" * 64,
]  # fmt: skip


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [path] * bool(path) + [place for name, child in children for place in places(child, (*path, name))]


@EXAMPLES
@given(data=st.data())
def test_manifests_of_another_shape_with_a_right_fingerprint_are_refused_or_harmless(
    whole: Files, use: Any, rows: Rows, data: st.DataObject
) -> None:
    content = json.loads(whole[MANIFEST])
    content.pop("fingerprint")
    for _ in range(data.draw(st.integers(1, 2))):
        path = data.draw(st.sampled_from(places(content)))
        inside = content
        for name in path[:-1]:
            inside = inside[name]
        how = data.draw(st.sampled_from(["delete", "rename", "replace", "replace"]))
        if how == "replace":
            inside[path[-1]] = copy.deepcopy(data.draw(st.sampled_from(STRANGE)))
        elif how == "delete" or isinstance(inside, list):
            del inside[path[-1]]
        else:
            inside[data.draw(st.sampled_from(["rows", "x", "train"]))] = inside.pop(path[-1])
    check(use, rows, Files({MANIFEST: sealed(content)}), MANIFEST, INDEX, ".parquet")


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"schema_version":' + "[" * 100_000, "1" * 10_000, "NaN", "\ufeff{}", ""]
)
def test_text_that_is_no_manifest_is_refused(use: Any, text: str) -> None:
    with pytest.raises(DataError, match=r"manifest\.json is not a manifest"):
        use(Files({MANIFEST: text.encode()}))


INTEGERS = [-1, 0, 1, 5, 2**31 - 1]
VALUES: dict[pa.DataType, list[Any]] = {
    pa.int32(): INTEGERS,
    pa.int64(): [*INTEGERS, 2**40, 2**62, 2**63 - 1],
    pa.string(): [None, "", "x", "../x", "query/00000.parquet", "train", "0" * 64],
    pa.binary(): [None, b"", b"PAR1", b"PAR1PAR1", b"x" * 100],
}


@EXAMPLES
@given(data=st.data())
def test_an_index_that_lies_is_refused_or_harmless(whole: Files, use: Any, rows: Rows, data: st.DataObject) -> None:
    """Every kind of damage: places outside, memory without end, columns gone, rows in another order, labels of none."""
    table = pq.read_table(io.BytesIO(whole[INDEX]))
    how = data.draw(st.sampled_from(["value", "value", "value", "column", "drop", "cut", "type"]))
    name = data.draw(st.sampled_from(table.schema.names))
    values = table[name].to_pylist()
    if how in ("value", "column"):
        value = data.draw(st.sampled_from(VALUES[table.schema.field(name).type]))
        changed = range(len(values)) if how == "column" else [data.draw(st.integers(0, len(values) - 1))]
        for row in changed:
            values[row] = value
        table = with_column(table, name, values)
    elif how == "drop":
        table = table.drop_columns([name])
    elif how == "cut":
        table = table.slice(0, len(table) - data.draw(st.integers(1, 10)))
    else:
        at = table.schema.get_field_index(name)
        table = table.set_column(at, name, pa.array([[1]] * len(table), pa.list_(pa.int8())))
    files = with_index(whole, index_of(table, whole))
    if name in ("person", "clothes", "camera", "sequence", "frame", "key") and how in ("value", "column"):
        found = used(use, files, INDEX)  # rows come from the shards; that the index has other labels is told
        is_same = values == pq.read_table(io.BytesIO(whole[INDEX]))[name].to_pylist()
        assert found is None or (found[0] == rows and (is_same or found[1]))
    else:
        check(use, rows, files, INDEX, ".parquet")


@EXAMPLES
@given(alter=alterations(), shard=st.integers(0, 3))
def test_hostile_footers_and_indices_are_refused_or_harmless(
    whole: Files, use: Any, rows: Rows, alter: Any, shard: int
) -> None:
    """Parquet's own structures, under a digest that is right."""
    table = pq.read_table(io.BytesIO(whole[INDEX]))
    footers = table["footer"].to_pylist()
    row = [row for row, footer in enumerate(footers) if footer][shard]
    footers[row] = alter(footers[row])
    check(use, rows, with_index(whole, index_of(with_column(table, "footer", footers), whole)), INDEX, ".parquet")
    check(use, rows, with_index(whole, alter(whole[INDEX])), INDEX, MANIFEST, ".parquet")


@EXAMPLES
@given(alter=alterations())
def test_hostile_pages_are_refused_and_rows_that_are_others_are_told(
    whole: Files, use: Any, rows: Rows, alter: Any
) -> None:
    """A row group under a digest that is right: whoever makes all digests anew makes another data set, never a crash."""
    name = "train/00000.parquet"
    table = pq.read_table(io.BytesIO(whole[INDEX]))
    place = table.slice(0, 1).to_pylist()[0]
    begin, end = place["offset"], place["offset"] + place["length"]
    group = (alter(whole[name][begin:end]) + bytes(place["length"]))[: place["length"]]
    shard = whole[name][:begin] + group + whole[name][end:]
    digests = [
        hashlib.sha256(group).hexdigest() if (row["shard"], row["group"]) == (name, 0) else row["sha256"]
        for row in table.select(["shard", "group", "sha256"]).to_pylist()
    ]
    files = with_index(whole, index_of(with_column(table, "sha256", digests), whole))
    content = json.loads(files[MANIFEST])
    content["splits"]["train"]["shards"][0]["sha256"] = hashlib.sha256(shard).hexdigest()
    found = used(use, Files(files | {name: shard, MANIFEST: sealed(content)}), name)
    assert found is None or found[0] == rows or any(name in problem for problem in found[1])


@pytest.mark.parametrize("name", ["offset", "length"])
def test_a_place_beyond_all_memory_is_refused_before_it_is_asked_for(
    whole: Files, use: Any, rows: Rows, name: str
) -> None:
    table = pq.read_table(io.BytesIO(whole[INDEX]))
    table = with_column(table, name, [1 << 62] * len(table))
    with pytest.raises(
        CorruptData, match=r"index\.parquet is inconsistent: .* is outside the shard; convert the data set again"
    ):
        use(with_index(whole, index_of(table, whole)))


@pytest.mark.parametrize("kind", ["tar", "zip"])
@EXAMPLES
@given(alter=alterations())
def test_altered_archives_are_refused_or_read_as_what_they_are(
    tmp_path_factory: pytest.TempPathFactory, kind: str, alter: Any
) -> None:
    out = io.BytesIO()
    if kind == "tar":
        with tarfile.open(fileobj=out, mode="w:") as packed:
            for number in range(5):
                info = tarfile.TarInfo(f"a/{number}.jpg")
                info.size = 300
                packed.addfile(info, io.BytesIO(bytes([number]) * 300))
            link = tarfile.TarInfo("a/link.jpg")
            link.type, link.linkname = tarfile.SYMTYPE, "1.jpg"
            packed.addfile(link)
    else:
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as zipped:
            for number in range(5):
                zipped.writestr(f"a/{number}.jpg", bytes([number]) * 300)
    path = tmp_path_factory.mktemp("archive") / f"x.{kind}"
    path.write_bytes(alter(out.getvalue()))
    source = opened(path)
    if source is None:
        return
    for name, child in walk(source):
        if child.offender is None:
            try:
                data = source.read(name, 1 << 20)
            except OSError:
                continue
            assert kind == "tar" or data == data[:1] * 300
    source.close()


def opened(path: Path) -> Source | None:
    """None where the archive is refused, which takes a message that names it."""
    try:
        return open_source(path, "an archive")
    except DataError as error:
        message = str(error)
    assert str(path) in message
    return None
