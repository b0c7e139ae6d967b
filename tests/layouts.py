"""Layout fixtures: tiny trees in the official layouts, and what the published parsers read from them.

The folder is `REDRESS_LAYOUTS` (default: `../shared/layouts` beside the repository root). Its README defines the format:
`<name>.tar.gz` and `<name>.expected.json`; any folder of that format will do, with other trees or fewer of them.
"""

from __future__ import annotations

import functools
import json
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets.layouts import LAYOUTS

DEFAULT = Path(__file__).resolve().parents[2] / "shared" / "layouts"


class FixtureError(RuntimeError):
    """The folder of layout fixtures, or a data set in it, is not there."""


@dataclass(frozen=True)
class Fixture:
    """One data set's tree, unpacked. root: its folder. parsing: the folder of its masks."""

    name: str
    root: Path
    parsing: Path
    expected: dict[str, Any]

    @property
    def paths(self) -> list[str]:
        """All its images, as the truth lists them."""
        return [image["path"] for image in self.expected["images"]]


def folder() -> Path:
    """The folder in use. Raises: FixtureError when it holds no fixture of a known layout."""
    path = Path(os.environ.get("REDRESS_LAYOUTS") or DEFAULT)
    if not any(known(path)):
        raise FixtureError(
            f"no layout fixtures at {path}: set REDRESS_LAYOUTS to the folder that holds <name>.tar.gz and "
            "<name>.expected.json (by default ../shared/layouts beside the repository)"
        )
    return path


def known(path: Path) -> list[str]:
    """Names of the layouts that the folder has a tree of."""
    return sorted(name for name in LAYOUTS if (path / f"{name}.expected.json").is_file())


def names() -> list[str]:
    return known(folder())


@functools.cache
def expected(name: str) -> dict[str, Any]:
    """The truth about a data set's tree. Raises: FixtureError."""
    place = folder() / f"{name}.expected.json"
    if not place.is_file():
        raise FixtureError(f"no {place.name} in {folder()}; it has {', '.join(names())}")
    return json.loads(place.read_text(encoding="utf-8"))


def unpack(name: str, destination: Path) -> Fixture:
    """A fresh copy of a data set's tree below `destination`. Raises: FixtureError."""
    truth = expected(name)
    with tarfile.open(folder() / f"{name}.tar.gz") as archive:
        archive.extractall(destination, filter="data")
    return Fixture(name, destination / truth["root"], destination / "parsing", truth)
