"""The columns of a shard and a sample."""

import hashlib
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

SHARD_SCHEMA = pa.schema(
    [
        pa.field("image", pa.binary(), nullable=False),
        pa.field("parsing", pa.binary()),
        pa.field("person", pa.string(), nullable=False),
        pa.field("clothes", pa.string()),
        pa.field("camera", pa.string()),
        pa.field("sequence", pa.string()),
        pa.field("frame", pa.string()),
        pa.field("key", pa.string(), nullable=False),
        pa.field("checksum", pa.string(), nullable=False),
    ]
)
LABEL_COLUMNS = ("person", "clothes", "camera", "sequence", "frame", "key")


@dataclass(frozen=True, slots=True)
class Sample:
    """One row as it is written: labels are the data set's own strings, bytes are never re-encoded.

    image: an encoded image of one of `decode.KINDS`. parsing: 8-bit PNG label map of the image's size, or None.
    person, clothes, camera, sequence, frame: labels, None where the data set has none.
    key: the path below the data set's root, unique within a split.
    """

    image: bytes
    parsing: bytes | None
    person: str
    clothes: str | None
    camera: str | None
    sequence: str | None
    frame: str | None
    key: str


def checksum(image: Any, parsing: Any) -> str:
    """Hex SHA-256 of a row's image and parsing: the image's length (8 bytes, little endian), image, parsing.

    Both are bytes or uint8 [n]; parsing may be None, which adds nothing. With the length, a byte cannot move from one to
    the other unnoticed.
    """
    digest = hashlib.sha256(len(image).to_bytes(8, "little"))
    digest.update(image)
    if parsing is not None:
        digest.update(parsing)
    return digest.hexdigest()
