"""Decoding: the pixels that were stored, or an error that names the image; never a guess, never a crash."""

from __future__ import annotations

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms.v2 import functional as v2

from datasets.images.decode import (
    MAX_PIXELS,
    DecodeError,
    check_image,
    decode_image,
    decode_parsing,
    exif_orientation,
    image_size,
    resize_image,
    resize_parsing,
)


def picture(height: int = 40, width: int = 30, seed: int = 0) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 255, (8, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def by_pillow(data: bytes) -> torch.Tensor:
    return torch.from_numpy(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).copy()).permute(2, 0, 1)


LABELS = np.random.default_rng(1).integers(0, 20, (40, 30), dtype=np.uint8)


def palette_mask(**options: object) -> bytes:
    image = Image.fromarray(LABELS).convert("P")
    image = Image.frombytes("P", image.size, LABELS.tobytes())
    image.putpalette([(i * 37 + 11) % 256 for i in range(768)])
    return encoded(image, "PNG", **options)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "YCbCr"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_jpeg_of_any_colour_space_has_pillows_pixels(mode: str, options: dict) -> None:
    data = encoded(picture().convert(mode), "JPEG", quality=92, **options)
    found = decode_image(data)
    assert found.dtype == torch.uint8
    assert found.shape == (3, 40, 30)
    assert (found.int() - by_pillow(data).int()).abs().max() <= 1


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1"])
def test_png_of_any_colour_type_becomes_rgb(mode: str) -> None:
    data = encoded(picture().convert(mode), "PNG")
    assert torch.equal(decode_image(data), by_pillow(data))


def test_sixteen_bit_grey_keeps_its_high_byte() -> None:
    grey = np.asarray(picture().convert("L"))
    data = encoded(Image.fromarray(grey.astype(np.uint16) * 256 + 7), "PNG")
    assert torch.equal(decode_image(data), torch.from_numpy(np.stack([grey] * 3)))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_stay_as_stored_whatever_exif_asks_for(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned, plain = encoded(picture(), kind, exif=exif), encoded(picture(), kind)
    assert torch.equal(decode_image(turned), decode_image(plain))
    assert check_image(turned) == (40, 30)
    assert exif_orientation(turned) == orientation
    assert exif_orientation(plain) == 1


@pytest.mark.parametrize("data", [b"", b"text", b"\xff\xd8\xff\xe1\0\x0aExif\0\0II", encoded(picture(), "PNG")[:60]])
def test_damaged_exif_asks_for_nothing(data: bytes) -> None:
    assert exif_orientation(data) == 1


def test_a_jpeg_is_as_large_as_libjpeg_finds_it() -> None:
    """libjpeg skips bytes between segments; a size that only it finds would pass the limit."""
    data = encoded(picture(), "JPEG")
    for odd in (b"\xff\xff", b"abc", b"\xff\0", b"\xff\xe1\0\1", b"\xff\xe1\0\0"):
        assert image_size(data[:2] + odd + data[2:]) == (40, 30)
        assert tuple(decode_image(data[:2] + odd + data[2:]).shape) == (3, 40, 30)


@pytest.mark.parametrize("kind", ["WEBP", "BMP"])
def test_other_formats_are_read_too(kind: str) -> None:
    data = encoded(picture(), kind)
    assert torch.equal(decode_image(data), by_pillow(data))


def test_bytes_and_arrays_are_the_same() -> None:
    for data, decode in ((encoded(picture(), "JPEG"), decode_image), (palette_mask(), decode_parsing)):
        array = np.frombuffer(b"before" + data + b"after", np.uint8)[6 : 6 + len(data)]
        assert torch.equal(decode(array), decode(data))


@pytest.mark.parametrize(
    "data", [palette_mask(), palette_mask(transparency=0), encoded(Image.fromarray(LABELS), "PNG")]
)
def test_the_stored_byte_is_the_label(data: bytes) -> None:
    assert torch.equal(decode_parsing(data), torch.from_numpy(LABELS))


@settings(max_examples=100)
@given(
    st.sampled_from([(1, 1), (7, 3), (40, 30), (300, 250)]),
    st.sampled_from(["L", "P"]),
    st.sampled_from([0, 6]),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=2),
)
def test_a_mask_that_decodes_has_pillows_labels_damaged_or_not(
    size: tuple[int, int], mode: str, level: int, changes: list[tuple[int, int]]
) -> None:
    labels = np.resize(LABELS, size)
    image = Image.frombytes(mode, size[::-1], labels.tobytes())
    if mode == "P":
        image.putpalette(list(range(256)) * 3)
    data = bytearray(encoded(image, "PNG", compress_level=level))  # uncompressed ones have several pieces
    for place, value in changes:
        data[place % len(data)] = value
    try:
        found = decode_parsing(bytes(data))
    except DecodeError:
        assert changes
    else:
        assert torch.equal(found, torch.from_numpy(np.array(Image.open(io.BytesIO(data)))))


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (encoded(picture(), "PNG"), "8-bit RGB PNG"),
        (encoded(picture().convert("RGBA"), "PNG"), "8-bit RGB with alpha PNG"),
        (encoded(picture().convert("1"), "PNG"), "1-bit grey PNG"),
        (palette_mask(bits=4), "4-bit palette PNG"),
        (encoded(Image.fromarray(LABELS.astype(np.uint16)), "PNG"), "16-bit grey PNG"),
        (encoded(picture(), "JPEG"), "is no PNG"),
        (b"", "is no PNG"),
    ],
)
def test_what_is_no_label_map_is_refused(data: bytes, what: str) -> None:
    with pytest.raises(DecodeError, match=f"(?s)masks/7.png is .*{what.removeprefix('is ')}.*8-bit grey or palette"):
        decode_parsing(data, "masks/7.png")


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_truncated_image_raises_and_names_its_key(kind: str) -> None:
    data = encoded(picture(), kind)
    for length in [*range(0, len(data) - 12, 7), *range(len(data) - 12, len(data))]:
        with pytest.raises(DecodeError, match=r"a/b.jpg"):
            decode_image(data[:length], "a/b.jpg")


