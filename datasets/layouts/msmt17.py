"""MSMT17 (Wei et al., CVPR 2018): a list per split; test restarts the person numbers, so they include the folder.

V2 has the lists and the images of V1 with faces masked, in folders of other names. A person has the same label in both.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping

from datasets.layouts.layout import Entry, Layout, name, number
from datasets.layouts.tree import Tree

_NAME = name("<person>_<index>_<camera>_<…>", r"(\d+)_\d+_(\d+)_.+")
_PARTS = {"train": "train", "val": "train", "query": "test", "gallery": "test"}
_V1, _V2 = {"train": "train", "test": "test"}, {"train": "mask_train_v2", "test": "mask_test_v2"}
_LINE = "expected <person>/<file> <person number>"


def _read(tree: Tree, folders: Mapping[str, str]) -> Iterator[Entry]:
    there = {part: {path: person for person, path in tree.nested(folder)} for part, folder in folders.items()}
    entries: dict[str, Entry | None] = {}
    seen: dict[str, tuple[str, str]] = {}
    for split, part in _PARTS.items():
        for at, line in tree.lines(f"list_{split}.txt"):
            where = f"list_{split}.txt, line {at}"
            path = _listed(tree, folders[part], line, where)
            if path is None:
                continue
            if path in seen:
                tree.report(where, f"{path} is listed in {seen[path][1]} already", "list each image once, in one list")
                if seen[path][0] != split:  # its split is ambiguous
                    entries[path] = None
                continue
            seen[path] = split, where
            if path not in there[part]:
                tree.report_unlisted(path, where, "line")
            elif found := _NAME.read(tree, path):
                entries[path] = Entry(split, path, f"{part}/{there[part][path]}", camera=number(found[2]))
    for path in (path for images in there.values() for path in images if path not in seen):
        tree.pass_over(path, "images that no list names")
    yield from (entry for entry in entries.values() if entry)


def _listed(tree: Tree, folder: str, line: str, where: str) -> str | None:
    """The path in a line; None where it cannot be read, which is reported."""
    columns = line.split()
    person = columns[0].partition("/")[0]
    if len(columns) != 2 or columns[0].count("/") != 1 or not (person + columns[1]).isdigit():
        tree.report(where, f"{line!r} cannot be read", _LINE)
    elif int(person) != int(columns[1]):
        problem = f"person number {columns[1]}, but the folder is {person}"
        tree.report(where, problem, "correct the line, or rename the folder")
    else:
        return f"{folder}/{columns[0]}"
    return None


def _places(folders: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    return {split: (f"list_{split}.txt", folders[part]) for split, part in _PARTS.items()}


MSMT17 = Layout(
    name="msmt17",
    root="MSMT17_V1",
    places=_places(_V1),
    names=_NAME,
    read=functools.partial(_read, folders=_V1),
    protocol="msmt17",
    version="V1",
    licence=(
        "By agreement with the authors, academic research only, no redistribution; a later release (V2) has faces masked. "
        "The people filmed cannot be assumed to have consented to anything beyond research."
    ),
    official={
        "persons": 4101,
        "cameras": 15,
        "images": 126441,
        "train/persons": 1041,
        "train/images": 30248,
        "val/images": 2373,
        "gallery/persons": 3060,
        "query/images": 11659,
        "gallery/images": 82161,
    },
)

MSMT17_V2 = dataclasses.replace(
    MSMT17,
    name="msmt17v2",
    root="MSMT17_V2",
    places=_places(_V2),
    read=functools.partial(_read, folders=_V2),
    version="V2",
    licence=MSMT17.licence.replace("a later release (V2) has faces masked", "faces are masked (V2)"),
)
