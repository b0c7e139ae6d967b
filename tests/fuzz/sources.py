"""Tables and archives that are converted: refused with a message, or a data set that verifies."""

from __future__ import annotations

import contextlib
import datetime
import decimal
import functools
import gzip
import io
import tarfile
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from datasets.conversion.convert import convert
from datasets.conversion.settings import ConversionSettings
from datasets.shards.dataset import Dataset
from datasets.sources import open_source
from datasets.sources.source import walk
from tests.fuzz.edits import EDITS, edited
from tests.fuzz.target import OUT, Case, Target
from tests.tiny import draw_crop, jpeg

COLUMNS = ("path", "person", "split", "clothes", "camera", "sequence", "frame")
ROWS = [
    ("images/1.jpg", "7", "train", "a", "c1", "s1", "12"),
    ("images/2.jpg", "7", "query", "b", "c1", "s2", "13"),
    ("images/3.jpg", "7", "gallery", "a", "c2", "s3", "14"),
    ("images/4.jpg", "8", "train", "a", "c2", "s3", ""),
]
SETTINGS = ConversionSettings(threads=1)
LEAVING_OUT = ConversionSettings(threads=1, quarantine=True)


@functools.cache
def images() -> dict[str, bytes]:
    """The images of the rows."""
    drawn = (draw_crop(np.random.default_rng(at), at, 0, (16, 8))[0] for at in range(len(ROWS)))
    return {row[0]: jpeg(image) for row, image in zip(ROWS, drawn, strict=True)}


def text_of(rows: Sequence[Sequence[str]], separator: str = ",") -> bytes:
    return "".join(separator.join(row) + "\n" for row in rows).encode(errors="surrogatepass")


def converted(source: Path, told: tuple[str, ...], *, quarantine: bool) -> Case:
    def call() -> None:
        destination = str(source.parents[1] / OUT / "set")
        convert("table", source, destination, LEAVING_OUT if quarantine else SETTINGS)
        assert Dataset.open(destination).verify() == []

    return Case(call, (told,))


# Tables

CELLS = [
    "", " ", "images/1.jpg", "./images//2.jpg", "../x.jpg", "/etc/passwd", "images\\1.jpg", "\0", "train", "Train",
    "val_query",
    "7", "-1", '"', '"a', "a,b", ";", "\t", "\r", "\n", "\ufeff", "\u2028", "e\u0301", "x" * 200_000, "a/" * 3000, "\udcff",
    "images", "=1+1", "NaN", "0" * 50, "person", "images/1.jpg/x", "images/\u0661.jpg",
]  # fmt: skip
ARRAYS: list[Any] = [
    [1, None, 2, -(2**63)], [1.5, float("nan"), float("inf"), None], [True, False, None, True], [b"\xff", b"a", b"", None],
    [datetime.date(2020, 1, 1)] * 4, [datetime.datetime(2020, 1, 1)] * 4, [datetime.timedelta(1)] * 4, [[1], [], None, [2]],
    [{"a": 1}] * 4, [decimal.Decimal("1.5")] * 4, [None] * 4, ["", " ", "\0", "images/1.jpg"], [datetime.time(1)] * 4,
    pa.array(["a", "b", "a", None]).dictionary_encode(), pa.array(["a", "b", "c", None], pa.large_string()),
    pa.array([b"a", b"b", b"\xff", b""], pa.large_binary()), pa.array([b"ab"] * 4, pa.binary(2)), pa.array([1, 2, 3,
    4], pa.uint64()),
    pa.array([[("a", 1)]] * 4, pa.map_(pa.string(), pa.int8())), pa.array([1, 2, 3, None], pa.float16()),
    pa.array([2**60, -(2**60), 0, None], pa.timestamp("us")), pa.array([0, 2**31 - 1, -(2**31), 1], pa.date32()),
    pa.array(["a", "b", "c", "d"], pa.string_view()), pa.array([b"a\xff", b"b", b"c", b"d"], pa.binary_view()),
]  # fmt: skip


def arrays(changes: Sequence[Sequence[int]]) -> pa.Table:
    columns: list[Any] = [list(column) for column in zip(*ROWS, strict=True)]
    for column, number in changes:
        columns[column % len(COLUMNS)] = ARRAYS[number % len(ARRAYS)]
    return pa.table(dict(zip(COLUMNS, columns, strict=True)))


