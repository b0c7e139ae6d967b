"""CCVID (Gu et al., CVPR 2022): walks as tracklets of frames, listed per split; outfits are numbered per person."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from datasets.layouts.layout import Entry, Layout, name
from datasets.layouts.tree import Tree

_SPLITS = ("train", "query", "gallery")
_TRACKLET = re.compile(r"(session\d+)/(\d+)_(\d+)", re.ASCII)
_COLUMNS = "expected <session>/<person>_<walk>, person and outfit, separated by a tab"


@dataclass(frozen=True)
class _Walk:
    """A line of a list."""

    split: str
    folder: str
    person: str
    clothes: str
    camera: str
    where: str


def _read(tree: Tree) -> Iterator[Entry]:
    walks = [walk for split in _SPLITS for walk in _walks(tree, split)]
    listed = Counter(walk.folder for walk in {(walk.folder, walk.split): walk for walk in walks}.values())
    seen: dict[str, str] = {}
    for walk in walks:
        if walk.folder in seen:
            problem = f"{walk.folder} stands in {seen[walk.folder]} already"
            tree.report(walk.where, problem, "list each tracklet once, in one list")
            continue
        seen[walk.folder] = walk.where
        frames = list(tree.flat(walk.folder))
        if not frames:
            tree.report(walk.folder, f"a tracklet without frames ({walk.where})", "add its frames, or remove the line")
        if listed[walk.folder] > 1:  # its split is ambiguous
            continue
        for frame, path in enumerate(frames):
            yield Entry(walk.split, path, walk.person, walk.clothes, walk.camera, walk.folder, str(frame))
    for session in sorted({folder.partition("/")[0] for folder in seen}):
        for folder in tree.listing(session).folders:
            if f"{session}/{folder}" not in seen:
                tree.pass_over(f"{session}/{folder}/", "tracklets that no list names")


def _walks(tree: Tree, split: str) -> Iterator[_Walk]:
    path = f"{split}.txt"
    for at, line in tree.lines(path):
        where = f"{path}, line {at}"
        columns = line.split()
        found = _TRACKLET.fullmatch(columns[0])
        if len(columns) != 3:
            tree.report(where, f"{len(columns)} columns", _COLUMNS)
        elif not found:
            tree.report(where, f"{columns[0]!r} is no tracklet", _COLUMNS)
        elif columns[1].lstrip("0") != found[2].lstrip("0"):
            problem = f"person {columns[1]} in the line, {found[2]} in the folder's name"
            tree.report(where, problem, "correct the line, or rename the folder")
        else:
            yield _Walk(split, columns[0], columns[1], columns[2], f"{found[1]}/{found[3]}", where)


CCVID = Layout(
    name="ccvid",
    root="CCVID",
    places={split: (f"{split}.txt", "session1") for split in _SPLITS},
    names=name("<frame>", r"\d+"),
    read=_read,
    protocol="ccvid",
    licence=(
        "CC BY-NC-SA 4.0 according to the release's readme; made from the FVG gait recordings, whose terms apply too; faces "
        "must be made unrecognisable in any picture shown. The people filmed cannot be assumed to have consented to more."
    ),
    official={
        "persons": 226,
        "images": 347833,
        "sequences": 2856,
        "train/persons": 75,
        "train/sequences": 948,
        "train/clothes": 159,
        "gallery/persons": 151,
        "query/sequences": 834,
        "gallery/sequences": 1074,
    },
)
