"""The columns and the checksum."""

import io

import numpy as np
from PIL import Image

from datasets.format.schema import SHARD_SCHEMA, checksum
from tests.tiny import tiny_samples


def test_a_row_has_the_promised_columns():
    assert SHARD_SCHEMA.names == [
        "image",
        "parsing",
        "person",
        "clothes",
        "camera",
        "sequence",
        "frame",
        "key",
        "checksum",
    ]
    assert [field.name for field in SHARD_SCHEMA if not field.nullable] == ["image", "person", "key", "checksum"]


def test_the_checksum_tells_image_from_mask():
    assert checksum(b"ab", b"c") != checksum(b"a", b"bc")
    assert checksum(b"ab", None) != checksum(b"a", b"b")
    assert checksum(b"ab", b"c") == checksum(b"ab", b"c")


def test_tiny_samples_are_images_with_masks_of_their_size():
    for sample in list(tiny_samples("train", persons=1, size=(40, 20)))[:3]:
        image, mask = Image.open(io.BytesIO(sample.image)), Image.open(io.BytesIO(sample.parsing or b""))
        assert (image.format, mask.format, mask.mode) == ("JPEG", "PNG", "L")
        assert image.size == mask.size == (20, 40)
        assert {0, 2, 5, 9, 13} <= set(np.unique(np.asarray(mask)).tolist()) <= set(range(20))
