"""manifest.json: the content of a data set. It is written last, so a folder without it is unfinished."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from datasets.errors import DataError

MANIFEST = "manifest.json"
INDEX = "index.parquet"
SCHEMA_VERSION = 1
SPLIT_NAME = re.compile(r"[a-z][a-z0-9_]*")
_SHARD_NAME = re.compile(r"[a-z0-9_]+/\d{5,}\.parquet", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{64}")
_MOST = 1 << 62


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

    image_size: (height, width) where the headers of all images agree, else None.
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
    """The description of a data set.

    label_map: a name of LABEL_MAPS, None without masks. protocol: a name of PROTOCOLS.
    captions: ``{"persons": {person: text}, "clothes": {person: {clothes: text}}}`` or None.
    extra: plain data that a converter records: quarantined files, lists of the data set, the origin of a holdout.
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
        return _fingerprint(asdict(self))

    def to_json(self) -> bytes:
        """The file's bytes: content and fingerprint as indented JSON."""
        return (
            json.dumps(asdict(self) | {"fingerprint": self.fingerprint}, indent=1, ensure_ascii=False).encode() + b"\n"
        )


def read_manifest(data: bytes, address: str) -> Manifest:
    """The manifest in a file's bytes.

    Raises: DataError naming `address` when it is no manifest, has another schema version, was edited by hand, or is
    inconsistent.
    """
    try:
        content = json.loads(data)
        version = content["schema_version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{address} is not a manifest of this program ({error}); convert the data set again") from error
    if version != SCHEMA_VERSION or isinstance(version, bool | float):
        raise DataError(
            f"{address} has schema version {version!r}, this program reads {SCHEMA_VERSION}; "
            "use the program version that wrote it, or convert the data set again"
        )
    try:
        if strange := content.keys() ^ {"fingerprint", *(field.name for field in fields(Manifest))}:
            raise KeyError(", ".join(sorted(strange)))
        written = content.pop("fingerprint")
        counted = _fingerprint(content)
        if counted != written:
            raise DataError(
                f"{address} was changed after it was written: its content has fingerprint {counted}, it says {written}; "
                "restore it or convert the data set again"
            )
        return _manifest(content)
    except _Wrong as error:
        raise DataError(f"{address} is inconsistent: {error}; restore it or convert the data set again") from error
    except (KeyError, TypeError, AttributeError, UnicodeEncodeError) as error:
        raise DataError(f"{address} lacks or misnames {error}; convert the data set again") from error


def _fingerprint(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


class _Wrong(Exception):  # noqa: N818
    """A value of a manifest is impossible."""


def _manifest(content: Mapping[str, Any]) -> Manifest:
    for name in ("name", "version", "licence", "protocol"):
        _expect(isinstance(content[name], str), name, content[name], "a text")
    _expect(isinstance(content["label_map"], str | None), "label_map", content["label_map"], "a text or null")
    _expect(isinstance(content["captions"], dict | None), "captions", content["captions"], "an object or null")
    _expect(isinstance(content["extra"], dict), "extra", content["extra"], "an object")
    _expect(isinstance(content["splits"], dict) and content["splits"], "splits", content["splits"], "an object")
    splits = {name: _split(name, split) for name, split in content["splits"].items()}
    index = Index(**content["index"])
    _count("index.rows", index.rows, sum(split.rows for split in splits.values()), exactly=True)
    _count("index.bytes", index.bytes, 1)
    _digest("index.sha256", index.sha256)
    return Manifest(**{**content, "splits": splits, "index": index})


def _split(name: str, plain: Mapping[str, Any]) -> Split:
    where = f"splits.{name}"
    _expect(SPLIT_NAME.fullmatch(name) is not None, where, name, "a name of lower-case letters, digits and _")
    _expect(isinstance(plain["shards"], list) and plain["shards"], f"{where}.shards", plain["shards"], "a list")
    shards = tuple(_shard(f"{where}.shards.{at}", name, shard) for at, shard in enumerate(plain["shards"]))
    _expect(len({shard.path for shard in shards}) == len(shards), where, "a path twice", "each shard once")
    size = plain["image_size"]
    if size is not None:
        _expect(isinstance(size, list) and len(size) == 2, f"{where}.image_size", size, "height and width, or null")
        for length in size:
            _count(f"{where}.image_size", length, 1)
        size = (size[0], size[1])
    split = Split(**{**plain, "shards": shards, "image_size": size})
    _count(f"{where}.rows", split.rows, sum(shard.rows for shard in shards), exactly=True)
    _count(f"{where}.persons", split.persons, 1)
    for kind in ("clothes", "cameras", "sequences", "masks"):
        _count(f"{where}.{kind}", getattr(split, kind), 0)
    return split


def _shard(where: str, split: str, plain: Mapping[str, Any]) -> Shard:
    shard = Shard(**plain)
    _expect(
        isinstance(shard.path, str) and shard.path.startswith(f"{split}/") and _SHARD_NAME.fullmatch(shard.path),
        f"{where}.path",
        shard.path,
        f"a path such as {split}/00000.parquet",
    )
    for kind in ("rows", "groups", "bytes"):
        _count(f"{where}.{kind}", getattr(shard, kind), 1)
    _expect(shard.groups <= shard.rows, f"{where}.groups", shard.groups, f"at most its {shard.rows} rows")
    _digest(f"{where}.sha256", shard.sha256)
    return shard


def _count(where: str, found: object, least: int, *, exactly: bool = False) -> None:
    is_number = isinstance(found, int) and not isinstance(found, bool)
    right = is_number and (found == least if exactly else least <= found <= _MOST)  # type: ignore[operator]
    _expect(right, where, found, f"{least}" if exactly else f"a whole number from {least} on")


def _digest(where: str, found: object) -> None:
    _expect(isinstance(found, str) and _DIGEST.fullmatch(found), where, found, "64 hexadecimal digits")


def _expect(is_right: object, where: str, found: object, expected: str) -> None:
    if not is_right:
        shown = repr(found)
        raise _Wrong(f"{where} is {shown if len(shown) < 80 else f'{shown[:80]}…'}, expected {expected}")
