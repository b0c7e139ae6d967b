"""The tree of an archive's members: where each is, and which must not be opened."""

from __future__ import annotations

import os
from array import array
from collections.abc import Sequence
from pathlib import PurePosixPath

from datasets.errors import DataError
from datasets.sources.source import Offender, join

MAX_MEMBERS = 4_000_000
MAX_PATH = 1024
FOLDER, BAD = -1, -2  # instead of a file's number
_MAX_LINKS = 40


class Members:
    """The tree of an archive's members, filled while the archive is listed.

    width: the number of integers noted of each file, its size first.
    """

    def __init__(self, name: str, width: int) -> None:
        self.name, self.width = name, width
        self.folders: dict[str, dict[str, int]] = {"": {}}  # folder → name → number of the file, FOLDER for a folder
        self.links: dict[str, str] = {}  # path → target within
        self.bad: dict[str, Offender] = {}  # path → why it must not be opened
        self.offenders: list[Offender] = []  # members whose paths cannot be in the tree
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
        number = self.folders.get(folder, {}).get(name, FOLDER)
        if number < 0:
            self.add_bad(
                written, f"is a hard link to {target}, no file that came before it", "put the file itself there"
            )
        else:
            self._put(written, number)

    def add_link(self, written: str, target: str) -> None:
        """A symbolic link; `resolve_links` follows it once everything is listed."""
        if self._put(written, BAD):
            self.links[_plain(written)] = target

    def add_bad(self, written: str, problem: str, remedy: str) -> None:
        """A member that must not be opened."""
        if self._put(written, BAD):
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
        """The path with its links resolved, None where it leads nowhere or to a member that must not be opened."""
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
        return path in self.folders or self.folders.get(folder, {}).get(name, BAD) >= 0

    def _put(self, written: str, number: int) -> bool:
        path = self._place(written)
        if path is None:
            return False
        folder, _, name = path.rpartition("/")
        names = self._make(folder)
        if not name or names is None or path in self.folders:
            self.offenders.append(Offender(repr(written), "is a file and a folder at once", "pack the archive again"))
            return False
        if name in names:  # unpacking would overwrite it with the later one
            self.num_twice += 1
            self.links.pop(path, None)
            self.bad.pop(path, None)
        names[name] = number
        return True

    def _make(self, folder: str) -> dict[str, int] | None:
        """The names of a folder, which is created with its parents; None where one of them is a file."""
        if folder not in self.folders:
            above, _, name = folder.rpartition("/")
            names = self._make(above)
            if names is None or names.setdefault(name, FOLDER) != FOLDER:
                return None
            self.folders[folder] = {}
        return self.folders[folder]

    def _place(self, written: str) -> str | None:
        """The path below the archive's top; None where it cannot be one, which is reported."""
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
        self.offenders.append(Offender(shown, f"{problem}; it is not read", "pack the archive again without it"))
        return None


def _plain(written: str) -> str:
    return "/".join(part for part in written.split("/") if part not in ("", "."))
