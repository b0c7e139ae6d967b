"""Opens a path as a source: a folder, or an archive recognised by its first bytes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from datasets.errors import DataError
from datasets.sources.archive import Progress
from datasets.sources.folder import Folder
from datasets.sources.source import Source
from datasets.sources.tars import BZIP2, GZIP, XZ, open_tar, plain_tar
from datasets.sources.zips import open_zip

KINDS = ".zip, .tar, .tar.gz, .tar.xz, .tar.bz2"
_OTHER = {
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!\x1a\x07": "RAR",
    b"\x28\xb5\x2f\xfd": "Zstandard",
    b"\x04\x22\x4d\x18": "LZ4",
    b"\x1f\x9d": "compress",
}


def open_source(path: str | Path, expected: str, *, progress: Progress | None = None) -> Source:
    """The folder or archive at `path`. expected: what should be there, for messages.

    progress: called with the bytes done and their total while a compressed tar is decompressed.
    Raises: DataError when there is nothing, or nothing that can be read.
    """
    path = Path(path)
    if os.path.isdir(path):  # Path's own methods raise for a name that is too long
        return Folder(path)
    if not os.path.exists(path):
        raise DataError(f"there is nothing at {path}; expected {expected}")
    if not os.path.isfile(path):
        raise DataError(f"{path} is no regular file; expected {expected}")
    try:
        file: BinaryIO = open(path, "rb")  # noqa: SIM115  (it stays open as long as the source)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; check its permissions") from error
    try:
        start = file.read(512)
        file.seek(0)
        if start.startswith((b"PK\3\4", b"PK\5\6")):
            return open_zip(path, file)
        if start.startswith((GZIP, BZIP2, XZ)):
            file = plain_tar(path, file, progress)
            file.seek(0)
            if not _is_tar(file.read(512)):
                raise DataError(f"{path} is compressed, but its content is no tar archive; expected {expected}")
            file.seek(0)
            return open_tar(path, file)
        if _is_tar(start):
            return open_tar(path, file)
    except BaseException:
        file.close()
        raise
    file.close()
    kind = next((kind for magic, kind in _OTHER.items() if start.startswith(magic)), None)
    what = f"a {kind} file, which cannot be read in place; unpack it first" if kind else "a file"
    raise DataError(f"{path} is {what}; expected {expected}, or an archive of it ({KINDS})")


def _is_tar(start: bytes) -> bool:
    """Checks the checksum of the first header, which even the oldest tar formats have."""
    if len(start) < 512:
        return False
    try:
        written = int(start[148:156].strip(b" \0") or b"x", 8)
    except ValueError:
        return False
    return written == sum(start[:148]) + 8 * ord(" ") + sum(start[156:])
