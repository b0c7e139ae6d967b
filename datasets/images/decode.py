"""Encoded images and label maps → tensors, on threads: both decoders release the GIL.

Training, conversion, search and registered models decode by this file alone, so that a file has the same pixels in each. A
copy of it is stored with every registered model: it imports nothing of the project.

Measured on 128 × 256 crops: JPEG 0.14 ms with torchvision, 0.22 with Pillow, the same pixels; PNG 0.63 and 0.69, masks
0.03 and 0.05. PNG is decoded by Pillow all the same: torchvision 0.29 ends the process (segmentation fault) on a damaged
PNG, where Pillow raises. A damaged JPEG raises in both. Masks without filters, as palette PNGs are written, need
only zlib, in two thirds of torchvision's time.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile
from torch import Tensor
from torch.nn import functional

MAX_PIXELS = 1 << 24  # a crop has thousands; a larger image is a decompression bomb
MAX_FILE_BYTES = 64 << 20  # a crop has kilobytes
# The kinds of images that are read, with the suffixes of their names. Some of Pillow's others start programs.
KINDS = {
    "JPEG": (".jpg", ".jpeg", ".mpo"),
    "PNG": (".png",),
    "BMP": (".bmp",),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
}
SUFFIXES = tuple(suffix for suffixes in KINDS.values() for suffix in suffixes)

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"IEND\xaeB`\x82"
_JPEG = b"\xff\xd8"
_GREY, _PALETTE = 0, 3  # colour types of PNG
_GRAY, _RGB = 1, 3  # the decoder's modes
_OTHERS = tuple(kind for kind in KINDS if kind not in ("JPEG", "PNG"))
_MARKER = re.compile(rb"\xff([^\x00\xff])")  # after any fill bytes; libjpeg skips what lies between two segments
_MAGIC = re.compile(rb"BM|GIF8|II\*\0|MM\0\*|P[1-6]\s|RIFF.{4}WEBP", re.DOTALL)
_START_OF_SCAN, _END, _APP1 = 0xDA, 0xD9, 0xE1
_ORIENTATION = 0x0112  # the tag of EXIF
# What Pillow raises on damaged files, found by altering bytes at random.
_DAMAGE = (
    ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, OSError, RuntimeError, SyntaxError, TypeError,
    ValueError, struct.error, Image.DecompressionBombError,
)  # fmt: skip
_TURNED_BACK = {  # by orientation: Pillow turns a TIFF when it loads it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


class DecodeError(ValueError):
    """An image or a label map cannot be decoded, or is of the wrong kind. The message names its key."""


class UnreadKind(DecodeError):  # noqa: N818  (what it is, said plainly)
    """An image of a kind that is not read: none of KINDS, or with pixels of more than 16 bits."""


def decode_image(data: bytes | np.ndarray, key: str = "an image") -> Tensor:
    """An encoded image of one of KINDS as RGB: uint8 [3, h, w], as it is stored, whatever its EXIF orientation is.

    Grey, palette and CMYK become RGB, transparency is dropped, 16 bits are cut to the high 8. Of several images in a file the
    first counts. data: the file's bytes, or uint8 [n]. JPEG comes in memory order h, w, 3 (channels last), which copies
    fastest.
    Raises: DecodeError naming `key` when it is damaged, truncated, or larger than MAX_FILE_BYTES or MAX_PIXELS; UnreadKind.
    """
    if len(data) > MAX_FILE_BYTES:
        raise DecodeError(f"{key} has {len(data)} bytes, more than the {MAX_FILE_BYTES} that are decoded")
    start = bytes(data[:8])
    if start.startswith(_JPEG):
        return _decode_jpeg(data, _RGB, key)
    image = _open_png(data, key) if start == _PNG else _open_other(data, key)
    return torch.from_numpy(_pixels(_as_rgb(image, key), key).copy()).permute(2, 0, 1)


def check_image(data: bytes | np.ndarray, key: str = "an image") -> tuple[int, int]:
    """(height, width) of an image that `decode_image` can decode.

    A colour JPEG is read completely, which reveals damage, but only its luminance is computed, in a quarter less time.
    Raises: DecodeError where `decode_image` would.
    """
    frame = _jpeg_frame(data) if bytes(data[:2]) == _JPEG and len(data) <= MAX_FILE_BYTES else None
    is_colour = frame is not None and frame[2] == 3
    decoded = _decode_jpeg(data, _GRAY, key) if is_colour else decode_image(data, key)
    height, width = decoded.shape[1:]
    return height, width


def decode_parsing(data: bytes | np.ndarray, key: str = "a parsing mask") -> Tensor:
    """A label map as it is stored: uint8 [h, w], the PNG's bytes, without its palette.

    data: bytes of an 8-bit grey or palette PNG, or uint8 [n].
    Raises: DecodeError naming `key` when it is damaged, truncated, or another kind of image.
    """
    head = bytes(data[:26])
    if head[:8] != _PNG or len(head) < 26:
        raise DecodeError(f"{key} is no PNG; a mask is an 8-bit grey or palette PNG whose bytes are the labels")
    bits, colour = head[24], head[25]
    if bits != 8 or colour not in (_GREY, _PALETTE):
        kind = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGB with alpha"}.get(colour, "unknown")
        raise DecodeError(
            f"{key} is a {bits}-bit {kind} PNG; a mask is an 8-bit grey or palette PNG whose bytes are the labels"
        )
    labels = _unfiltered(bytes(data))
    return torch.from_numpy(_pixels(_open_png(data, key), key).copy() if labels is None else labels)


def exif_orientation(data: bytes | np.ndarray) -> int:
    """The orientation that EXIF asks a viewer to apply, 2 to 8; 1 where there is none. The decoder does not apply it."""
    encoded = bytes(data)
    try:
        if encoded.startswith(_JPEG):
            exif = Image.Exif()
            exif.load(next((part for kind, part in _segments(encoded) if kind == _APP1 and part[:4] == b"Exif"), b""))
        else:
            exif = (_open_png if encoded.startswith(_PNG) else _open_other)(encoded, "").getexif()
        found = exif.get(_ORIENTATION, 1)
    except Exception:  # damaged EXIF raises anything; the pixels do not depend on it
        return 1
    return found if found in _TURNED_BACK else 1


def image_size(data: bytes | np.ndarray) -> tuple[int, int] | None:
    """(height, width) from the header of a JPEG or PNG, None where it has none or is of another format."""
    if bytes(data[:8]) == _PNG:
        return png_size(data)
    return jpeg_size(data) if bytes(data[:2]) == _JPEG else None


def jpeg_size(data: bytes | np.ndarray) -> tuple[int, int] | None:
    """(height, width) in a JPEG's frame header, None where there is none."""
    frame = _jpeg_frame(data)
    return None if frame is None else frame[:2]


