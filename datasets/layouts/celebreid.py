"""Celeb-reID and Celeb-reID-light (Huang et al., TCSVT 2019): street snapshots; neither outfits nor cameras."""

from collections.abc import Iterator

from datasets.layouts.layout import Entry, Layout, name
from datasets.layouts.tree import Tree

_NAME = name("<person>_<number>_<…>", r"(\d+)_(\d+)_[^_]+")
_SPLITS = ("train", "query", "gallery")


def _read(tree: Tree) -> Iterator[Entry]:
    for split in _SPLITS:
        for path in tree.flat(split):
            if found := _NAME.read(tree, path):
                yield Entry(split, path, found[1])


CELEBREID = Layout(
    name="celebreid",
    root="Celeb-reID",
    places={split: (split,) for split in _SPLITS},
    names=_NAME,
    read=_read,
    protocol="celebreid",
    licence=(
        "No licence text known here; treat as research only and read the authors' terms. "
        "Photographs of public persons, whose consent to this use is not documented."
    ),
    official={
        "persons": 1052,
        "images": 34186,
        "train/persons": 632,
        "train/images": 20208,
        "query/persons": 420,
        "query/images": 2972,
        "gallery/persons": 420,
        "gallery/images": 11006,
    },
)
