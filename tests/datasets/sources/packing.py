"""Archives of a test's own making, opened as sources."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from datasets.errors import DataError
from datasets.sources import Source, open_source
from datasets.sources.source import walk

PACKED = {"tar": "w:", "tar.gz": "w:gz", "tar.xz": "w:xz", "tar.bz2": "w:bz2"}


def pack(folder: Path, to: Path, top: str = "") -> Path:
    """The folder's content below `top` in an archive, its files in no order; the kind is the suffix."""
    files = sorted((path for path in folder.rglob("*") if path.is_file()), key=lambda path: hash(path.name) % 97)
    names = {path: (Path(top) / path.relative_to(folder)).as_posix() for path in files}
    if to.suffix == ".zip":
        with zipfile.ZipFile(to, "w", strict_timestamps=False) as made:
            for number, (path, name) in enumerate(names.items()):
                made.write(path, name, (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)[number % 2])
    else:
        with tarfile.open(to, PACKED[to.name.partition(".")[2]]) as made:  # type: ignore[call-overload]
            for path, name in names.items():
                made.add(path, name)
    return to


def tar_of(path: Path, *members: tuple[str, bytes | str, bytes]) -> Path:
    """name, type, content or target."""
    with tarfile.open(path, "w:") as made:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            info.type = kind if isinstance(kind, bytes) else kind.encode()
            if info.isreg():
                info.size = len(content)
                made.addfile(info, io.BytesIO(content))
            else:
                info.linkname = content.decode()
                made.addfile(info)
    return path


def opened(path: Path) -> Source:
    return open_source(path, "a test's folder")


def refused(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        opened(path)
    return str(caught.value)


def files(source: Source) -> dict[str, bytes]:
    return {path: source.read(path, 1 << 20) for path, child in walk(source) if child.offender is None}
