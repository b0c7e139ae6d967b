"""LaST (Shu et al., TCSVT 2021): frames from films; no cameras, and outfits only in train."""

from collections.abc import Iterator

from datasets.layouts.layout import Entry, Layout, name
from datasets.layouts.tree import Tree

_IN_TRAIN = name("<person>_<…>_<outfit>", r"(\d+)_(?:.*_)?([^_]+)")
_IN_TEST = name("<person>_<…>", r"(\d+)_.+")
_QUERIES = {"val_query": "val/query", "query": "test/query"}
_GALLERIES = {"val_gallery": "val/gallery", "gallery": "test/gallery"}


def _read(tree: Tree) -> Iterator[Entry]:
    for person, path in tree.nested("train"):
        if (found := _IN_TRAIN.read(tree, path)) and _agrees(tree, person, found[1], path):
            yield Entry("train", path, found[1], found[2])
    for split, folder in _QUERIES.items():
        for path in tree.flat(folder):
            if found := _IN_TEST.read(tree, path):
                yield Entry(split, path, found[1])
    for split, folder in _GALLERIES.items():
        for person, path in tree.nested(folder):
            if (found := _IN_TEST.read(tree, path)) and _agrees(tree, person, found[1], path):
                yield Entry(split, path, found[1])


def _agrees(tree: Tree, folder: str, person: str, path: str) -> bool:
    if int(folder) == int(person):
        return True
    tree.report(path, f"folder and name disagree: person {folder} or {person}", "move or rename it")
    return False


LAST = Layout(
    name="last",
    root="last",
    places={
        "train": ("train",),
        "val_query": ("val/query",),
        "val_gallery": ("val/gallery",),
        "query": ("test/query",),
        "gallery": ("test/gallery",),
    },
    names=_IN_TRAIN,
    read=_read,
    protocol="last",
    licence=(
        "Academic research only. Frames from films: the people are actors and extras whose consent to this use is not "
        "documented, and the films have owners."
    ),
    official={
        "persons": 10862,
        "images": 228156,
        "train/persons": 5000,
        "train/images": 71248,
        "val_gallery/persons": 56,
        "val_query/images": 100,
        "val_gallery/images": 21279,
        "query/persons": 5805,
        "query/images": 10176,
        "gallery/persons": 5806,
        "gallery/images": 125353,
    },
)
