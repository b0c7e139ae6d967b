"""VC-Clothes (Wan et al., CVPRW 2020): rendered people; cameras 2 and 3 show the same outfit, 3 and 4 others."""

from collections.abc import Iterator

from datasets.layouts.layout import Entry, Layout, name, number
from datasets.layouts.tree import Tree

_NAME = name("<person>-<camera>-<outfit>-<number>", r"(\d+)-(\d+)-(\d+)-\d+")
_SPLITS = ("train", "query", "gallery")


def _read(tree: Tree) -> Iterator[Entry]:
    for split in _SPLITS:
        for path in tree.flat(split):
            if found := _NAME.read(tree, path):
                yield Entry(split, path, found[1], found[3], number(found[2]))


VCCLOTHES = Layout(
    name="vcclothes",
    root="VC-Clothes",
    places={split: (split,) for split in _SPLITS},
    names=_NAME,
    read=_read,
    protocol="vcclothes",
    licence=(
        "Rendered figures, no real person is in it. The game publisher's terms apply; obtain and read the authors' terms. "
        "(Its sister set Real28 is real footage.)"
    ),
    official={"persons": 512, "cameras": 4, "images": 19060},
)
