"""A directory as a layout sees it: names of images and folders, lines of lists, and what was wrong with them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets.errors import DataError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")  # in any case; what is inside decides, not the suffix


@dataclass(frozen=True, slots=True)
class Offender:
    """Something that cannot be converted. path: below the root, with the line where it is a line of a list."""

    path: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}; {self.remedy}"


@dataclass(frozen=True)
class Listing:
    """The names in one folder, sorted."""

    images: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()


@dataclass
class Tree:
    """A data set's directory. Collects offenders, warnings and what was passed over while a layout reads it.

    given: the name of the file that stood for the root, if one did. passed_over: reason → paths. extra: plain data
    that goes into the manifest.
    """

    root: Path
    given: str | None = None
    offenders: list[Offender] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    passed_over: dict[str, list[str]] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.root = self.root.resolve()

    def report(self, path: str, problem: str, remedy: str) -> None:
        self.offenders.append(Offender(path, problem, remedy))

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def pass_over(self, path: str, reason: str) -> None:
        self.passed_over.setdefault(reason, []).append(path)

    def listing(self, folder: str) -> Listing:
        """Images and folders right below `folder`; nothing where it is not there.

        Files of other kinds are passed over; links that lead out of the tree are reported and not followed.
        """
        place = self.root / folder
        if not place.is_dir():
            return Listing()
        if not place.resolve().is_relative_to(self.root):
            self.report(folder, "is a symbolic link that leads out of the tree", "put the folder itself there")
            return Listing()
        images, folders = [], []
        with os.scandir(place) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                path = f"{folder}/{entry.name}" if folder else entry.name
                if not self._may_follow(entry, path):
                    continue
                if entry.is_dir():
                    folders.append(entry.name)
                elif is_image(entry.name):
                    images.append(entry.name)
                else:
                    self.pass_over(path, "not images")
        return Listing(tuple(images), tuple(folders))

    def flat(self, folder: str) -> Iterator[str]:
        """The paths of the images right in `folder`; folders in it are passed over."""
        listing = self.listing(folder)
        for name in listing.folders:
            self.pass_over(f"{folder}/{name}/", "folders where none is expected")
        yield from (f"{folder}/{name}" for name in listing.images)

    def nested(self, folder: str) -> Iterator[tuple[str, str]]:
        """(person, path) of the images in the person folders of `folder`; what stands elsewhere is reported."""
        listing = self.listing(folder)
        for name in listing.images:
            self.report(f"{folder}/{name}", f"{folder} has one folder per person", "move it into its person's folder")
        for person in listing.folders:
            if person.isascii() and person.isdigit():
                yield from ((person, path) for path in self.flat(f"{folder}/{person}"))
            else:
                self.report(f"{folder}/{person}", "a person folder is a number", "rename it, or take it away")

    def lines(self, path: str) -> Iterator[tuple[int, str]]:
        """Number (from 1) and text of each line that is not blank; nothing where there is no such list."""
        if not (self.root / path).is_file():
            return
        if not (self.root / path).resolve().is_relative_to(self.root):
            raise DataError(f"{path} is a symbolic link that leads out of {self.root}; put the file itself there")
        try:
            text = (self.root / path).read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{self.root / path} is no text in UTF-8 ({error}); expected a list, one line each"
            ) from error
        for at, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                yield at, line.strip()

    def _may_follow(self, entry: os.DirEntry[str], path: str) -> bool:
        try:
            path.encode()
        except UnicodeEncodeError:
            self.report(repr(path), "the name is not UTF-8", "rename it")
            return False
        if not entry.is_symlink():
            return True
        target = Path(entry.path).resolve()
        if not target.is_relative_to(self.root):
            self.report(path, "is a symbolic link that leads out of the tree", "put the file itself there")
            return False
        if not target.exists():
            self.report(path, "is a symbolic link that leads nowhere", "put the file itself there, or remove it")
            return False
        return True


def is_image(name: str) -> bool:
    """By its suffix; hidden files (.DS_Store, ._0001.jpg) are none."""
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")
