"""Odd image files of 24 × 12 pixels, and what each decodes to: uint8 [24, 12, 3], or None where it is refused."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
SIZE = (24, 12)
RGB = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
GREY = RGB[..., 0]
WIDE = np.random.default_rng(1).integers(0, 1 << 16, (*SIZE, 4), dtype=np.uint16)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    image.save(out := io.BytesIO(), kind, **options)
    return out.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png16(colour: int, channels: int) -> bytes:
    """WIDE's first channels as a 16-bit PNG."""
    header = struct.pack(">IIBBBBB", SIZE[1], SIZE[0], 16, colour, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in WIDE[..., :channels])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def claiming(jpeg: bytes, side: int) -> bytes:
    at = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:at] + struct.pack(">HH", side, side) + jpeg[at + 4 :]


def by_pillow(data: bytes) -> Pixels:
    return np.array(Image.open(io.BytesIO(data)).convert("RGB"))


def grey(pixels: Pixels) -> Pixels:
    return np.stack([pixels] * 3, axis=-1)


def odd_images() -> dict[str, tuple[bytes, Pixels | None]]:
    """File name → the file and its pixels."""
    image, high = Image.fromarray(RGB), (WIDE >> 8).astype(np.uint8)
    turned = Image.Exif()
    turned[0x0112] = 6
    jpeg, png = encoded(image, "JPEG"), encoded(image, "PNG")
    of_jpeg, palette = by_pillow(jpeg), image.convert("P")
    of_palette, cmyk = np.array(palette.convert("RGB")), encoded(image.convert("CMYK"), "JPEG")
    webp, bomb = encoded(image, "WEBP"), claiming(jpeg, 4097)
    return {
        "plain.jpg": (jpeg, of_jpeg),
        "plain.png": (png, RGB),
        "cmyk.jpg": (cmyk, by_pillow(cmyk)),
        "two.mpo": (encoded(image, "MPO", save_all=True, append_images=[Image.fromarray(RGB[::-1])]), of_jpeg),
        "fill.jpg": (jpeg[:2] + b"\xff\xff\xff" + jpeg[2:], of_jpeg),
        "garbage.jpg": (jpeg[:2] + b"abc" + jpeg[2:], of_jpeg),
        "empty-app.jpg": (jpeg[:2] + b"\xff\xe1\0\2" + jpeg[2:], of_jpeg),
        "short-app.jpg": (jpeg[:2] + b"\xff\xe1\0\1" + jpeg[2:], of_jpeg),
        "turned.jpg": (encoded(image, "JPEG", exif=turned), of_jpeg),
        "turned.png": (encoded(image, "PNG", exif=turned), RGB),
        "turned.tif": (encoded(image, "TIFF", exif=turned), RGB),
        "grey-16.png": (png16(0, 1), grey(high[..., 0])),
        "rgb-16.png": (png16(2, 3), high[..., :3]),
        "grey-alpha-16.png": (png16(4, 2), grey(high[..., 0])),
        "rgba-16.png": (png16(6, 4), high[..., :3]),
        "grey-16.tiff": (encoded(Image.fromarray(WIDE[..., 0]), "TIFF"), grey(high[..., 0])),
        "grey-16.pgm": (b"P5 12 24 65535\n" + WIDE[..., 0].astype(">u2").tobytes(), grey(high[..., 0])),
        "grey-alpha.png": (encoded(Image.fromarray(np.stack([GREY, GREY[::-1]], -1), "LA"), "PNG"), grey(GREY)),
        "palette.png": (encoded(palette, "PNG"), of_palette),
        "palette-alpha.png": (encoded(palette, "PNG", transparency=bytes(range(256))), of_palette),
        "grey-transparent.png": (encoded(Image.fromarray(GREY), "PNG", transparency=7), grey(GREY)),
        "rgb-transparent.png": (encoded(image, "PNG", transparency=(1, 2, 3)), RGB),
        "photo.webp": (webp, by_pillow(webp)),
        "scan.bmp": (encoded(image, "BMP"), RGB),
        "scan.tif": (encoded(image, "TIFF", compression="tiff_lzw"), RGB),
        "drawing.gif": (encoded(palette, "GIF", transparency=3), of_palette),
        "upper.PNG": (png, RGB),
        "float.tif": (encoded(Image.fromarray(GREY.astype(np.float32)), "TIFF"), None),
        "integers.tif": (encoded(Image.fromarray(GREY.astype(np.int32)), "TIFF"), None),
        "truncated.jpg": (jpeg[: len(jpeg) // 2], None),
        "truncated.png": (png[: len(png) // 2], None),
        "truncated.tif": (encoded(image, "TIFF")[:40], None),
        "truncated.webp": (webp[: len(webp) // 2], None),
        "nothing.jpg": (b"", None),
        "text.jpg": (b"no image at all", None),
        "huge.jpg": (bomb, None),
        "huge-after-garbage.jpg": (bomb[:2] + b"abc" + bomb[2:], None),
        "huge.bmp": (b"BM" + bytes(12) + struct.pack("<IiiHHI", 40, 1 << 15, 1 << 15, 1, 24, 0) + bytes(90), None),
        "other.png": (encoded(image, "JPEG2000"), None),
    }
