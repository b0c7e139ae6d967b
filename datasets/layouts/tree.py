"""A data set's files as a layout sees them: names of images and folders, lines of lists, and what was wrong with them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from datasets.errors import DataError
from datasets.sources import Offender, Source, TooLarge
from datasets.sources.source import LISTS_BYTES, join

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")  # in any case; what is inside decides, not the suffix


@dataclass(frozen=True)
class Listing:
    """The names in one folder, sorted."""

    images: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()


@dataclass
class Tree:
    """A data set's root. Collects offenders, warnings and what was passed over while a layout reads it.

    given: the name of the file that stood for the root, if one did. passed_over: reason → paths. extra: plain data
    that goes into the manifest.
    """

    source: Source
    given: str | None = None
    offenders: list[Offender] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    passed_over: dict[str, list[str]] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)

    def report(self, path: str, problem: str, remedy: str) -> None:
        self.offenders.append(Offender(path, problem, remedy))

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def pass_over(self, path: str, reason: str) -> None:
        self.passed_over.setdefault(reason, []).append(path)

    def listing(self, folder: str) -> Listing:
        """Images and folders right below `folder`; nothing where it is not there.

        Files of other kinds are passed over; what is not to be opened (a link that leads out, a device) is reported.
        """
        if not self.source.is_folder(folder):
            return Listing()
        if trouble := self.source.trouble(folder):
            self.offenders.append(trouble)
            return Listing()
        images, folders = [], []
        for child in self.source.children(folder):
            if child.offender is not None:
                self.offenders.append(child.offender)
            elif child.is_folder:
                folders.append(child.name)
            elif is_image(child.name):
                images.append(child.name)
            else:
                self.pass_over(join(folder, child.name), "not images")
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
        if not self.source.is_file(path):
            return
        try:
            text = self.read(path).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            where = self.source.where(path)
            raise DataError(f"{where} is no text in UTF-8 ({error}); expected a list, one line each") from error
        for at, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                yield at, line.strip()

    def read(self, path: str) -> bytes:
        """The bytes of a list or a table. Raises: DataError when it is not to be opened, too large, or cannot be read."""
        if trouble := self.source.trouble(path):
            raise DataError(f"{self.source.where(path)} {trouble.problem}; {trouble.remedy}")
        try:
            return self.source.read(path, LISTS_BYTES)
        except TooLarge as error:
            raise DataError(f"{self.source.where(path)} is larger than {LISTS_BYTES >> 20} MiB, no list is") from error
        except OSError as error:
            where, why = self.source.where(path), error.strerror or error
            raise DataError(f"{where} cannot be read: {why}; look at the file and its permissions") from error


def is_image(name: str) -> bool:
    """By its suffix; hidden files (.DS_Store, ._0001.jpg) are none."""
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")
