"""TAR archives: a plain one is read in place. A compressed one has no random access: it is decompressed once, into an
unnamed temporary file (TMPDIR), which takes the space of the plain archive and vanishes when the process ends, even if killed.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import lzma
import os
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, cast

from datasets.errors import DataError
from datasets.sources.archive import (
    MAX_HEADER_BYTES,
    Archive,
    BadMember,
    BoundedReader,
    Progress,
    check_unpacked,
    name_of,
)
from datasets.sources.members import Members

GZIP, BZIP2, XZ = b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0"
_PIECE = 4 << 20
_XZ_MEMORY = 256 << 20  # the strongest preset needs 65 MiB


def open_tar(path: Path, file: BinaryIO) -> Archive:
    """The members of a plain tar. Raises: DataError when it is damaged."""
    name = name_of(path)
    members = Members(name, width=2)
    try:
        with tarfile.open(fileobj=cast(BinaryIO, BoundedReader(file, name, MAX_HEADER_BYTES)), mode="r:") as listing:
            while (member := listing.next()) is not None:
                _add(members, member)
                listing.members = []  # type: ignore[attr-defined]  # tarfile would keep them all
            end = listing.offset
    except (tarfile.TarError, ValueError, OverflowError, EOFError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{name} is damaged ({error}); copy it again from an undamaged copy") from error
    if os.pread(file.fileno(), tarfile.BLOCKSIZE, end) != tarfile.NUL * tarfile.BLOCKSIZE:
        raise DataError(
            f"{name} is damaged or truncated: {len(members):,} files are followed by neither a file nor the archive's end; "
            "copy it again from an undamaged copy"
        )
    members.resolve_links()
    return Archive(file, members, _TarReader(file))


def plain_tar(path: Path, file: BinaryIO, progress: Progress | None) -> BinaryIO:
    """A temporary file with the decompressed content of an archive; `file` is closed.

    Raises: DataError when it is damaged, a decompression bomb, or the disk is full.
    """
    name, packed = name_of(path), os.fstat(file.fileno()).st_size
    temp = cast(BinaryIO, tempfile.TemporaryFile(prefix="redress-"))  # noqa: SIM115  (it outlives this)
    done = 0
    try:
        for piece in _pieces(file):
            done += len(piece)
            check_unpacked(name, done, packed)
            temp.write(piece)
            if progress is not None:
                progress(min(file.tell(), packed), packed)
        temp.flush()
    except BaseException as error:
        temp.close()
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise DataError(
                f"no space in {tempfile.gettempdir()} for {name}, which has over {done:,} bytes decompressed. A compressed tar "
                "cannot be read in place: set TMPDIR to a disk with more space, or unpack it and give the folder as the source"
            ) from error
        if isinstance(error, OSError | EOFError | lzma.LZMAError | zlib.error):
            raise DataError(f"{name} is damaged ({error}); copy it again from an undamaged copy") from error
        raise
    finally:
        file.close()
    return temp


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    start = file.read(len(XZ))
    file.seek(0)
    if start == XZ:
        yield from _xz_pieces(file)
        return
    with (gzip.open if start.startswith(GZIP) else bz2.open)(file, "rb") as stream:
        while piece := stream.read(_PIECE):
            yield piece


def _xz_pieces(file: BinaryIO) -> Iterator[bytes]:
    """The output of lzma.open in bounded memory: a stream may require a dictionary of gigabytes."""
    data = b""
    while data := data or file.read(_PIECE):
        stream = lzma.LZMADecompressor(memlimit=_XZ_MEMORY)
        while not stream.eof:
            if stream.needs_input and not (data := data or file.read(_PIECE)):
                raise EOFError("it ends in the middle of a stream")
            yield stream.decompress(data, _PIECE)
            data = b""
        data = stream.unused_data.lstrip(b"\0")  # streams may be padded


def _add(members: Members, member: tarfile.TarInfo) -> None:
    if member.isdir():
        members.add_folder(member.name)
    elif member.issym():
        members.add_link(member.name, member.linkname)
    elif member.islnk():
        members.add_hard_link(member.name, member.linkname)
    elif member.issparse():
        members.add_bad(member.name, "is a sparse file", "pack the archive again without --sparse")
    elif member.isreg():
        members.add_file(member.name, (member.size, member.offset_data))
    else:
        members.add_bad(member.name, "is a device, a pipe or a socket", "pack the archive again without it")


class _TarReader:
    """Reads members of a tar. noted: size, offset."""

    def __init__(self, file: BinaryIO) -> None:
        self._descriptor = file.fileno()

    def __call__(self, noted: Sequence[int], most: int) -> bytes:
        size, offset = noted
        data = os.pread(self._descriptor, size, offset)
        if len(data) != size:
            raise BadMember(f"the archive ends after {len(data)} of its {size} bytes")
        return data
