"""Any data set, described by a table (CSV, TSV or Parquet): path, person, split and, where known, other labels.

The table is given instead of the root, or is table.csv, table.tsv or table.parquet in it; paths are relative to its folder.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from datasets.errors import DataError
from datasets.format.index import UNREADABLE
from datasets.layouts.layout import Entry, Layout
from datasets.layouts.tree import Tree
from datasets.sources import Folder

NEEDED, OPTIONAL = ("path", "person", "split"), ("clothes", "camera", "sequence", "frame")
SOURCE_FILES = (".csv", ".tsv", ".parquet")
NAMES = ("table.csv", "table.tsv", "table.parquet")
_SPLIT = re.compile(r"[a-z][a-z0-9_]*")
_SEPARATORS = (",", ";", "\t")


def _read(tree: Tree) -> Iterator[Entry]:
    table = tree.given or _find(tree)
    folders: dict[str, frozenset[str]] = {}
    seen: set[tuple[str, str]] = set()
    for at, row in _rows(tree, table):
        where = f"{table}, row {at}"
        path = _plain_path(tree, row["path"])
        if problem := _problem(row, path):
            tree.report(where, *problem)
            continue
        if not path.isascii():
            path = tree.spelt(path)
        folder, name = _parts(path)
        if folder not in folders:
            folders[folder] = tree.images(folder)
        if name not in folders[folder]:
            tree.report_unlisted(path, where, "row")
        elif (row["split"], path) in seen:
            tree.report(where, f"{path} is in split {row['split']} already", "keep one row for each image")
        else:
            seen.add((row["split"], path))
            yield Entry(row["split"], path, row["person"], *(row.get(label) or None for label in OPTIONAL))


def _find(tree: Tree) -> str:
    found = [name for name in NAMES if tree.source.is_file(name)]
    if len(found) != 1:
        what = f"has both {' and '.join(found)}" if found else f"has neither {' nor '.join(NAMES)}"
        raise DataError(f"{tree.source.where()} {what}; give the table's own path as the source")
    return found[0]


def _rows(tree: Tree, table: str) -> Iterator[tuple[int, Mapping[str, str]]]:
    """The number (the header is 1) and the texts of each row by column, without blanks around them, "" where null."""
    read = _parquet_rows if table.lower().endswith(".parquet") else _csv_rows
    for at, row in read(tree, table):
        texts = {name: text.strip() for name, text in row.items()}
        if any(texts.values()):
            yield at, texts


def _parquet_rows(tree: Tree, table: str) -> Iterator[tuple[int, Mapping[str, str]]]:
    place, data = tree.source.where(table), tree.read(table)
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        written = file.schema_arrow.names
        columns = _columns(tree, table, written)
        at = 1
        for batch in file.iter_batches(columns=[written[number] for number in columns.values()]):
            texts = {name: batch[written[number]].cast(pa.string()).fill_null("") for name, number in columns.items()}
            for row in pa.table(texts).to_pylist():
                at += 1
                yield at, row
    except UNREADABLE as error:
        raise DataError(f"{place} cannot be read as Parquet: {error}") from error


def _csv_rows(tree: Tree, table: str) -> Iterator[tuple[int, Mapping[str, str]]]:
    place, data = tree.source.where(table), tree.read(table)
    with io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig", newline="") as text:
        try:
            separator = _separator(text.readline())
            text.seek(0)
            lines = csv.reader(text, delimiter=separator, strict=True)
            header = next(lines, [])
            columns = _columns(tree, table, header)
            for at, cells in enumerate(lines, start=2):
                if len(cells) == len(header):
                    yield at, {name: cells[number] for name, number in columns.items()}
                elif any(map(str.strip, cells)):
                    remedy = f"write a cell with {separator!r} in it in quotes, and leave an empty cell for no label"
                    tree.report(f"{table}, row {at}", f"{len(cells)} cells, the header has {len(header)}", remedy)
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataError(f"{place} cannot be read as CSV in UTF-8: {error}") from error


def _separator(header: str) -> str:
    """What separates most cells of a header; no column that is read has one of them in its name."""
    return max(_SEPARATORS, key=header.count)


def _columns(tree: Tree, table: str, written: Sequence[str]) -> dict[str, int]:
    """The number of each column that is read, by its name; blanks and upper case in the header do not matter."""
    place, names = tree.source.where(table), [name.strip().lower() for name in written]
    if missing := [name for name in NEEDED if name not in names]:
        raise DataError(
            f"{place} has no column {' and no '.join(missing)}; it has {', '.join(written)}. "
            f"Required are {', '.join(NEEDED)}; optional are {', '.join(OPTIONAL)}"
        )
    known = [name for name in NEEDED + OPTIONAL if name in names]
    if twice := [name for name in known if names.count(name) > 1]:
        raise DataError(
            f"{place}, row 1: column {' and column '.join(twice)} is there twice or more; keep one of each name"
        )
    if others := sorted(
        {name.strip() for name, plain in zip(written, names, strict=True) if plain not in known} - {""}
    ):
        tree.warn(f"{table} has columns that are ignored: {', '.join(others)}")
    return {name: names.index(name) for name in known}


def _plain_path(tree: Tree, written: str) -> str:
    """A path below the table's folder without "." and "//"; an absolute path keeps its "/" where it leads elsewhere."""
    path = str(PurePosixPath(written)) if written else ""
    if isinstance(tree.source, Folder):
        for root in (tree.source.root, tree.source.given.absolute()):
            if path.startswith(f"{root}/"):
                return path[len(f"{root}/") :]
    return path


def _problem(row: Mapping[str, str], path: str) -> tuple[str, str] | None:
    """(problem, remedy) of a single row, None where it is right."""
    for name in NEEDED:
        if not row[name]:
            return f"{name} is empty", "fill it in, or remove the row"
    if not _SPLIT.fullmatch(row["split"]):
        return f"split {row['split']!r}", "expected lower-case letters, digits and _, as in train, query, val_gallery"
    if path.startswith("/") or "\\" in path or "\0" in path or ".." in path.split("/"):
        return f"path {row['path']!r}", "expected a plain path below the table's folder, as in images/0001.jpg"
    return None


def _parts(path: str) -> tuple[str, str]:
    folder, _, name = path.rpartition("/")
    return folder, name


def _protocol(entries: Sequence[Entry]) -> str:
    """LTCC's where every query and gallery image has clothes and a camera: its modes need both."""
    tested = [entry for entry in entries if entry.split in ("query", "gallery")]
    return "ltcc" if tested and all(entry.clothes and entry.camera for entry in tested) else "general"


TABLE = Layout(
    name="table",
    root="<folder of the table>",
    places={},
    names=None,
    read=_read,
    protocol="general",
    licence="Not stated: a table of the user's own. Say whose images these are and what the people consented to.",
    source_files=SOURCE_FILES,
    one_of=NAMES,
    choose_protocol=_protocol,
)
