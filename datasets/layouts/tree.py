"""A data set's files as a layout reads them: names of images and folders, lines of lists, and their offenders."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from datasets.errors import DataError
from datasets.images.decode import KINDS, SUFFIXES
from datasets.sources import Offender, Source, TooLarge
from datasets.sources.source import LISTS_BYTES, join


@dataclass(frozen=True)
class Listing:
    """The names in one folder, sorted."""

    images: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()


@dataclass
class Tree:
    """A data set's root; collects offenders, warnings and files passed over while a layout reads it.

    given: the name of the file that was given instead of the root, if any. passed_over: reason → paths. extra: plain data
    for the manifest.
    """

    source: Source
    given: str | None = None
    offenders: list[Offender] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    passed_over: dict[str, list[str]] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    _found: set[Offender] = field(default_factory=set)

    def report(self, path: str, problem: str, remedy: str) -> None:
        self.offenders.append(Offender(path, problem, remedy))

    def images(self, folder: str) -> frozenset[str]:
        """The images directly in `folder` that may be opened. Nothing is reported: what no list names does not matter."""
        children = self.source.children(folder) if self.source.offender_at(folder) is None else ()
        return frozenset(
            child.name for child in children if not child.is_folder and child.offender is None and is_image(child.name)
        )

    def spelt(self, path: str) -> str:
        """A path as the source spells it: a Mac decomposes letters with accents (NFD). As it is where nothing is there."""
        found = ""
        for part in path.split("/"):
            names = [child.name for child in self.source.children(found)]
            plain = unicodedata.normalize("NFC", part)
            same = [part] if part in names else [n for n in names if unicodedata.normalize("NFC", n) == plain]
            if not same:
                return path
            found = join(found, same[0])
        return found

    def report_unlisted(self, path: str, where: str, row: str) -> None:
        """Report an image named in a list that its folder's listing lacks. where: the place of its `row` in the list."""
        if offender := self.source.offender_at(path):
            self._add(offender)
        elif not self.source.is_file(path):
            self.report(path, f"listed in {where} but not there", f"add the image, or remove the {row}")
        elif path.rpartition("/")[2].startswith("."):
            self.report(path, f"listed in {where}, but hidden by the dot of its name", "rename it")
        else:
            problem = f"listed in {where}, but its suffix is none of {' '.join(SUFFIXES)}"
            self.report(path, problem, f"expected {', '.join(KINDS)}; save it as PNG, or remove the {row}")

    def _add(self, offender: Offender) -> None:
        """Once, however many rows name the file."""
        if offender not in self._found:
            self._found.add(offender)
            self.offenders.append(offender)

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def pass_over(self, path: str, reason: str) -> None:
        self.passed_over.setdefault(reason, []).append(path)

    def listing(self, folder: str) -> Listing:
        """Images and folders directly in `folder`; empty where it does not exist.

        Other files are passed over; names that must not be opened (a link that leads out, a device) are reported.
        """
        if not self.source.is_folder(folder):
            return Listing()
        if offender := self.source.offender_at(folder):
            self._add(offender)
            return Listing()
        images, folders = [], []
        for child in self.source.children(folder):
            if child.offender is not None:
                self._add(child.offender)
            elif child.is_folder:
                folders.append(child.name)
            elif is_image(child.name):
                images.append(child.name)
            else:
                self.pass_over(join(folder, child.name), "not images")
        return Listing(tuple(images), tuple(folders))

    def flat(self, folder: str) -> Iterator[str]:
        """The paths of the images directly in `folder`; folders in it are passed over."""
        listing = self.listing(folder)
        for name in listing.folders:
            self.pass_over(f"{folder}/{name}/", "folders where none is expected")
        yield from (f"{folder}/{name}" for name in listing.images)

    def nested(self, folder: str) -> Iterator[tuple[str, str]]:
        """(person, path) of the images in the person folders of `folder`; images elsewhere are reported."""
        listing = self.listing(folder)
        for name in listing.images:
            self.report(f"{folder}/{name}", f"{folder} has one folder per person", "move it into its person's folder")
        for person in listing.folders:
            if person.isascii() and person.isdigit():
                yield from ((person, path) for path in self.flat(f"{folder}/{person}"))
            else:
                self.report(f"{folder}/{person}", "a person folder is a number", "rename it, or remove it")

    def lines(self, path: str) -> Iterator[tuple[int, str]]:
        """Number (from 1) and text of each non-blank line; nothing where there is no such list.

        Raises: DataError as `read`, and when it is no text in UTF-8.
        """
        if not self.source.is_file(path):
            return
        try:
            text = self.read(path).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            where = self.source.where(path)
            raise DataError(
                f"{where} is no text in UTF-8 ({error}); expected a list with one entry per line"
            ) from error
        for at, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                yield at, line.strip()

    def read(self, path: str) -> bytes:
        """The bytes of a list or a table. Raises: DataError when it must not be opened, is too large, or cannot be read."""
        if offender := self.source.offender_at(path):
            raise DataError(f"{self.source.where(path)} {offender.problem}; {offender.remedy}")
        try:
            return self.source.read(path, LISTS_BYTES)
        except TooLarge as error:
            raise DataError(
                f"{self.source.where(path)} is larger than {LISTS_BYTES >> 20} MiB, the limit of a list"
            ) from error
        except OSError as error:
            where, why = self.source.where(path), error.strerror or error
            raise DataError(f"{where} cannot be read: {why}; check the file and its permissions") from error


def is_image(name: str) -> bool:
    """Whether a name is an image's, by its suffix in upper or lower case; hidden files (.DS_Store, ._0001.jpg) are not.

    The content decides the kind of image, not the suffix.
    """
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")