def _decode_jpeg(data: bytes | np.ndarray, mode: int, key: str) -> Tensor:
    _check_size(jpeg_size(data), key)
    encoded = torch.from_numpy(np.array(np.frombuffer(data, np.uint8)))  # a copy: torch needs writable memory
    try:
        return _operators().decode_jpeg(encoded, mode)
    except RuntimeError as error:
        raise DecodeError(f"{key} cannot be decoded: {str(error).rpartition(', ')[2]}") from error


@functools.cache
def _operators() -> Any:
    """torchvision's image operators, from their library: importing the whole package takes a second and 180 MiB."""
    found = importlib.util.find_spec("torchvision")
    folder = Path(found.origin).parent if found and found.origin else Path()
    if libraries := sorted(folder.glob("image*.so")):
        torch.ops.load_library(libraries[0])
    else:
        import torchvision.io  # noqa: F401
    return torch.ops.image


def _jpeg_frame(data: bytes | np.ndarray) -> tuple[int, int, int] | None:
    """(height, width, components) of the frame header, the one that libjpeg finds."""
    for marker, part in _segments(bytes(data)):
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # frame headers; the others are tables
            return (*struct.unpack(">HH", part[1:5]), part[5]) if len(part) > 5 else None
    return None


def _segments(jpeg: bytes) -> Iterator[tuple[int, bytes]]:
    """The marker and the content of each segment before the first scan, as libjpeg finds them."""
    at = 2
    while found := _MARKER.search(jpeg, at):
        marker, at = found[1][0], found.end()
        if marker in (_START_OF_SCAN, _END):
            return
        if 0xD0 <= marker <= 0xD8 or marker == 0x01:  # bare: without a content
            continue
        length = max(2, int.from_bytes(jpeg[at : at + 2], "big"))
        yield marker, jpeg[at + 2 : at + length]
        at += length


def png_size(data: bytes | np.ndarray) -> tuple[int, int] | None:
    """(height, width) in a PNG's first chunk, None where it is too short."""
    if len(data) < 24:
        return None
    width, height = struct.unpack(">II", bytes(data[16:24]))
    return height, width


def resize_image(image: Tensor, size: tuple[int, int]) -> Tensor:
    """uint8 [3, h, w] → uint8 [3, H, W] with (H, W) = size, antialiased bilinear, as torchvision v2 on the CPU."""
    if tuple(image.shape[1:]) == size:
        return image
    return functional.interpolate(image[None], size, mode="bilinear", antialias=True)[0]


