"""Market-1501 (Zheng et al., ICCV 2015): no outfit labels; bad boxes (-1) and distractors (0000) in the gallery.

Junk is a split of its own, which no mode uses. Distractors stay in the gallery as person 0000, which no query shows.
"""

from collections.abc import Iterator

from datasets.layouts.layout import Entry, Layout, name, number
from datasets.layouts.tree import Tree

_NAME = name("<person>_c<camera>s<sequence>_<frame>_<box>", r"(-1|\d+)_c(\d+)s\d+_\d+_\d+")
_FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
_MOST = {"person": 1501, "camera": 6}


def _read(tree: Tree) -> Iterator[Entry]:
    for split, folder in _FOLDERS.items():
        for path in tree.flat(folder):
            found = _NAME.read(tree, path)
            if found and _in_range(tree, path, int(found[1]), int(found[2])):
                yield Entry("junk" if found[1] == "-1" else split, path, found[1], camera=number(found[2]))


def _in_range(tree: Tree, path: str, person: int, camera: int) -> bool:
    wrong = []
    if person > _MOST["person"]:
        wrong.append(f"person {person}, allowed are -1 (junk), 0 (distractor) and 1 to {_MOST['person']}")
    if not 1 <= camera <= _MOST["camera"]:
        wrong.append(f"camera {camera}, allowed are 1 to {_MOST['camera']}")
    if wrong:
        tree.report(path, " and ".join(wrong), "rename it, or remove it from the tree")
    return not wrong


MARKET1501 = Layout(
    name="market1501",
    root="Market-1501-v15.09.15",
    places={split: (folder,) for split, folder in _FOLDERS.items()},
    names=_NAME,
    read=_read,
    protocol="market1501",
    version="15.09.15",
    licence=(
        "No licence text found; treat as research only. People filmed in public on a campus, consent not documented."
    ),
    official={
        "cameras": 6,
        "train/persons": 751,
        "train/images": 12936,
        "query/persons": 750,
        "query/images": 3368,
        "gallery/persons": 751,
        "gallery/images": 15913,
        "junk/images": 3819,
    },
)
