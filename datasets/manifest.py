"""manifest.json: what a data set holds. Written last, so that a folder without it is unfinished."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from datasets.errors import DataError

MANIFEST = "manifest.json"
INDEX = "index.parquet"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Shard:
    """One Parquet file: path below the data set, rows, row groups, bytes, hex SHA-256 of the file."""

    path: str
    rows: int
    groups: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Split:
    """Counts of one split. clothes: pairs (person, clothes). masks: rows with a parsing mask.

    image_size: (height, width) where the headers of all images say the same, else None.
    """

    rows: int
    persons: int
    clothes: int
    cameras: int
    sequences: int
    masks: int
    shards: tuple[Shard, ...]
    image_size: tuple[int, int] | None = None

    @property
    def groups(self) -> int:
        return sum(shard.groups for shard in self.shards)


@dataclass(frozen=True)
class Index:
    """index.parquet: rows, bytes, hex SHA-256."""

    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a data set is. captions: {"persons": {person: text}, "clothes": {person: {clothes: text}}} or None.

    extra: plain data that a converter records (quarantined files, lists of the data set, where a holdout came from).
    """

    name: str
    version: str
    licence: str
    label_map: str | None
    protocol: str
    splits: dict[str, Split]
    index: Index
    captions: dict[str, Any] | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    @property
    def fingerprint(self) -> str:
        """Hex SHA-256 of the content in canonical JSON: keys sorted, no spaces, UTF-8."""
        text = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def to_json(self) -> bytes:
        """The file's bytes: content and fingerprint, indented for people."""
        return (
            json.dumps(asdict(self) | {"fingerprint": self.fingerprint}, indent=1, ensure_ascii=False).encode() + b"\n"
        )


def read_manifest(data: bytes, address: str) -> Manifest:
    """The manifest in a file's bytes.

    Raises: DataError naming `address` when it is no manifest, of another schema version, or edited by hand.
    """
    try:
        content = json.loads(data)
        version = content["schema_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{address} is not a manifest of this program ({error}); convert the data set again") from error
    if version != SCHEMA_VERSION:
        raise DataError(
            f"{address} has schema version {version!r}, this program reads {SCHEMA_VERSION}; "
            "use the program version that wrote it, or convert the data set again"
        )
    try:
        written = content.pop("fingerprint")
        manifest = _from_plain(content)
        counted = manifest.fingerprint
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(f"{address} lacks or misnames {error}; convert the data set again") from error
    if counted != written:
        raise DataError(
            f"{address} was changed after it was written: its content gives fingerprint {counted}, it says {written}; "
            "restore it or convert the data set again"
        )
    return manifest


def _from_plain(content: Mapping[str, Any]) -> Manifest:
    splits = {name: _split(split) for name, split in content["splits"].items()}
    return Manifest(**{**content, "splits": splits, "index": Index(**content["index"])})


def _split(plain: Mapping[str, Any]) -> Split:
    size = plain.get("image_size")
    shards = tuple(Shard(**shard) for shard in plain["shards"])
    return Split(**{**plain, "shards": shards, "image_size": None if size is None else (int(size[0]), int(size[1]))})
