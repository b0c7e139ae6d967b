"""An archive as a source: its members are listed once, then each is read where it lies. Nothing is unpacked.

What comes in an archive comes from outside: number, size, unpacked size and place of its members are bounded, and what is
neither a file nor a folder nor a link to one within is never opened.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Protocol

from datasets.errors import DataError
from datasets.sources.source import Child, Offender, Source, TooLarge, join

MAX_MEMBERS = 4_000_000
MAX_PATH = 1024
MAX_RATIO, FREE_BYTES = (
    100,
    256 << 20,
)  # images and masks are compressed already: even tiny masks in a tar stay below 10
MAX_HEADER_BYTES = 1 << 20  # of one member
_MAX_LINKS = 40
_NEAR = 64

Progress = Callable[[int, int], None]  # bytes of the archive gone through, bytes in all


class BadMember(OSError):  # noqa: N818
    """A member's bytes cannot be unpacked, or are not those that the archive promises."""


class Reader(Protocol):
    """Gives the bytes of a member by what was noted of it; safe from several threads."""

    def __call__(self, noted: Sequence[int], most: int) -> bytes: ...


class Members:
    """The tree of an archive's members, filled while it is listed.

    width: integers noted of each file, its size first.
    """

    def __init__(self, name: str, width: int) -> None:
        self.name, self.width = name, width
        self.folders: dict[str, dict[str, int]] = {"": {}}  # folder → name → number of the file, _FOLDER for a folder
        self.links: dict[str, str] = {}  # path → target within
        self.bad: dict[str, Offender] = {}  # path → why it is not to be opened
        self.offenders: list[Offender] = []  # what has no place in the tree
        self.num_twice = 0
        self._noted = array("q")
        self._num = 0

    def __len__(self) -> int:
        return self._num

    def noted(self, number: int) -> Sequence[int]:
        return self._noted[number * self.width : (number + 1) * self.width]

    def add_folder(self, written: str) -> None:
        if (path := self._place(written)) is not None:
            self._make(path)

    def add_file(self, written: str, noted: Sequence[int]) -> None:
        if self._put(written, self._num):
            self._noted.extend(noted)
            self._num += 1
            if self._num > MAX_MEMBERS:
                raise DataError(
                    f"{self.name} has more than {MAX_MEMBERS:,} files; unpack it and give the folder as the source"
                )

    def add_hard_link(self, written: str, target: str) -> None:
        folder, _, name = _plain(target).rpartition("/")
        number = self.folders.get(folder, {}).get(name, _FOLDER)
        if number < 0:
            self.add_bad(
                written, f"is a hard link to {target}, no file that came before it", "put the file itself there"
            )
        else:
            self._put(written, number)

    def add_link(self, written: str, target: str) -> None:
        """A symbolic link; where it leads is looked at once everything is listed."""
        if self._put(written, _BAD):
            self.links[_plain(written)] = target

    def add_bad(self, written: str, problem: str, remedy: str) -> None:
        """A member that is not to be opened."""
        if self._put(written, _BAD):
            self.bad[_plain(written)] = Offender(_plain(written), problem, remedy)

    def resolve_links(self) -> None:
        for path, target in self.links.items():
            placed = "/" if target.startswith("/") else os.path.normpath(join(str(PurePosixPath(path).parent), target))
            if placed.startswith(("/", "..")):
                out = "is a symbolic link that leads out of the archive"
                self.bad[path] = Offender(path, out, "put the file itself there")
            else:
                self.links[path] = "" if placed == "." else placed
        for path in self.links:
            if path not in self.bad and self.real(path) is None:
                remedy = "put the file itself there, or remove it"
                self.bad[path] = Offender(path, "is a symbolic link that leads nowhere", remedy)

    def real(self, path: str) -> str | None:
        """The path without links in it, None where it leads nowhere or to what is not to be opened."""
        if not self.links:
            return path
        for _ in range(_MAX_LINKS):
            parts = path.split("/") if path else []
            heads = ("/".join(parts[:end]) for end in range(1, len(parts) + 1))
            head = next((head for head in heads if head in self.links), None)
            if head is None:
                return path if self._is_there(path) else None
            if head in self.bad:
                return None
            path = join(self.links[head], path[len(head) + 1 :])
        return None

    def _is_there(self, path: str) -> bool:
        folder, _, name = path.rpartition("/")
        return path in self.folders or self.folders.get(folder, {}).get(name, _BAD) >= 0

    def _put(self, written: str, number: int) -> bool:
        path = self._place(written)
        if path is None:
            return False
        folder, _, name = path.rpartition("/")
        names = self._make(folder)
        if not name or names is None or path in self.folders:
            self.offenders.append(Offender(repr(written), "is a file and a folder at once", "pack the archive anew"))
            return False
        if name in names:  # unpacking would write the later one over it
            self.num_twice += 1
            self.links.pop(path, None)
            self.bad.pop(path, None)
        names[name] = number
        return True

    def _make(self, folder: str) -> dict[str, int] | None:
        """The names of a folder, made with all above it; None where one of them is a file."""
        if folder not in self.folders:
            above, _, name = folder.rpartition("/")
            names = self._make(above)
            if names is None or names.setdefault(name, _FOLDER) != _FOLDER:
                return None
            self.folders[folder] = {}
        return self.folders[folder]

    def _place(self, written: str) -> str | None:
        """The path below the archive's top, None after a report."""
        problem = None
        if len(written) > MAX_PATH:
            problem, written = f"a path of {len(written)} characters", f"{written[:80]}…"
        elif written.startswith("/") or (len(written) > 1 and written[1] == ":"):
            problem = "an absolute path"
        elif ".." in written.split("/"):
            problem = "a path that leads out of the archive"
        elif "\\" in written or "\0" in written:
            problem = "a path with a backslash or a zero byte"
        else:
            try:
                written.encode()
            except UnicodeEncodeError:
                problem = "the name is not UTF-8"
        if problem is None:
            return _plain(written)
        shown = written if written.isprintable() else repr(written)
        self.offenders.append(Offender(shown, f"{problem}; it is not read", "pack the archive anew without it"))
        return None


