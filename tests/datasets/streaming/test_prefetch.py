"""Images and masks of the stream: resized singly where sizes differ, named where they cannot be used."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as v2

from datasets.errors import CorruptData, DataError
from datasets.format.schema import Sample
from datasets.images.decode import DecodeError, decode_image, decode_parsing
from datasets.shards.dataset import Dataset
from tests.datasets.streams import SIZE, mixed, plan, stream, threads_of_streams, write
from tests.tiny import png, tiny_dataset


def test_images_of_several_sizes_are_resized_singly_with_their_masks(tmp_path: Path) -> None:
    dataset = write(tmp_path, mixed([(40, 20), (33, 17), SIZE]))
    assert dataset.split("train").image_size is None
    samples = list(dataset.samples("train"))
    found = plan(dataset, lanes=4)
    batches = list(stream(dataset).epoch(found))
    for batch in batches:
        assert batch.images.shape == (24, 3, *SIZE)
        assert batch.parsing is not None
        for place, row in enumerate(batch.rows.tolist()):
            image, mask = decode_image(samples[row].image), decode_parsing(samples[row].parsing or b"")
            wanted = v2.resize(image, list(SIZE), antialias=True)
            assert (batch.images[place].int() - wanted.int()).abs().max() <= 1
            labels = v2.resize(mask[None], list(SIZE), interpolation=v2.InterpolationMode.NEAREST_EXACT)[0]
            assert torch.equal(batch.parsing[place], labels)
    shares = [list(stream(dataset).epoch(found, worker=w, workers=4)) for w in range(4)]
    for number, batch in enumerate(batches):
        assert torch.equal(torch.cat([share[number].images for share in shares]), batch.images)


def test_images_of_one_size_keep_it_whatever_size_training_wants(tmp_path: Path) -> None:
    dataset = write(tmp_path, mixed([(40, 20)]))
    assert dataset.split("train").image_size == (40, 20)
    assert next(stream(dataset, size=(64, 32)).epoch(plan(dataset))).images.shape == (24, 3, 40, 20)


def test_an_altered_byte_stops_before_its_row_group_is_used(tmp_path: Path) -> None:
    path = tmp_path / "altered"
    address = tiny_dataset(
        path, persons=40, clothes=1, images=7, row_group_bytes=20_000, splits=["train", "query", "gallery"]
    )
    dataset = Dataset.open(address)
    index, found = dataset.index("train"), plan(dataset, window=2)
    place = index.groups[9]
    shard = path / place.shard
    data = bytearray(shard.read_bytes())
    data[place.offset + place.length // 2] ^= 1
    shard.write_bytes(data)
    first_use = int(np.flatnonzero((index.group[found.rows] == 9).any(axis=1))[0])
    assert first_use > 0
    for _ in range(2):
        ours = stream(dataset)
        batches = ours.epoch(found)
        assert [next(batches).number for _ in range(first_use)] == list(range(first_use))
        with pytest.raises(CorruptData, match=f"row group {place.group} at offset {place.offset}"):
            next(batches)
        assert threads_of_streams() == []


def test_an_image_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    samples = list(mixed([SIZE]))
    samples[13] = Sample(samples[13].image[:-40], *_rest(samples[13]))
    dataset = write(tmp_path, iter(samples))
    with pytest.raises(
        DecodeError, match=r"3/1.jpg \(split 'train', shard train/00000.parquet, row group \d+, row \d+\)"
    ):
        list(stream(dataset).epoch(plan(dataset, images=4)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: Sample(s.image, png(np.zeros((30, 16), np.uint8)), *_rest(s)[1:]),
            r"mask of \[30, 16\] pixels.*\[32, 16\]",
        ),
        (lambda s: Sample(s.image, _rgb_png(), *_rest(s)[1:]), "8-bit RGB PNG"),
    ],
)
def test_a_mask_that_does_not_fit_its_image_is_named(
    tmp_path: Path, change: Callable[[Sample], Sample], message: str
) -> None:
    samples = list(mixed([SIZE]))
    samples[13] = change(samples[13])
    dataset = write(tmp_path, iter(samples))
    with pytest.raises(DecodeError, match=rf"3/1.jpg .*{message}"):
        list(stream(dataset).epoch(plan(dataset, images=4)))


def _rest(sample: Sample) -> tuple:
    return (
        sample.parsing, sample.person, sample.clothes, sample.camera, sample.sequence, sample.frame, sample.key
    )  # fmt: skip


def _rgb_png() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (16, 32)).save(out, "PNG")
    return out.getvalue()


def test_masks_that_are_not_there_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    dataset = Dataset.open(tiny_dataset(tmp_path / "bare", parsing=False))
    with pytest.raises(DataError, match="does not have a parsing mask for every image"):
        stream(dataset)
    assert stream(dataset, parsing=False)
