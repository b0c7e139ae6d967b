"""ZIP archives: each member is inflated by itself, bounded by its declared size, and its CRC is checked."""

from __future__ import annotations

import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from datasets.errors import DataError
from datasets.sources.archive import Archive, BadMember, BoundedReader, check_unpacked, name_of
from datasets.sources.members import Members

_DIRECTORY_BYTES = 512 << 20
_LOCAL = struct.Struct("<4s22xHH")  # signature …, lengths of name and extra field
_ENCRYPTED = 1
_MAX_TARGET = 4096


def open_zip(path: Path, file: BinaryIO) -> Archive:
    """The members of a ZIP. Raises: DataError when it is damaged or a decompression bomb."""
    name = name_of(path)
    members = Members(name, width=5)
    read = _ZipReader(file)
    try:
        with zipfile.ZipFile(BoundedReader(file, name, _DIRECTORY_BYTES)) as directory:
            infos = directory.infolist()
            check_unpacked(name, sum(info.file_size for info in infos), os.fstat(file.fileno()).st_size)
            for info in infos:
                _add(members, info, read)
    except (zipfile.BadZipFile, NotImplementedError, struct.error, ValueError, OverflowError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{name} is damaged ({error}); copy it again from an undamaged copy") from error
    members.resolve_links()
    return Archive(file, members, read)


def _add(members: Members, info: zipfile.ZipInfo, read: _ZipReader) -> None:
    mode = info.external_attr >> 16 if info.create_system == 3 else 0  # 3: made on Unix
    kind = stat.S_IFMT(mode)
    noted = (info.file_size, info.header_offset, info.compress_size, info.compress_type, info.CRC)
    if info.is_dir():
        members.add_folder(info.filename)
    elif info.flag_bits & _ENCRYPTED:
        members.add_bad(
            info.filename, "is encrypted", "unpack the archive with its password and give the folder as the source"
        )
    elif info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        problem = f"is packed by method {info.compress_type} of ZIP; read are 0 (stored) and 8 (deflate)"
        members.add_bad(info.filename, problem, "unpack the archive and give the folder as the source")
    elif kind == stat.S_IFLNK:
        try:
            members.add_link(info.filename, read(noted, _MAX_TARGET).decode())
        except (OSError, UnicodeDecodeError) as error:
            members.add_bad(
                info.filename, f"is a symbolic link that cannot be read ({error})", "pack the archive again"
            )
    elif kind in (0, stat.S_IFREG):
        members.add_file(info.filename, noted)
    else:
        members.add_bad(info.filename, "is a device, a pipe or a socket", "pack the archive again without it")


class _ZipReader:
    """Reads members of a ZIP. noted: size, offset of the local header, packed size, method, CRC."""

    def __init__(self, file: BinaryIO) -> None:
        self._descriptor = file.fileno()

    def __call__(self, noted: Sequence[int], most: int) -> bytes:
        size, offset, packed, method, crc = noted
        if size > most or packed > 2 * most + 1024:
            raise BadMember(f"it claims {size} bytes, packed {packed}")
        head = os.pread(self._descriptor, _LOCAL.size, offset)
        if len(head) < _LOCAL.size or head[:4] != b"PK\3\4":
            raise BadMember("its header in the archive is damaged")
        _, name, extra = _LOCAL.unpack(head)
        data = os.pread(self._descriptor, packed, offset + _LOCAL.size + name + extra)
        if method == zipfile.ZIP_DEFLATED:
            inflate = zlib.decompressobj(-15)
            try:
                data = inflate.decompress(data, size + 1)
            except zlib.error as error:
                raise BadMember(f"its packed bytes are damaged ({error})") from error
        if len(data) != size:
            found = "more than" if len(data) > size else f"{len(data)} bytes, not"
            raise BadMember(f"it unpacks to {found} the {size} promised")
        if zlib.crc32(data) != crc:
            raise BadMember("its bytes differ from the archive's checksum (CRC)")
        return data
