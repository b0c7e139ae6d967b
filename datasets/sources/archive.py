"""An archive as a source: its members are listed once, then each is read in place. Nothing is unpacked.

Archives are untrusted: number, size, unpacked size and paths of members are bounded. A member that is neither a file, nor a
folder, nor a link to one in the archive is never opened.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

from datasets.errors import DataError
from datasets.sources.members import BAD, FOLDER, Members
from datasets.sources.source import Child, Offender, Source, TooLarge, join, may_be_root

# Images and masks are compressed already: even tiny masks in a tar stay below a ratio of 10.
MAX_RATIO, FREE_BYTES = 100, 256 << 20
MAX_HEADER_BYTES = 1 << 20  # of one member
_NEAR = 64

Progress = Callable[[int, int], None]  # bytes of the archive processed, and their total


class BadMember(OSError):  # noqa: N818
    """A member's bytes cannot be unpacked, or differ from what the archive declares."""


class Reader(Protocol):
    """Reads a member's bytes, given the integers noted of it (`Members`); safe from several threads."""

    def __call__(self, noted: Sequence[int], most: int) -> bytes: ...


class Archive:
    """The members below a folder of an archive."""

    def __init__(self, file: BinaryIO, members: Members, reader: Reader, prefix: str = "") -> None:
        self._file, self._members, self._reader, self._prefix = file, members, reader, prefix
        self._changed_ns = os.stat(members.name).st_mtime_ns

    @property
    def offenders(self) -> Sequence[Offender]:
        return self._members.offenders

    @property
    def warnings(self) -> Sequence[str]:
        num = self._members.num_twice
        return [f"{self._members.name} has {num} members twice or more; the last of each is used"] if num else []

    def where(self, path: str = "") -> str:
        inside = join(self._prefix, path)
        return f"{self._members.name}: {inside}" if inside else self._members.name

    def is_file(self, path: str) -> bool:
        return self._number(path) >= 0 or join(self._prefix, path) in self._members.bad

    def is_folder(self, path: str) -> bool:
        return self._folder(path) is not None

    def children(self, folder: str) -> list[Child]:
        names = self._folder(folder) or {}
        return [self._child(folder, name, names[name]) for name in sorted(names)]

    def offender_at(self, path: str) -> Offender | None:
        found = self._members.bad.get(join(self._prefix, path))
        return None if found is None else Offender(path, found.problem, found.remedy)

    def read(self, path: str, most: int) -> bytes:
        noted = self._members.noted(self._found(path))
        if noted[0] > most:
            raise TooLarge(f"{path} has {noted[0]} bytes")
        return self._reader(noted, most)

    def stamp(self, path: str) -> tuple[int, int]:
        return int(self._members.noted(self._found(path))[0]), self._changed_ns

    def below(self, folder: str) -> Archive:
        return Archive(self._file, self._members, self._reader, join(self._prefix, folder))

    def near(self) -> Iterator[Archive]:
        """The folders one level down, then two."""
        below = [child.name for child in self.children("") if child.is_folder and may_be_root(child.name)][:_NEAR]
        yield from (self.below(name) for name in below)
        for name in below:
            deeper = [child.name for child in self.children(name) if child.is_folder][:_NEAR]
            yield from (self.below(join(name, one)) for one in deeper)

    def is_same(self, other: Source) -> bool:
        return isinstance(other, Archive) and os.path.samefile(other._members.name, self._members.name)

    @property
    def path(self) -> str:
        """The path of the archive itself."""
        return self._members.name

    def top(self) -> Archive:
        return Archive(self._file, self._members, self._reader)

    @property
    def prefix(self) -> str:
        """The folder in the archive that is this source's root; "" is the archive's top."""
        return self._prefix

    def ends(self, path: str) -> Iterator[str]:
        """The folders below the root in which the relative path is a file."""
        folder, _, name = path.rpartition("/")
        tail = f"/{folder}" if folder else ""
        for place, names in self._members.folders.items():
            if names.get(name, FOLDER) >= 0 and f"/{place}".endswith(tail):
                found = f"/{place}"[: len(place) + 1 - len(tail)].strip("/")
                if found == self._prefix or found.startswith(f"{self._prefix}/" if self._prefix else ""):
                    yield found[len(self._prefix) :].strip("/")

    def close(self) -> None:
        self._file.close()

    def _folder(self, path: str) -> Mapping[str, int] | None:
        real = self._members.real(join(self._prefix, path))
        return None if real is None else self._members.folders.get(real)

    def _number(self, path: str) -> int:
        """The file's number among the members, negative where there is none."""
        real = self._members.real(join(self._prefix, path))
        folder, _, name = (real or "").rpartition("/")
        return self._members.folders.get(folder, {}).get(name, BAD)

    def _found(self, path: str) -> int:
        number = self._number(path)
        if number < 0:
            raise FileNotFoundError(f"{self.where(path)} is no readable file")
        return number

    def _child(self, folder: str, name: str, number: int) -> Child:
        path = join(folder, name)
        is_folder = number == FOLDER or (number == BAD and self.is_folder(path))
        return Child(name, is_folder, number == BAD, self.offender_at(path) if number == BAD else None)


def check_unpacked(name: str, unpacked: int, packed: int) -> None:
    """Raises: DataError when an archive unpacks to more than any data set would."""
    if unpacked > FREE_BYTES + MAX_RATIO * packed:
        raise DataError(
            f"{name} unpacks to more than {MAX_RATIO} times its {packed:,} bytes, like a decompression bomb; nothing of "
            "it was used. If you trust it, unpack it and give the folder as the source"
        )


class BoundedReader:
    """An archive's file that is read at most `most` bytes at once: a larger header is refused.

    Raises: DataError from `read`.
    """

    def __init__(self, file: BinaryIO, name: str, most: int) -> None:
        self._file, self._name, self._most = file, name, most

    def read(self, num_bytes: int = -1) -> bytes:
        requested = num_bytes if num_bytes >= 0 else os.fstat(self._file.fileno()).st_size - self._file.tell()
        if requested > self._most:
            raise DataError(
                f"{self._name} has headers of more than {self._most:,} bytes; it is damaged, or made to exhaust memory. "
                "Pack it again, or unpack it and give the folder as the source"
            )
        return self._file.read(num_bytes)

    def seek(self, position: int, whence: int = 0) -> int:
        return self._file.seek(position, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True


def name_of(path: Path) -> str:
    return str(path.resolve())