def test_a_truncated_mask_raises() -> None:
    data = palette_mask()
    for length in range(0, len(data), 5):
        with pytest.raises(DecodeError, match="masks/7"):
            decode_parsing(data[:length], "masks/7")


def outcome(decode: Callable[[bytes], tuple[int, int]], data: bytes) -> tuple[int, int] | str:
    """What it gives or says."""
    try:
        return decode(data)
    except DecodeError as error:
        return str(error)


@settings(max_examples=400)
@given(
    st.sampled_from(["RGB", "L", "CMYK", "YCbCr"]),
    st.sampled_from([{}, {"progressive": True}, {"subsampling": 0}, {"keep_rgb": True}, {"restart_marker_blocks": 2}]),
    st.integers(0, 10**6),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=6),
)
def test_an_image_passes_its_check_just_where_it_decodes(
    mode: str, options: dict, cut: int, changes: list[tuple[int, int]]
) -> None:
    data = bytearray(encoded(picture().convert(mode), "JPEG", **(options if mode == "RGB" else {})))
    for place, value in changes:
        data[place % len(data)] = value
    if cut % 3 == 0:
        del data[cut % len(data) :]
    assert outcome(check_image, bytes(data)) == outcome(lambda d: tuple(decode_image(d).shape[1:]), bytes(data))


@pytest.mark.parametrize(
    "data", [b"", b"GIF", b"\xff\xd8", b"\xff\xd8\xff\xe0\x00", b"\x89PNG\r\n\x1a\n", b"plain text here"]
)
def test_what_is_no_image_raises(data: bytes) -> None:
    with pytest.raises(DecodeError, match="some/key"):
        decode_image(data, "some/key")


def test_decompression_bombs_are_refused_before_they_unfold() -> None:
    side = int(MAX_PIXELS**0.5) + 1
    jpeg, png = bytearray(encoded(picture(), "JPEG")), bytearray(encoded(picture(), "PNG"))
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = side.to_bytes(2, "big") * 2
    png[16:24] = side.to_bytes(4, "big") * 2
    for data in (jpeg, png):
        with pytest.raises(DecodeError, match=rf"k claims {side} × {side} pixels"):
            decode_image(bytes(data), "k")


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize(("height", "width"), [(40, 30), (257, 129), (1, 1)])
def test_the_header_tells_the_size(kind: str, height: int, width: int) -> None:
    data = encoded(picture(height, width), kind, **({"exif": b"Exif\0\0" + b"x" * 900} if kind == "JPEG" else {}))
    assert image_size(data) == (height, width)
    assert image_size(data[:8]) is None
    assert image_size(encoded(picture(), "BMP")) is None


@pytest.mark.parametrize("size", [(384, 192), (20, 50), (40, 30), (33, 7)])
def test_resizing_is_torchvisions(size: tuple[int, int]) -> None:
    for kind in ("JPEG", "PNG"):
        image = decode_image(encoded(picture(), kind))
        ours, theirs = resize_image(image, size), v2.resize(image.contiguous(), list(size), antialias=True)
        assert (ours.int() - theirs.int()).abs().max() <= 1
        exact = v2.resize(image.double(), list(size), antialias=True)
        assert (ours.double() - exact).abs().max() <= 1.01  # integers of fixed-point weights
    mask = decode_parsing(palette_mask())
    theirs = v2.resize(mask[None], list(size), interpolation=v2.InterpolationMode.NEAREST_EXACT)[0]
    assert torch.equal(resize_parsing(mask, size), theirs)


@settings(max_examples=50)
@given(st.integers(1, 250), st.integers(1, 300))
@example(2, 141)
@example(2, 235)
def test_masks_are_resized_to_torchs_nearest_exact(length: int, wanted: int) -> None:
    """A pixel whose centre is on the border of two labels has two that are nearest: there torch's rounding depends on the
    processor, and ours does not."""
    mask = torch.arange(length, dtype=torch.uint8)[:, None].expand(length, 2)
    theirs = torch.nn.functional.interpolate(mask[None, None], (wanted, 3), mode="nearest-exact")[0, 0, :, 0]
    ours = resize_parsing(mask.contiguous(), (wanted, 3))[:, 0]
    centres = (2 * torch.arange(wanted) + 1) * length  # in units of 1 / (2 * wanted) of a label
    after, is_border = centres // (2 * wanted), centres % (2 * wanted) == 0
    assert torch.equal(ours[~is_border], theirs[~is_border])
    assert torch.equal(ours[~is_border], after[~is_border].to(torch.uint8))
    assert ((ours == after) | (is_border & (ours == after - 1))).all()


def test_threads_decode_the_same() -> None:
    files = [encoded(picture(seed=seed), kind) for seed in range(20) for kind in ("JPEG", "PNG")]
    with ThreadPoolExecutor(4) as pool:
        for ours, alone in zip(
            pool.map(decode_image, files * 3), [decode_image(data) for data in files] * 3, strict=True
        ):
            assert torch.equal(ours, alone)
