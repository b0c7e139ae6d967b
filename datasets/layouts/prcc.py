"""PRCC (Yang et al., PAMI 2019): cameras A and B show one outfit, C another; val has more images of train's persons."""

from collections.abc import Iterator

from datasets.layouts.layout import Entry, Layout, name
from datasets.layouts.tree import Tree
from datasets.protocols.single_shot import RECORD, draw

_IN_TRAIN = name("<A, B or C>_cropped_rgb<number> (camera is A, B or C)", r"([ABC])_cropped_rgb\d+")
_IN_TEST = name("cropped_rgb<number>", r"cropped_rgb\d+")
_OF_CAMERA = {"A": "gallery", "B": "query_same", "C": "query_diff"}
_CLOTHES = {"A": "AB", "B": "AB", "C": "C"}


def _read(tree: Tree) -> Iterator[Entry]:
    for split in ("train", "val"):
        for person, path in tree.nested(f"rgb/{split}"):
            if found := _IN_TRAIN.read(tree, path):
                yield Entry(split, path, person, _CLOTHES[found[1]], found[1])
    gallery = []
    for camera, split in _OF_CAMERA.items():
        for person, path in tree.nested(f"rgb/test/{camera}"):
            if _IN_TEST.read(tree, path):
                gallery += [(person, path)] if camera == "A" else []
                yield Entry(split, path, person, _CLOTHES[camera], camera)
    if gallery:
        drawn = draw(person for person, _ in gallery)
        tree.extra[RECORD] = [[gallery[place][1] for place in places] for places in drawn]


PRCC = Layout(
    name="prcc",
    root="prcc",
    places={
        "train": ("rgb/train",),
        "val": ("rgb/val",),
        "gallery": ("rgb/test/A",),
        "query_same": ("rgb/test/B",),
        "query_diff": ("rgb/test/C",),
    },
    names=_IN_TRAIN,
    read=_read,
    protocol="prcc",
    licence=(
        "Distributed for academic research; obtain and read the authors' terms. "
        "The people filmed cannot be assumed to have consented to anything beyond research."
    ),
    official={
        "persons": 221,
        "cameras": 3,
        "images": 33698,
        "train/persons": 150,
        "train/images": 17896,
        "val/images": 5002,
        "gallery/persons": 71,
        "gallery/images": 3384,
        "query_same/images": 3873,
        "query_diff/images": 3543,
    },
)
