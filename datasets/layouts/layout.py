"""What a layout is: where a public data set keeps its splits, and how its files' names read."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from datasets.layouts.tree import Tree


@dataclass(frozen=True, slots=True)
class Entry:
    """One sample before its bytes are read. path: below the data set's root. Labels as the data set writes them."""

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
    """How a file's name reads, its extension left out. shape: for people, as `<person>_<outfit>`."""

    shape: str
    regex: re.Pattern[str]

    def fits(self, path: str) -> re.Match[str] | None:
        """The fields of a path's last part alone: what stands in folders above never counts."""
        return self.regex.fullmatch(PurePosixPath(path).stem)

    def read(self, tree: Tree, path: str) -> re.Match[str] | None:
        """`fits`, and a report when it does not."""
        found = self.fits(path)
        if found is None:
            tree.report(path, f"the name does not match {self.shape}", "rename it, or take it out of the tree")
        return found


def name(shape: str, regex: str) -> Name:
    return Name(shape, re.compile(regex, re.ASCII))


def number(digits: str) -> str:
    """A camera's number without leading zeros."""
    return str(int(digits))


@dataclass(frozen=True)
class Layout:
    """A public data set as its authors hand it out.

    root: the folder's official name. places: the folders and lists that each split is read from, below the root.
    names: how the files' names in the first place read (by it a tree is recognised). licence: what could be found about
    terms and consent, not legal advice. official: published counts by "images", "persons", "train/images" …; several
    where publications differ. source_files: suffixes of files that may be given in place of the root. one_of: files of
    which the root has one.
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

    def required(self, without: tuple[str, ...] = ()) -> list[str]:
        """The folders and lists that must be there, in the order in which they are looked for."""
        wanted = (place for split, places in self.places.items() if split not in without for place in places)
        return list(dict.fromkeys(wanted))
