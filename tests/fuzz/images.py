"""Encoded images and masks: each decodes, or a DecodeError names it; damage never ends the process."""

from __future__ import annotations

import functools
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from datasets.images.decode import DecodeError, check_image, decode_image, decode_parsing, exif_orientation, image_size
from tests.fuzz.edits import EDITS, edited
from tests.fuzz.target import Case, Target
from tests.odd_images import odd_images
from tests.tiny import draw_crop, jpeg, png

KEY = "some/key"


@functools.cache
def files() -> dict[str, bytes]:
    image, mask = draw_crop(np.random.default_rng(0), 1, 0, (32, 16))
    odd = {name: data for name, (data, _) in odd_images().items()}
    return {"tiny.jpg": jpeg(image), "tiny.png": png(image), "mask.png": png(mask)} | odd


def with_checksums(data: bytes) -> bytes:
    """A PNG whose chunks have the checksums of their content."""
    at = 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if end + 4 > len(data):
            break
        data = data[:end] + zlib.crc32(data[at + 4 : end]).to_bytes(4, "big") + data[end + 4 :]
        at = end + 4
    return data


def prepare(given: Any, folder: Path) -> Case:
    names = list(files())
    data = edited(files()[names[given["file"] % len(names)]], given["edits"])
    if given["resealed"] and data.startswith(b"\x89PNG"):
        data = with_checksums(data)

    def call() -> None:
        exif_orientation(data)
        image_size(data)
        if given["as_mask"]:
            assert decode_parsing(data, KEY).dtype == torch.uint8
            return
        size = size_by(check_image, data)
        assert size == size_by(decode_image, data), "an image passes its check, and does not decode so"
        if isinstance(size, str):
            raise DecodeError(size)

    return Case(call, ((KEY,),))


def size_by(read: Any, data: bytes) -> tuple[int, ...] | str:
    """What it gives or says."""
    try:
        found = read(data, KEY)
    except DecodeError as error:
        return re.sub(r"0x[0-9a-f]+", "0x", str(error))
    return tuple(found) if isinstance(found, tuple) else tuple(found.shape[1:])


IMAGES_TARGET = Target(
    st.fixed_dictionaries(
        {
            "file": st.integers(0, 99),
            "edits": EDITS,
            "resealed": st.booleans(),
            "as_mask": st.sampled_from([False, False, True]),
        }
    ),
    prepare,
)
