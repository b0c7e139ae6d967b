"""Any data set, described by a table (CSV or Parquet): path, person, split and optionally clothes, camera, sequence, frame.

The table is given instead of the root, or is table.csv or table.parquet in it; paths are relative to its folder.
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
from datasets.layouts.layout import Entry, Layout
from datasets.layouts.tree import Listing, Tree

NEEDED, OPTIONAL = ("path", "person", "split"), ("clothes", "camera", "sequence", "frame")
SOURCE_FILES = (".csv", ".parquet")
NAMES = ("table.csv", "table.parquet")
_SPLIT = re.compile(r"[a-z][a-z0-9_]*")


def _read(tree: Tree) -> Iterator[Entry]:
    table = tree.given or _find(tree)
    folders: dict[str, Listing] = {}
    seen: set[tuple[str, str]] = set()
    for at, row in _rows(tree, table):
        where = f"{table}, row {at}"
        if problem := _problem(row):
            tree.report(where, *problem)
            continue
        path = row["path"]
        folder, name = _parts(path)
        if folder not in folders:
            folders[folder] = tree.listing(folder)
        if name not in folders[folder].images:
            tree.report_unlisted(path, where, "row")
        elif (row["split"], path) in seen:
            tree.report(where, f"{path} is in split {row['split']} already", "keep one row for each image")
        else:
            seen.add((row["split"], path))
            yield Entry(row["split"], path, row["person"], *(row.get(label) or None for label in OPTIONAL))


def _find(tree: Tree) -> str:
    found = [name for name in NAMES if tree.source.is_file(name)]
    if len(found) != 1:
        what = "has both table.csv and table.parquet" if found else "has neither table.csv nor table.parquet"
        raise DataError(f"{tree.source.where()} {what}; give the table's own path as the source")
    return found[0]


def _rows(tree: Tree, table: str) -> Iterator[tuple[int, Mapping[str, str]]]:
    """The number (the header is 1) and the texts of each row by column, "" where null."""
    place, data = tree.source.where(table), tree.read(table)
    if table.lower().endswith(".parquet"):
        try:
            file = pq.ParquetFile(pa.BufferReader(data))
            columns = _columns(tree, table, file.schema_arrow.names)
            at = 1
            for batch in file.iter_batches(columns=columns):
                texts = pa.table({name: batch[name].cast(pa.string()).fill_null("") for name in columns})
                for row in texts.to_pylist():
                    at += 1
                    yield at, row
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{place} cannot be read as Parquet: {error}") from error
        return
    with io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig", newline="") as text:
        try:
            reader = csv.DictReader(text, restval="", strict=True)
            columns = _columns(tree, table, reader.fieldnames or ())
            for at, row in enumerate(reader, start=2):
                yield at, {name: row[name].strip() for name in columns}
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataError(f"{place} cannot be read as CSV in UTF-8: {error}") from error


def _columns(tree: Tree, table: str, names: Sequence[str]) -> list[str]:
    missing = [name for name in NEEDED if name not in names]
    if missing:
        raise DataError(
            f"{tree.source.where(table)} has no column {' and no '.join(missing)}; it has {', '.join(names)}. "
            f"Required are {', '.join(NEEDED)}; optional are {', '.join(OPTIONAL)}"
        )
    known = [name for name in names if name in NEEDED + OPTIONAL]
    if others := sorted(set(names) - set(known)):
        tree.warn(f"{table} has columns that are ignored: {', '.join(others)}")
    return known


def _problem(row: Mapping[str, str]) -> tuple[str, str] | None:
    """(problem, remedy) of a single row, None where it is right."""
    for name in NEEDED:
        if not row[name]:
            return f"{name} is empty", "fill it in, or remove the row"
    if not _SPLIT.fullmatch(row["split"]):
        return f"split {row['split']!r}", "expected lower-case letters, digits and _, as in train, query, val_gallery"
    path = row["path"]
    if path.startswith("/") or "\\" in path or ".." in path.split("/") or str(PurePosixPath(path)) != path:
        return f"path {path!r}", "expected a plain path below the table's folder, as in images/0001.jpg"
    return None


def _parts(path: str) -> tuple[str, str]:
    folder, _, name = path.rpartition("/")
    return folder, name


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
)
