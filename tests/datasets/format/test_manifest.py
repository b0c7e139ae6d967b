"""manifest.json: what is written is read; an impossible value is refused with its place, whatever the fingerprint says."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest

from datasets.errors import DataError
from datasets.format.manifest import Index, Manifest, Shard, Split, read_manifest

DIGEST = "0123456789abcdef" * 4
SHARDS = (Shard("train/00000.parquet", 3, 2, 900, DIGEST), Shard("train/00001.parquet", 2, 1, 500, DIGEST))
MANIFEST = Manifest(
    name="mine",
    version="1",
    licence="none · à lire",
    label_map=None,
    protocol="general",
    splits={
        "train": Split(5, 2, 3, 2, 0, 5, SHARDS, (128, 64)),
        "val_query": Split(1, 1, 0, 0, 0, 0, (Shard("val_query/00000.parquet", 1, 1, 9, DIGEST),)),
    },
    index=Index(6, 77, DIGEST),
    captions={"persons": {"1": "a person"}, "clothes": {}},
    extra={"official": {"images": [1, 2]}},
)


def signed(content: dict[str, Any]) -> bytes:
    """The file of a content with the fingerprint that it should have: canonical JSON, hashed."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return json.dumps(content | {"fingerprint": hashlib.sha256(text.encode()).hexdigest()}).encode()


def content() -> dict[str, Any]:
    plain = json.loads(MANIFEST.to_json())
    del plain["fingerprint"]
    return plain


def test_what_is_written_is_read_and_the_fingerprint_is_of_canonical_json() -> None:
    assert read_manifest(MANIFEST.to_json(), "here") == MANIFEST
    assert json.loads(MANIFEST.to_json())["fingerprint"] == json.loads(signed(content()))["fingerprint"]
    assert read_manifest(signed(content()), "here") == MANIFEST
    assert MANIFEST.splits["train"].groups == 3
    assert "à lire".encode() in MANIFEST.to_json()


def changed(change: Callable[[dict[str, Any]], object]) -> str:
    """The message about a manifest that was changed together with its fingerprint."""
    plain = content()
    change(plain)
    with pytest.raises(DataError) as caught:
        read_manifest(signed(plain), "s3://reid/mine/manifest.json")
    assert str(caught.value).startswith("s3://reid/mine/manifest.json ")
    assert "convert the data set again" in str(caught.value)
    return str(caught.value)


def train(plain: dict[str, Any]) -> dict[str, Any]:
    return plain["splits"]["train"]


def shard(plain: dict[str, Any]) -> dict[str, Any]:
    return train(plain)["shards"][0]


IMPOSSIBLE: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "name": (lambda m: m.update(name=7), "name is 7, expected a text"),
    "label map": (lambda m: m.update(label_map=["six"]), "label_map is ['six'], expected a text or null"),
    "captions": (lambda m: m.update(captions="none"), "captions is 'none', expected an object or null"),
    "extra": (lambda m: m.update(extra=None), "extra is None, expected an object"),
    "no split": (lambda m: m.update(splits={}), "splits is {}, expected an object"),
    "index rows": (lambda m: m["index"].update(rows=5), "index.rows is 5, expected 6"),
    "index bytes": (lambda m: m["index"].update(bytes=0), "index.bytes is 0, expected a whole number from 1 on"),
    "index digest": (lambda m: m["index"].update(sha256="AB" * 32), "index.sha256 is 'ABAB"),
    "split name": (
        lambda m: m["splits"].update({"../x": m["splits"].pop("val_query")}),
        "splits.../x is '../x', expected a name of lower-case letters, digits and _",
    ),
    "no shard": (lambda m: train(m).update(shards=[]), "splits.train.shards is [], expected a list"),
    "shard twice": (lambda m: train(m).update(shards=[shard(m), shard(m)]), "splits.train is 'a path twice'"),
    "size of one": (lambda m: train(m).update(image_size=[128]), "splits.train.image_size is [128], expected height"),
    "size of 0": (lambda m: train(m).update(image_size=[128, 0]), "splits.train.image_size is 0, expected a whole"),
    "rows": (lambda m: train(m).update(rows=4), "splits.train.rows is 4, expected 5"),
    "persons": (lambda m: train(m).update(persons=0), "splits.train.persons is 0, expected a whole number from 1 on"),
    "masks": (lambda m: train(m).update(masks=-1), "splits.train.masks is -1, expected a whole number from 0 on"),
    "true": (lambda m: train(m).update(cameras=True), "splits.train.cameras is True, expected a whole number"),
    "2^62": (lambda m: train(m).update(sequences=1 << 63), "splits.train.sequences is 9223372036854775808, expected"),
    "path": (
        lambda m: shard(m).update(path="train/../x"),
        "splits.train.shards.0.path is 'train/../x', expected a path",
    ),
    "other split": (lambda m: shard(m).update(path="query/00000.parquet"), "such as train/00000.parquet"),
    "groups": (lambda m: shard(m).update(groups=4), "splits.train.shards.0.groups is 4, expected at most its 3 rows"),
    "digest": (lambda m: shard(m).update(sha256="0"), "splits.train.shards.0.sha256 is '0', expected 64 hexadecimal"),
    "long": (lambda m: m.update(name=list(range(99))), "…, expected a text"),
    "missing": (lambda m: m.pop("licence"), "lacks or misnames 'licence'"),
    "unknown": (lambda m: m.update(licens="none"), "lacks or misnames 'licens'"),
    "field of a shard": (lambda m: shard(m).update(size=1), "lacks or misnames"),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_what_cannot_be_so_is_refused_with_its_place(name: str) -> None:
    change, expected = IMPOSSIBLE[name]
    assert expected in changed(change)


@pytest.mark.parametrize("version", [0, 2, "1", True, 1.0, None])
def test_another_schema_version_is_refused(version: object) -> None:
    assert f"has schema version {version!r}, this program reads 1" in changed(
        lambda m: m.update(schema_version=version)
    )


def test_an_edit_by_hand_is_seen() -> None:
    edited = MANIFEST.to_json().replace(b'"protocol": "general"', b'"protocol": "ltcc"')
    with pytest.raises(DataError, match="here was changed after it was written: its content has fingerprint"):
        read_manifest(edited, "here")


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"{}", b"7", b"[" * 100_000, b"\xff"])
def test_other_files_are_no_manifest(data: bytes) -> None:
    with pytest.raises(DataError, match=r"here is not a manifest of this program .*convert the data set again"):
        read_manifest(data, "here")
