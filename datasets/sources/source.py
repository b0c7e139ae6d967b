"""The interface through which a layout reads: names of files and folders, and the files' bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

LISTS_BYTES = 1 << 30  # at most, of a list or a table; images have a limit of their own


@dataclass(frozen=True, slots=True)
class Offender:
    """Something that cannot be converted. path: below the root, with its line where it is a line of a list.

    The manifest of a conversion with --quarantine records path and problem, and its digest is the data set's fingerprint:
    another wording of a problem gives another plan of the same data.
    """

    path: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}; {self.remedy}"


@dataclass(frozen=True, slots=True)
class Child:
    """A name in a folder. offender: why it must not be opened, None when it may be."""

    name: str
    is_folder: bool
    is_link: bool = False
    offender: Offender | None = None


class TooLarge(OSError):  # noqa: N818  (what it is, said plainly)
    """A file has more bytes than the caller allows."""


class Source(Protocol):
    """Files under one root, which no path leads out of. Paths are relative, with "/"; "" is the root.

    Reading is safe from several threads.
    """

    @property
    def offenders(self) -> Sequence[Offender]:
        """Offenders known before any folder is listed: members of an archive whose paths cannot be in it."""

    @property
    def warnings(self) -> Sequence[str]: ...

    def where(self, path: str = "") -> str:
        """The place as messages show it."""

    def is_file(self, path: str) -> bool:
        """Whether there is a file, even one that must not be opened."""

    def is_folder(self, path: str) -> bool: ...

    def children(self, folder: str) -> list[Child]:
        """Names directly in the folder, sorted; none where it is no folder."""

    def offender_at(self, path: str) -> Offender | None:
        """Why a path must not be opened, None when it may be."""

    def read(self, path: str, most: int) -> bytes:
        """The whole file. Raises: TooLarge above `most` bytes, OSError."""

    def stamp(self, path: str) -> tuple[int, int]:
        """Size in bytes and time of the last change in ns: the file counts as unchanged while both are. Raises: OSError."""

    def below(self, folder: str) -> Source:
        """The source whose root is `folder`."""

    def near(self) -> Iterator[Source]:
        """Folders that may have been meant instead of this one."""

    def is_same(self, other: Source) -> bool:
        """Whether both are one folder or one archive, at any depth."""

    def close(self) -> None: ...


def may_be_root(name: str) -> bool:
    """Whether a folder of this name may be a data set: a Mac packs a second tree of its own metadata as __MACOSX."""
    return name != "__MACOSX" and not name.startswith(".")


def join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder and name else folder or name


def walk(source: Source, folder: str = "") -> Iterator[tuple[str, Child]]:
    """Every file below the folder with its path, sorted within a folder; offenders too. Links to folders are not followed."""
    for child in source.children(folder):
        path = join(folder, child.name)
        if child.is_folder and not child.is_link and child.offender is None:
            yield from walk(source, path)
        elif not child.is_folder:
            yield path, child