def resize_parsing(parsing: Tensor, size: tuple[int, int]) -> Tensor:
    """uint8 [h, w] → uint8 [H, W] with (H, W) = size, each pixel the label of the nearest one (nearest-exact)."""
    if tuple(parsing.shape) == size:
        return parsing
    rows, columns = (_nearest(length, wanted) for length, wanted in zip(parsing.shape, size, strict=True))
    return torch.from_numpy(parsing.numpy()[rows][:, columns])


def _nearest(length: int, wanted: int) -> np.ndarray:
    """int64 [wanted]: the places that nearest-exact reads. In NumPy, because torch would start threads in every thread."""
    scale = np.float32(length) / np.float32(wanted)
    places = np.floor((np.arange(wanted, dtype=np.float32) + np.float32(0.5)) * scale)
    return np.minimum(places.astype(np.int64), length - 1)


def _check_size(size: tuple[int, int] | None, key: str) -> None:
    if size is not None and size[0] * size[1] > MAX_PIXELS:
        raise DecodeError(f"{key} claims {size[0]} × {size[1]} pixels, more than the {MAX_PIXELS} that are decoded")


def _unfiltered(png: bytes) -> np.ndarray | None:
    """uint8 [h, w] of an 8-bit grey or palette PNG without filters, as palette PNGs are written.

    None for anything else, damage included: Pillow's error names it.
    """
    width, height = struct.unpack(">II", png[16:24])
    size = height * (width + 1)  # each row after the byte that names its filter
    if not 0 < width * height <= MAX_PIXELS or any(png[26:29]):  # other methods of compression, filter, interlace
        return None
    at, kind, pieces = len(_PNG), b"", []
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", png, at) if at + 12 <= len(png) else (0, b"")
        end = at + 8 + length
        if png[end : end + 4] != zlib.crc32(png[at + 4 : end]).to_bytes(4, "big"):
            return None
        if kind == b"IDAT":
            pieces.append(png[at + 8 : end])
        at = end + 4
    inflate = zlib.decompressobj()
    try:
        if inflate.decompress(b"".join(pieces), 1) != b"\0":  # the first row's filter, mostly enough to decide
            return None
        rows = b"\0" + inflate.decompress(inflate.unconsumed_tail, size)
    except zlib.error:
        return None
    if len(rows) != size or not inflate.eof:
        return None
    lines = np.frombuffer(rows, np.uint8).reshape(height, width + 1)
    return None if lines[:, 0].any() else lines[:, 1:].copy()


@contextlib.contextmanager
def _naming(key: str) -> Iterator[None]:
    """Pillow's errors become a DecodeError that names `key`."""
    try:
        yield
    except DecodeError:
        raise
    except _DAMAGE as error:
        raise DecodeError(f"{key} cannot be decoded: {error}") from error


def _open_png(data: bytes | np.ndarray, key: str) -> Image.Image:
    encoded = bytes(data)
    _check_size(png_size(encoded), key)
    if encoded.rfind(_PNG_END) < 0:
        raise DecodeError(f"{key} cannot be decoded: the PNG is truncated, its end is missing")
    with _naming(key):
        return PngImageFile(io.BytesIO(encoded))


def _open_other(data: bytes | np.ndarray, key: str) -> Image.Image:
    with _naming(key), warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            image = Image.open(io.BytesIO(bytes(data)), formats=_OTHERS)
        except UnidentifiedImageError as error:
            if _MAGIC.match(bytes(data[:12])):
                raise DecodeError(f"{key} cannot be decoded: its header is damaged") from error
            what = f"its {len(data)} bytes begin with {bytes(data[:8])!r}" if len(data) else "it is empty"
            raise UnreadKind(f"{key} is no image of a known format: {what}") from error
    _check_size((image.height, image.width), key)
    return image


def _as_rgb(image: Image.Image, key: str) -> Image.Image:
    """As it is stored, in RGB. Raises: DecodeError, UnreadKind."""
    with _naming(key):
        turned = image.getexif().get(_ORIENTATION) if image.format == "TIFF" else None
        if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):
            raise UnreadKind(f"{key} has pixels of 32 bits; the pixels of an image have 8 or 16")
        if image.mode.startswith("I"):  # 16 bits; Pillow would clip to 255
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        if image.mode != "RGB":
            image.info.pop("transparency", None)
            image = image.convert("RGB")
        return image.transpose(_TURNED_BACK[turned]) if turned in _TURNED_BACK else image


def _pixels(image: Image.Image, key: str) -> np.ndarray:
    """uint8 [h, w] or [h, w, 3]."""
    with _naming(key):
        raw = image.tobytes()
    return np.frombuffer(raw, np.uint8).reshape(image.height, image.width, *([3] if image.mode == "RGB" else []))
