"""DeepChange (Xu and Zhu, 2021): a list per split; the day replaces the outfit label, as in CAL."""

from collections.abc import Iterator

from datasets.layouts.layout import Entry, Layout, name, number
from datasets.layouts.tree import Tree

_NAME = name("P<person>_C<camera>_<day>_<…>", r"([A-Za-z]\d+)_[A-Za-z](\d+)_([^_]+)_.*")
_FOLDERS = {
    "train": "train-set",
    "val_query": "val-set-query",
    "val_gallery": "val-set-gallery",
    "query": "test-set-query",
    "gallery": "test-set-gallery",
}


def _read(tree: Tree) -> Iterator[Entry]:
    tree.extra["clothes"] = "pseudo labels: the collection date stands in for the outfit, as CAL's authors do it"
    for split, folder in _FOLDERS.items():
        tracklets = _tracklets(tree, folder)
        for path in sorted(tracklets):
            if found := _NAME.read(tree, path):
                yield Entry(split, path, found[1], found[3], number(found[2]), tracklets[path])


def _tracklets(tree: Tree, folder: str) -> dict[str, str]:
    """Path → tracklet, of the images that are both in the folder and in its list."""
    there = set(tree.flat(folder))
    list_path = f"{folder}-bbox.txt"
    listed: dict[str, list[str]] = {}
    for at, line in tree.lines(list_path):
        where = f"{list_path}, line {at}"
        file, *columns = (column.strip() for column in line.split(","))
        if not columns or not (columns[0].isascii() and columns[0].isdigit()):
            problem = f"{columns[0]!r} is no tracklet number" if columns else "there is no tracklet number"
            tree.report(where, problem, "expected <file name>,<tracklet number>")
            there.discard(f"{folder}/{file}")
            continue
        path = f"{folder}/{file}"
        if path in listed:
            tree.report(where, f"{file} is listed already", "keep one line for each image")
        elif path not in there:
            tree.report_unlisted(path, f"{list_path} (line {at})", "line")
        listed.setdefault(path, []).append(columns[0])
    for path in sorted(there - listed.keys()):
        tree.pass_over(path, f"images that {list_path} does not list")
    # an image listed with two tracklets belongs to neither
    return {path: numbers[0] for path, numbers in listed.items() if path in there and len(set(numbers)) == 1}


DEEPCHANGE = Layout(
    name="deepchange",
    root="DeepChangeDataset",
    places={split: (folder, f"{folder}-bbox.txt") for split, folder in _FOLDERS.items()},
    names=_NAME,
    read=_read,
    protocol="deepchange",
    licence=(
        "Non-commercial research only, by signed agreement; no redistribution; faces must be blocked in any publication. "
        "The people filmed cannot be assumed to have consented to anything beyond research."
    ),
    official={
        "persons": 1121,
        "cameras": 17,
        "images": 178407,
        "train/persons": 450,
        "train/images": 75083,
        "val_query/images": 4976,
        "val_gallery/persons": 150,
        "val_gallery/images": 17865,
        "query/images": 17527,
        "gallery/persons": 521,
        "gallery/images": 62956,
    },
)
