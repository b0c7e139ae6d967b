"""The indexes of splits as plain arrays, which processes can map (`storage.shared_arrays`), and back.

Labels become arrays as they are. Names, places and footers stay packed: each is decoded where it is asked for. Half a million
names as Python strings would take 30 MiB in every process that trains, and training reads none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Generic, TypeVar, overload

import numpy as np
import pyarrow as pa

from datasets.format.index import GroupPlace, SplitIndex
from datasets.format.manifest import Split

VERSION = 1  # of the arrays' names and meaning
LABELS = ("person", "clothes", "camera", "sequence", "group", "row_in_group")
NUMBERS = ("group", "offset", "length", "rows")  # of a row group
Arrays = Mapping[str, np.ndarray]
Item = TypeVar("Item")


class Lazy(Sequence[Item], Generic[Item]):
    """A sequence that makes an item each time it is asked for."""

    def __init__(self, length: int, item: Callable[[int], Item]) -> None:
        self._length, self._item = length, item

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, at: int) -> Item: ...

    @overload
    def __getitem__(self, at: slice) -> list[Item]: ...

    def __getitem__(self, at: int | slice) -> Item | list[Item]:
        if isinstance(at, slice):
            return [self._item(i) for i in range(*at.indices(self._length))]
        if not -self._length <= at < self._length:
            raise IndexError(at)
        return self._item(at % self._length)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(lambda a, b: a == b, self, other))

    __hash__ = None  # type: ignore[assignment]


class Footers(Mapping[str, bytes]):
    """The footer of each shard by its path."""

    def __init__(self, shards: Sequence[str], footers: Sequence[bytes]) -> None:
        self._at = {shard: at for at, shard in enumerate(shards)}
        self._footers = footers

    def __len__(self) -> int:
        return len(self._at)

    def __iter__(self) -> Iterator[str]:
        return iter(self._at)

    def __getitem__(self, shard: str) -> bytes:
        return self._footers[self._at[shard]]


def to_arrays(indexes: Sequence[SplitIndex], footers: Sequence[Mapping[str, bytes]]) -> dict[str, np.ndarray]:
    """The arrays of indexes with one numbering (`Dataset.indexes`). footers: of each split's shards."""
    names = indexes[0]
    arrays = {"clothes_owner": names.clothes_owner()}
    arrays |= _packed("person_names", _encoded(names.person_names))
    arrays |= _packed("outfit_names", _encoded(outfit for _, outfit in names.clothes_names))
    arrays |= _packed("camera_names", _encoded(names.camera_names))
    arrays |= _packed("sequence_names", _encoded(names.sequence_names))
    for index, of_shards in zip(indexes, footers, strict=True):
        split = index.split
        arrays |= {f"{split}/{label}": getattr(index, label) for label in LABELS}
        arrays |= _packed(f"{split}/shards", _encoded(of_shards))
        arrays |= _packed(f"{split}/footers", list(of_shards.values()))
        number = {shard: at for at, shard in enumerate(of_shards)}
        arrays[f"{split}/places.shard"] = np.array([number[place.shard] for place in index.groups], np.int64)
        for name in NUMBERS:
            arrays[f"{split}/places.{name}"] = np.array([getattr(place, name) for place in index.groups], np.int64)
        digests = b"".join(bytes.fromhex(place.sha256) for place in index.groups)
        arrays[f"{split}/places.sha256"] = np.frombuffer(digests, np.uint8).reshape(len(index.groups), -1)
    return arrays


def from_arrays(
    arrays: Arrays, splits: Mapping[str, Split], texts: Callable[[str, str], pa.ChunkedArray]
) -> tuple[tuple[SplitIndex, ...], tuple[Footers, ...]]:
    """The inverse of `to_arrays`. splits: the manifest's entries, in the order of the indexes. texts: as `SplitIndex` has."""
    owner = arrays["clothes_owner"]
    persons, outfits = _texts(arrays, "person_names"), _texts(arrays, "outfit_names")
    clothes = Lazy(len(owner), lambda at: (persons[int(owner[at])], outfits[at]))
    cameras, sequences = _texts(arrays, "camera_names"), _texts(arrays, "sequence_names")
    indexes, footers = [], []
    for split, entry in splits.items():
        shards = _texts(arrays, f"{split}/shards")
        indexes.append(
            SplitIndex(
                split=split,
                **{label: arrays[f"{split}/{label}"] for label in LABELS},
                person_names=persons,
                clothes_names=clothes,
                camera_names=cameras,
                sequence_names=sequences,
                groups=_places(arrays, split, shards),
                has_parsing=entry.masks == entry.rows,
                _texts=texts,
                _owner=owner,
            )
        )
        footers.append(Footers(shards, _bytes(arrays, f"{split}/footers")))
    return tuple(indexes), tuple(footers)


def _places(arrays: Arrays, split: str, shards: Sequence[str]) -> Lazy[GroupPlace]:
    shard, digest = arrays[f"{split}/places.shard"], arrays[f"{split}/places.sha256"]
    group, offset, length, rows = (arrays[f"{split}/places.{name}"] for name in NUMBERS)

    def place(at: int) -> GroupPlace:
        return GroupPlace(
            shard=shards[int(shard[at])],
            group=int(group[at]),
            offset=int(offset[at]),
            length=int(length[at]),
            sha256=digest[at].tobytes().hex(),
            rows=int(rows[at]),
        )

    return Lazy(len(shard), place)


def _packed(name: str, texts: Sequence[bytes]) -> dict[str, np.ndarray]:
    """Texts in a row, and where each begins."""
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    first = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return {f"{name}.first": first, f"{name}.text": np.frombuffer(b"".join(texts), np.uint8)}


def _encoded(texts: Iterable[str]) -> list[bytes]:
    return [text.encode() for text in texts]


def _bytes(arrays: Arrays, name: str) -> Lazy[bytes]:
    first, text = arrays[f"{name}.first"], arrays[f"{name}.text"]
    return Lazy(len(first) - 1, lambda at: text[first[at] : first[at + 1]].tobytes())


def _texts(arrays: Arrays, name: str) -> Lazy[str]:
    packed = _bytes(arrays, name)
    return Lazy(len(packed), lambda at: packed[at].decode())