_FOLDER, _BAD = -1, -2


def _plain(written: str) -> str:
    return "/".join(part for part in written.split("/") if part not in ("", "."))


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
        return [f"{self._members.name} has {num} members twice or more; the last of each counts"] if num else []

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

    def trouble(self, path: str) -> Offender | None:
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
        """One level down, then two."""
        below = [child.name for child in self.children("") if child.is_folder][:_NEAR]
        yield from (self.below(name) for name in below)
        for name in below:
            deeper = [child.name for child in self.children(name) if child.is_folder][:_NEAR]
            yield from (self.below(join(name, one)) for one in deeper)

    def is_same(self, other: Source) -> bool:
        return isinstance(other, Archive) and os.path.samefile(other._members.name, self._members.name)

    @property
    def path(self) -> str:
        """Of the archive itself."""
        return self._members.name

    def top(self) -> Archive:
        return Archive(self._file, self._members, self._reader)

    @property
    def prefix(self) -> str:
        """The folder in the archive that is the root; "" is its top."""
        return self._prefix

    def ends(self, path: str) -> Iterator[str]:
        """The folders below the root in which the relative path is a file."""
        folder, _, name = path.rpartition("/")
        tail = f"/{folder}" if folder else ""
        for place, names in self._members.folders.items():
            if names.get(name, _FOLDER) >= 0 and f"/{place}".endswith(tail):
                found = f"/{place}"[: len(place) + 1 - len(tail)].strip("/")
                if found == self._prefix or found.startswith(f"{self._prefix}/" if self._prefix else ""):
                    yield found[len(self._prefix) :].strip("/")

    def close(self) -> None:
        self._file.close()

    def _folder(self, path: str) -> Mapping[str, int] | None:
        real = self._members.real(join(self._prefix, path))
        return None if real is None else self._members.folders.get(real)

    def _number(self, path: str) -> int:
        """Of the file among the members, below 0 where there is none."""
        real = self._members.real(join(self._prefix, path))
        folder, _, name = (real or "").rpartition("/")
        return self._members.folders.get(folder, {}).get(name, _BAD)

    def _found(self, path: str) -> int:
        number = self._number(path)
        if number < 0:
            raise FileNotFoundError(f"{self.where(path)} is no file that can be read")
        return number

    def _child(self, folder: str, name: str, number: int) -> Child:
        path = join(folder, name)
        is_folder = number == _FOLDER or (number == _BAD and self.is_folder(path))
        return Child(name, is_folder, number == _BAD, self.trouble(path) if number == _BAD else None)


def check_unpacked(name: str, unpacked: int, packed: int) -> None:
    """Raises: DataError when an archive unpacks to more than any data set would."""
    if unpacked > FREE_BYTES + MAX_RATIO * packed:
        raise DataError(
            f"{name} unpacks to more than {MAX_RATIO} times its {packed:,} bytes, as a decompression bomb does; nothing of "
            "it was used. If it is sound, unpack it and give the folder as the source"
        )


class Careful:
    """An archive's file whose directory is read in bounded pieces: what claims to be larger is refused."""

    def __init__(self, file: BinaryIO, name: str, most: int) -> None:
        self._file, self._name, self._most = file, name, most

    def read(self, num_bytes: int = -1) -> bytes:
        asked = num_bytes if num_bytes >= 0 else os.fstat(self._file.fileno()).st_size - self._file.tell()
        if asked > self._most:
            raise DataError(
                f"{self._name} has headers of more than {self._most:,} bytes; it is damaged, or made to exhaust memory. "
                "Pack it anew, or unpack it and give the folder as the source"
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
