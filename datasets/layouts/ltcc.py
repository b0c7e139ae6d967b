"""LTCC (Qian et al., ACCV 2020): flat folders of PNG images, and lists of the persons that change clothes."""

from collections.abc import Iterator, Mapping

from datasets.layouts.layout import Entry, Layout, name, number
from datasets.layouts.tree import Tree

_NAME = name("<person>_<outfit>_c<camera>_<number>", r"(\d+)_(\d+)_c(\d+)_\d+")
_FOLDERS = {"train": "train", "query": "query", "gallery": "test"}
_LISTS = ("cloth-change_id", "cloth-unchange_id")


def _read(tree: Tree) -> Iterator[Entry]:
    persons: dict[str, set[int]] = {"train": set(), "test": set()}
    for split, folder in _FOLDERS.items():
        for path in tree.flat(folder):
            if found := _NAME.read(tree, path):
                persons["train" if split == "train" else "test"].add(int(found[1]))
                yield Entry(split, path, found[1], found[2], number(found[3]))
    _read_lists(tree, persons)


def _read_lists(tree: Tree, persons: Mapping[str, set[int]]) -> None:
    """Reads the lists of `info` into the manifest: {"cloth-change_id_train": [person, …], …}."""
    info: dict[str, list[int]] = {}
    for part, known in persons.items():
        listed: dict[int, str] = {}
        for kind in _LISTS:
            path = f"info/{kind}_{part}.txt"
            if not tree.source.is_file(path):
                tree.warn(f"{path} is missing: the manifest will lack this list of persons that change clothes")
                continue
            info[f"{kind}_{part}"] = []
            for at, line in tree.lines(path):
                if person := _listed(tree, f"{path}, line {at}", line, known, listed):
                    info[f"{kind}_{part}"].append(person[0])
                    listed[person[0]] = f"{path}, line {at}"
    if info:
        tree.extra["info"] = info


def _listed(tree: Tree, where: str, line: str, known: set[int], listed: Mapping[int, str]) -> tuple[int] | None:
    """The person in a line; None where it is wrong, which is reported."""
    if not (line.isascii() and line.isdigit()):
        tree.report(where, f"{line!r} is no person's number", "expected one number per line")
    elif int(line) not in known:
        tree.report(where, f"person {line} has no image", "remove the line, or add the person's images")
    elif int(line) in listed:
        tree.report(where, f"person {line} stands in {listed[int(line)]} already", "list the person once, in one list")
    else:
        return (int(line),)
    return None


LTCC = Layout(
    name="ltcc",
    root="LTCC_ReID",
    places={split: (folder,) for split, folder in _FOLDERS.items()},
    names=_NAME,
    read=_read,
    protocol="ltcc",
    licence=(
        "Research only, by agreement with the authors; no redistribution. "
        "The people filmed cannot be assumed to have consented to anything beyond research."
    ),
    official={"persons": 152, "cameras": 12, "clothes": 478, "images": (17119, 17138)},
)
