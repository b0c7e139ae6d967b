"""A layout: where a public data set has its splits, and how its file names are read."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from datasets.layouts.tree import Tree


@dataclass(frozen=True, slots=True)
class Entry:
    """A sample before its bytes are read. path: below the data set's root. Labels are as the data set writes them."""

    split: str
    path: str
    person: str
    clothes: str | None = None
    camera: str | None = None
    sequence: str | None = None
    frame: str | None = None

    def __post_init__(self) -> None:
        for label in ("split", "person", "clothes", "camera", "sequence", "frame"):
            if (text := getattr(self, label)) is not None:  # one string for all images of a person, an outfit …
                object.__setattr__(self, label, sys.intern(text))

    @property
    def key(self) -> str:
        return self.path


@dataclass(frozen=True)
class Name:
    """The pattern of file names, without their extension. shape: for messages, such as ``<person>_<outfit>``."""

    shape: str
    regex: re.Pattern[str]

    def fits(self, path: str) -> re.Match[str] | None:
        """The fields of a path's last part; folders above never count. None where the name does not match."""
        return self.regex.fullmatch(PurePosixPath(path).stem)

    def read(self, tree: Tree, path: str) -> re.Match[str] | None:
        """As `fits`; a name that does not match is reported."""
        found = self.fits(path)
        if found is None:
            tree.report(path, f"the name does not match {self.shape}", "rename it, or remove it from the tree")
        return found


def name(shape: str, regex: str) -> Name:
    return Name(shape, re.compile(regex, re.ASCII))


def number(digits: str) -> str:
    """A number without leading zeros."""
    return str(int(digits))


@dataclass(frozen=True)
class Layout:
    """A public data set as its authors distribute it.

    root: the folder's official name. places: the folders and lists that each split is read from, below the root.
    names: the pattern of the file names in the first place, by which a tree is recognised. read: yields the entries of a
    tree. protocol: a name of PROTOCOLS. licence: the known facts about terms and consent, not legal advice. version: the data
    set's. official: published counts by "images", "persons", "train/images" …; several where publications differ.
    source_files: suffixes of files that may be given instead of the root. one_of: files of which the root has one.
    choose_protocol: names the protocol by the entries, where they decide.
    """

    name: str
    root: str
    places: Mapping[str, tuple[str, ...]]
    names: Name | None
    read: Callable[[Tree], Iterator[Entry]]
    protocol: str
    licence: str
    version: str = "1"
    official: Mapping[str, int | tuple[int, ...]] = field(default_factory=dict)
    source_files: tuple[str, ...] = ()
    one_of: tuple[str, ...] = ()
    choose_protocol: Callable[[Sequence[Entry]], str] | None = None

    def protocol_of(self, entries: Sequence[Entry]) -> str:
        """The name of the protocol by which these entries are scored."""
        return self.choose_protocol(entries) if self.choose_protocol else self.protocol

    def required(self, without: tuple[str, ...] = ()) -> list[str]:
        """The folders and lists that must exist, in the order in which they are checked. without: splits left out."""
        wanted = (place for split, places in self.places.items() if split not in without for place in places)
        return list(dict.fromkeys(wanted))
