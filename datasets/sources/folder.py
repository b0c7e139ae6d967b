"""A folder on disk as a source. Links may lead within it, never out of it; only regular files are opened."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from datasets.sources.source import Child, Offender, Source, TooLarge, join, may_be_root

_OUT = "is a symbolic link that leads out of the tree"
_NEAR = 64  # folders examined at most


class Folder:
    """The files below `root`."""

    def __init__(self, root: Path) -> None:
        self.given = root
        self.root = root.resolve()
        self._base = str(self.root)

    @property
    def offenders(self) -> Sequence[Offender]:
        return ()

    @property
    def warnings(self) -> Sequence[str]:
        return ()

    def where(self, path: str = "") -> str:
        return f"{self._base}/{path}" if path else self._base

    def is_file(self, path: str) -> bool:
        return os.path.isfile(self.where(path))

    def is_folder(self, path: str) -> bool:
        return os.path.isdir(self.where(path))

    def children(self, folder: str) -> list[Child]:
        if not self.is_folder(folder):
            return []
        with os.scandir(self.where(folder)) as entries:
            return sorted((self._child(entry, folder) for entry in entries), key=lambda child: child.name)

    def offender_at(self, path: str) -> Offender | None:
        place = Path(self.where(path))
        if not os.path.lexists(place):  # also for what can be no path: too long, with a zero byte
            return None
        target = place.resolve()
        if not target.is_relative_to(self.root):
            return Offender(path, _OUT, f"put the {'folder' if target.is_dir() else 'file'} itself there")
        if place.is_symlink() and not target.exists():
            return Offender(path, "is a symbolic link that leads nowhere", "put the file itself there, or remove it")
        if target.exists() and not (target.is_file() or target.is_dir()):
            return Offender(path, "is no regular file", "remove it from the tree")
        return None

    def read(self, path: str, most: int) -> bytes:
        descriptor = os.open(f"{self._base}/{path}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise OSError(f"{path} is no regular file")
            if found.st_size > most:
                raise TooLarge(f"{path} has {found.st_size} bytes")
            data = os.read(descriptor, found.st_size + 1)
            if len(data) == found.st_size:
                return data
            pieces, left = [data], most + 1 - len(data)
            while left > 0 and (piece := os.read(descriptor, left)):
                pieces.append(piece)
                left -= len(piece)
            if left <= 0:
                raise TooLarge(f"{path} grows beyond {most} bytes")
            return b"".join(pieces)
        finally:
            os.close(descriptor)

    def stamp(self, path: str) -> tuple[int, int]:
        found = os.stat(f"{self._base}/{path}")
        return found.st_size, found.st_mtime_ns

    def below(self, folder: str) -> Source:
        return Folder(self.root / folder)

    def near(self) -> Iterator[Source]:
        """The folders one level down, then up to three parents."""
        folders = [child.name for child in self.children("") if child.is_folder and child.offender is None]
        yield from (self.below(name) for name in list(filter(may_be_root, folders))[:_NEAR])
        yield from (Folder(parent) for parent in list(self.root.parents)[:3])

    def is_same(self, other: Source) -> bool:
        return isinstance(other, Folder) and other.root == self.root

    def close(self) -> None:
        pass

    def _child(self, entry: os.DirEntry[str], folder: str) -> Child:
        path = join(folder, entry.name)
        try:
            path.encode()
        except UnicodeEncodeError:
            return Child(entry.name, False, False, Offender(repr(path), "the name is not UTF-8", "rename it"))
        is_folder, is_link = entry.is_dir(), entry.is_symlink()
        may_be_opened = (is_folder or entry.is_file()) and not is_link
        return Child(entry.name, is_folder, is_link, None if may_be_opened else self.offender_at(path))
