"""A data set written again with masks, piece by piece: the same rows, verified parts, and what `write_dataset` would give."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datasets.errors import DataError
from datasets.format.schema import Sample
from datasets.images.decode import image_size
from datasets.parsing.rewrite import (
    GROUPS_PER_SHARD,
    check,
    clear_destination,
    finish,
    is_finished,
    pieces,
    write_piece,
)
from datasets.shards.dataset import Dataset, write_dataset
from datasets.storage.store import Store, open_store
from tests.tiny import png, tiny_dataset

RECORD: dict[str, Any] = {"kind": "drawn", "sha256": "0123456789abcdef", "label_map": "six"}


def drawn(samples: list[Sample]) -> list[bytes]:
    """A mask for each image that depends on its bytes alone."""
    return [png(np.full(image_size(sample.image) or (), sum(sample.image) % 6, np.uint8)) for sample in samples]


@pytest.fixture
def source(tmp_path: Path) -> Dataset:
    return Dataset.open(tiny_dataset(tmp_path / "source", persons=14, images=4, parsing=False, row_group_bytes=5 << 10))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "made"))


def write(source: Dataset, store: Store) -> None:
    for piece in pieces(source):
        write_piece(source, piece, store, RECORD, drawn)


def test_rows_labels_order_and_row_groups_stay_and_every_row_has_a_mask(source: Dataset, store: Store) -> None:
    write(source, store)
    left = Path(store.address, "train/.00000.parquet.0123.tmp")
    left.touch()
    manifest = finish(source, store, "six", RECORD)
    assert not left.exists(), "a worker that was killed left it"
    made = Dataset.open(store.address)
    assert made.fingerprint == manifest.fingerprint
    assert made.verify() == []
    for split in source.splits:
        groups = [[place.rows for place in dataset.index(split).groups] for dataset in (source, made)]
        assert groups[0] == groups[1]
        assert len(manifest.splits[split].shards) == -(-len(groups[0]) // GROUPS_PER_SHARD)
        for old, new in zip(source.samples(split), made.samples(split), strict=True):
            assert replace(new, parsing=None) == old
            assert new.parsing == drawn([old])[0]
    assert len(manifest.splits["train"].shards) > 2
    assert sorted({path.split("/")[0] for path in store.list()}) == sorted(
        [*source.splits, "index.parquet", "manifest.json"]
    )


def test_index_and_counts_are_what_write_dataset_gives(tmp_path: Path, store: Store) -> None:
    """One row group a split, so that masks do not move its bounds; one split without clothes, cameras and sequences."""
    given = Dataset.open(tiny_dataset(tmp_path / "given", parsing=False, row_group_bytes=1 << 20))
    bare = [replace(sample, clothes=None, camera=None, sequence=None) for sample in given.samples("query")]
    splits = {"train": list(given.samples("train")), "query": bare, "gallery": list(given.samples("gallery"))}
    facts: dict[str, Any] = {"name": "n", "licence": "l", "protocol": "general", "captions": {"persons": {"001": "x"}}}
    write_dataset(str(tmp_path / "bare"), splits, version="1", label_map=None, extra={"a": [1]}, **facts)
    source = Dataset.open(str(tmp_path / "bare"))
    write(source, store)
    made = finish(source, store, "six", RECORD)
    with_masks = {
        split: [replace(sample, parsing=drawn([sample])[0]) for sample in samples] for split, samples in splits.items()
    }
    expected = write_dataset(
        str(tmp_path / "expected"), with_masks, version="1+parsing.six.01234567", label_map="six",
        extra={"a": [1], "parsing": {"from": source.fingerprint, **RECORD}}, **facts,
    )  # fmt: skip
    assert made == expected


def test_a_piece_is_finished_when_source_record_and_every_byte_are_as_they_were(source: Dataset, store: Store) -> None:
    piece = pieces(source)[1]
    assert not is_finished(piece, store, RECORD)
    write_piece(source, piece, store, RECORD, drawn)
    assert is_finished(piece, store, RECORD)
    assert not is_finished(piece, store, RECORD | {"sha256": "another"})
    assert not is_finished(replace(piece, source="other bytes"), store, RECORD)
    path = Path(store.address) / piece.shard
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole[:50] + bytes([whole[50] ^ 1]) + whole[51:]):
        path.write_bytes(damaged)
        assert not is_finished(piece, store, RECORD)
    path.unlink()
    assert not is_finished(piece, store, RECORD)
    path.write_bytes(whole)
    assert is_finished(piece, store, RECORD)
    part = Path(store.address) / piece.part
    part.write_bytes(part.read_bytes()[:-20])
    assert not is_finished(piece, store, RECORD)


def test_a_piece_whose_writing_broke_off_leaves_nothing(source: Dataset, store: Store) -> None:
    def fails(samples: list[Sample]) -> list[bytes]:
        raise KeyboardInterrupt

    piece = pieces(source)[0]
    with pytest.raises(KeyboardInterrupt):
        write_piece(source, piece, store, RECORD, fails)
    assert store.list() == []


def test_an_altered_piece_is_no_other_than_the_one_that_changed(tmp_path: Path) -> None:
    """The source converted anew with one more image: pieces before it can be kept."""
    old = Dataset.open(tiny_dataset(tmp_path / "old", persons=14, parsing=False, row_group_bytes=5 << 10))
    samples = {split: list(old.samples(split)) for split in old.splits}
    samples["train"] = samples["train"][:-1]
    facts: dict[str, Any] = {"name": "n", "version": "2", "licence": "l", "label_map": None, "protocol": "ltcc"}
    write_dataset(str(tmp_path / "new"), samples, row_group_bytes=5 << 10, **facts)
    same = [a == b for a, b in zip(pieces(old), pieces(Dataset.open(str(tmp_path / "new"))), strict=True)]
    changed = max(at for at, piece in enumerate(pieces(old)) if piece.split == "train")
    assert [at for at, is_same in enumerate(same) if not is_same] == [changed]


def test_index_and_manifest_wait_for_every_piece(source: Dataset, store: Store) -> None:
    for piece in pieces(source)[1:]:
        write_piece(source, piece, store, RECORD, drawn)
    with pytest.raises(DataError, match=r"unfinished/train/00000\.part is missing; parse again"):
        finish(source, store, "six", RECORD)
    assert not store.exists("manifest.json")


def test_shards_of_an_interrupted_writing_with_more_of_them_are_taken_away(source: Dataset, store: Store) -> None:
    store.write("train/00077.parquet", b"left")
    store.write("train/notes.txt", b"mine")
    clear_destination(source, store)
    write(source, store)
    finish(source, store, "six", RECORD)
    assert Dataset.open(store.address).verify() == []
    assert store.exists("train/notes.txt")


def test_what_may_not_be_overwritten_is_told_before(source: Dataset, store: Store, tmp_path: Path) -> None:
    masked = Dataset.open(tiny_dataset(tmp_path / "masked"))
    no = {"overwrite": False, "overwrite_masks": False}
    with pytest.raises(DataError, match=r"has \d+ masks already \(lip20\).*--overwrite-masks"):
        check(masked, store, **no)
    check(masked, store, overwrite=False, overwrite_masks=True)
    with pytest.raises(DataError, match="into itself"):
        check(source, source.store, overwrite=True, overwrite_masks=True)
    with pytest.raises(DataError, match="finished data set"):
        check(source, masked.store, **no)
    check(source, masked.store, overwrite=True, overwrite_masks=False)
    assert masked.verify() == []


def test_masks_are_grey_pngs_of_eight_bits(source: Dataset, store: Store) -> None:
    write(source, store)
    finish(source, store, "six", RECORD)
    for sample in Dataset.open(store.address).samples("query"):
        mask = Image.open(io.BytesIO(sample.parsing or b""))
        assert (mask.format, mask.mode) == ("PNG", "L")
