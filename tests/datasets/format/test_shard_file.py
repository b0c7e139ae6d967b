"""A shard's bytes: the writer's offsets and digests by hand, and a reader that accepts nothing but its row group."""

from __future__ import annotations

import hashlib
import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.format.index import GroupPlace
from datasets.format.manifest import Shard
from datasets.format.schema import SHARD_SCHEMA, Sample, checksum
from datasets.format.shard_file import MAGIC, ShardWriter, UnreadableRows, read_rows
from tests.datasets.samples import sample, samples

COLUMNS = SHARD_SCHEMA.names


def written(groups: list[list[Sample]]) -> tuple[bytes, Shard, pa.Table]:
    """A shard's file, its entry in the manifest and its rows of the index."""
    file = io.BytesIO()
    writer = ShardWriter("train", "train/00000.parquet", file)
    for group in groups:
        writer.write(group)
    shard, index = writer.close()
    return file.getvalue(), shard, index


def places(index: pa.Table) -> list[GroupPlace]:
    firsts = [row for row in index.to_pylist() if row["row"] == 0]
    rows = [index.column("group").to_pylist().count(row["group"]) for row in firsts]
    return [
        GroupPlace(row["shard"], row["group"], row["offset"], row["length"], row["sha256"], num)
        for row, num in zip(firsts, rows, strict=True)
    ]


def read(data: bytes, place: GroupPlace, footer: bytes, columns: list[str] = COLUMNS) -> list[dict[str, Any]]:
    return read_rows(data[place.offset : place.offset + place.length], place, footer, columns).to_pylist()


def row_of(item: Sample) -> dict[str, Any]:
    return {name: getattr(item, name) for name in COLUMNS[:-1]} | {"checksum": checksum(item.image, item.parsing)}


@settings(max_examples=25)
@given(st.lists(st.lists(samples, min_size=1, max_size=6), min_size=1, max_size=4))
def test_every_row_group_is_read_from_its_own_bytes_alone(groups: list[list[Sample]]) -> None:
    data, _, index = written(groups)
    footer = index["footer"][0].as_py()
    for place, group in zip(places(index), groups, strict=True):
        assert read(data, place, footer) == [row_of(item) for item in group]
    whole = pq.read_table(io.BytesIO(data)).to_pylist()
    assert whole == [row_of(item) for group in groups for item in group]


def test_manifest_and_index_describe_the_file_byte_for_byte() -> None:
    groups = [[sample(key=f"{group}-{number}", image=bytes([group]) * 99) for number in range(3)] for group in range(2)]
    data, shard, index = written(groups)
    assert shard == Shard("train/00000.parquet", 6, 2, len(data), hashlib.sha256(data).hexdigest())
    found = places(index)
    assert found[0].offset == len(MAGIC)
    assert found[1].offset == found[0].offset + found[0].length
    for place in found:
        assert hashlib.sha256(data[place.offset : place.offset + place.length]).hexdigest() == place.sha256
    assert index["footer"].to_pylist()[1:] == [None] * 5
    assert index["footer"][0].as_py() == MAGIC + data[found[1].offset + found[1].length :]
    assert index["row"].to_pylist() == [0, 1, 2, 0, 1, 2]
    assert index["key"].to_pylist() == ["0-0", "0-1", "0-2", "1-0", "1-1", "1-2"]


def test_images_and_masks_are_stored_as_they_are() -> None:
    image, mask = bytes(range(256)) * 4, bytes(range(255, -1, -1)) * 4
    data, _, _ = written([[sample(image=image, parsing=mask)]])
    assert image in data
    assert mask in data


def test_an_abandoned_shard_writes_nothing_more() -> None:
    file = io.BytesIO()
    writer = ShardWriter("train", "train/00000.parquet", file)
    writer.write([sample()])
    before = file.getvalue()
    writer.abandon()
    assert file.getvalue() == before


def other_shard(table: pa.Table, **options: Any) -> tuple[bytes, bytes]:
    """The row group and the footer of a Parquet file that this program did not write."""
    out = io.BytesIO()
    pq.write_table(table, out, **({"compression": "NONE"} | options))
    data = out.getvalue()
    footer_at = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    return data[len(MAGIC) : footer_at], MAGIC + data[footer_at:]


def rejection(data: bytes, footer: bytes, columns: list[str], rows: int = 1, group: int = 0) -> str:
    place = GroupPlace("train/00000.parquet", group, len(MAGIC), len(data), "", rows)
    with pytest.raises(UnreadableRows) as caught:
        read_rows(data, place, footer, columns)
    assert f"row group {group} at offset {len(MAGIC)}" in str(caught.value)
    return str(caught.value)


IMAGE = pa.table({"image": pa.array([b"image"], pa.binary())})
REJECTED: dict[str, tuple[pa.Table, dict[str, Any], str]] = {
    "compressed": (IMAGE, {"compression": "ZSTD"}, "image is compressed; this program never compresses it"),
    "type": (pa.table({"image": pa.array([7])}), {}, "has other columns than image"),
    "name": (pa.table({"picture": pa.array([b"image"])}), {}, "has other columns than image"),
    "null": (pa.table({"image": pa.array([None], pa.binary())}), {}, "has rows without image"),
    "bomb": (
        IMAGE.append_column("person", pa.array(["a" * (65 << 20)])),
        {"compression": {"image": "NONE", "person": "ZSTD"}, "use_dictionary": False},
        "person declares 68157",
    ),
}


@pytest.mark.parametrize("name", REJECTED)
def test_a_row_group_with_a_true_digest_and_other_content_is_rejected(name: str) -> None:
    table, options, reason = REJECTED[name]
    assert reason in rejection(*other_shard(table, **options), ["image"])


def test_a_footer_that_contradicts_the_index_is_rejected() -> None:
    data, footer = other_shard(IMAGE)
    assert read_rows(data, GroupPlace("s", 0, len(MAGIC), len(data), "", 1), footer, ["image"]).to_pylist() == [
        {"image": b"image"}
    ]
    assert "the footer has 1 row groups" in rejection(data, footer, ["image"], group=1)
    assert "the footer says 1 rows, the index 2" in rejection(data, footer, ["image"], rows=2)
    assert "cannot be read" in rejection(data, footer[:-9], ["image"])


def test_a_footer_cannot_make_the_reader_leave_its_row_group() -> None:
    data, footer = other_shard(IMAGE)
    assert "cannot be read" in rejection(data[:-1], footer, ["image"])
    later = GroupPlace("train/00000.parquet", 0, len(MAGIC) + 1, len(data) - 1, "", 1)
    with pytest.raises(UnreadableRows, match="outside the row group"):
        read_rows(data[1:], later, footer, ["image"])