def table(given: Any, folder: Path) -> Case:
    for name, data in images().items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    path = folder / f"table.{given['kind']}"
    if given["kind"] == "parquet":
        pq.write_table(arrays(given["cells"]), out := io.BytesIO())
        data = out.getvalue()
    else:
        cells = [list(COLUMNS), *map(list, ROWS)]
        for at, number in given["cells"]:
            row = cells[at % len(cells)]
            row[at // len(cells) % len(row)] = CELLS[number % len(CELLS)]
        data = text_of(cells, "\t" if given["kind"] == "tsv" else ",")
    path.write_bytes(edited(data, given["edits"]))
    return converted(path, (path.name, str(folder), "images/"), quarantine=given["quarantine"])


# Archives: bytes changed, with or without headers whose checksums are right; members that no data set has

Member = Sequence[Any]  # name, type, content or target
FILE, LINK, HARD_LINK, FOLDER, PIPE, DEVICE = (
    code.decode()
    for code in (tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE)
)
NAMES = [
    "images/1.jpg", "images", "images/", "../x.jpg", "/x.jpg", "images/../../x.jpg", "images/../images/1.jpg",
    "./images/1.jpg", "",
    ".", "..", "/", "a\\..\\x.jpg", "C:/x.jpg", "images/\udcff.jpg", "x" * 5000, "a/" * 2000 + "b.jpg", "table.csv",
    "images//2.jpg",
    "table.csv/x", "images/1.jpg/x", "__MACOSX/a", "images/e\u0301.jpg", "images/\u00e9.jpg", "images/a\nb.jpg",
]  # fmt: skip
TARGETS = [
    "1.jpg",
    "../images/1.jpg",
    "images/1.jpg",
    "../../x",
    "/etc/passwd",
    "",
    ".",
    "..",
    "link.jpg",
    "images",
    "\udcff",
]


def plain_members() -> list[Member]:
    rows = [COLUMNS, *ROWS, ("images/link.jpg", "9", "train", "a", "c1", "", "")]
    files = [("table.csv", FILE, text_of(rows)), *((name, FILE, data) for name, data in images().items())]
    return [*files, ("images/link.jpg", LINK, "1.jpg")]


def members(given: Any) -> list[Member]:
    strange = [
        (NAMES[name % len(NAMES)], kind, images()["images/1.jpg"] if kind == FILE else TARGETS[target % len(TARGETS)])
        for name, kind, target in given["members"]
    ]
    return [*plain_members(), *strange] if given["after"] else [*strange, *plain_members()]


def tar(content: Sequence[Member], form: int) -> bytes:
    with tarfile.open(fileobj=(out := io.BytesIO()), mode="w:", format=form, encoding="utf-8") as packed:
        for name, kind, data in content:
            info = tarfile.TarInfo(name)
            info.type = kind.encode()
            if kind == FILE:
                info.size = len(data)
                packed.addfile(info, io.BytesIO(data))
            else:
                info.linkname = data
                packed.addfile(info)
    return out.getvalue()


def zipped(content: Sequence[Member], method: int) -> bytes:
    with zipfile.ZipFile(out := io.BytesIO(), "w", method) as packed, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # names that come twice
        for name, kind, data in content:
            info = zipfile.ZipInfo(name.encode(errors="replace").decode() or "x")
            info.create_system, info.compress_type = 3, method
            modes = {
                FILE: 0o100644,
                LINK: 0o120777,
                HARD_LINK: 0o100644,
                FOLDER: 0o040755,
                PIPE: 0o010644,
                DEVICE: 0o020644,
            }
            info.external_attr = modes[kind] << 16
            packed.writestr(info, data if kind == FILE else data.encode(errors="replace"))
    return out.getvalue()


def with_header_sums(data: bytes) -> bytes:
    """A tar whose blocks that look like headers have right checksums."""
    blocks = [data[at : at + 512] for at in range(0, len(data), 512)]
    for number, block in enumerate(blocks):
        if len(block) == 512 and block[257:262] == b"ustar":
            total = sum(block[:148]) + 8 * ord(" ") + sum(block[156:])
            blocks[number] = block[:148] + b"%06o\0 " % total + block[156:]
    return b"".join(blocks)


def archive(given: Any, folder: Path) -> Case:
    kind = given["kind"]
    if kind.startswith("zip"):
        data = edited(
            zipped(members(given), zipfile.ZIP_STORED if kind == "zip-stored" else zipfile.ZIP_DEFLATED), given["edits"]
        )
        path = folder / "x.zip"
    else:
        data = edited(
            tar(members(given), tarfile.PAX_FORMAT if kind == "tar-pax" else tarfile.GNU_FORMAT), given["edits"]
        )
        data = with_header_sums(data) if given["resealed"] else data
        path = folder / ("x.tar.gz" if kind == "tar.gz" else "x.tar")
        data = edited(gzip.compress(data, 1, mtime=0), given["outer"]) if kind == "tar.gz" else data
    path.write_bytes(data)
    whole = converted(path, (path.name,), quarantine=given["quarantine"])

    def call() -> None:
        with contextlib.closing(open_source(path, "an archive")) as source:
            for name, child in walk(source):
                if child.offender is None:
                    with contextlib.suppress(OSError):  # a conversion reports it as an offender
                        source.read(name, 1 << 20)
        whole.call()

    return Case(call, whole.told)


MEMBERS = st.lists(
    st.tuples(
        st.integers(0, len(NAMES) - 1),
        st.sampled_from([FILE, FILE, LINK, LINK, HARD_LINK, FOLDER, PIPE, DEVICE]),
        st.integers(0, 20),
    ).map(list),
    max_size=3,
)
PAIRS = st.lists(st.tuples(st.integers(0, 10**3), st.integers(0, 10**3)).map(list), max_size=3)
NO_EDITS: st.SearchStrategy[list[Any]] = st.just([])
TABLES_TARGET = Target(
    st.fixed_dictionaries(
        {
            "kind": st.sampled_from(["csv", "tsv", "parquet"]),
            "cells": PAIRS,
            "edits": NO_EDITS | EDITS,
            "quarantine": st.booleans(),
        }
    ),
    table,
)
ARCHIVES_TARGET = Target(
    st.fixed_dictionaries(
        {
            "kind": st.sampled_from(["zip", "zip-stored", "tar", "tar-pax", "tar.gz"]),
            "members": MEMBERS,
            "after": st.booleans(),
            "edits": NO_EDITS | EDITS,
            "outer": NO_EDITS | NO_EDITS | EDITS,
            "resealed": st.booleans(),
            "quarantine": st.booleans(),
        }
    ),
    archive,
)
