"""Edits of valid bytes and texts, as plain JSON."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

Edit = Sequence[Any]  # what, where, with which bytes (hexadecimal)

PLACES = (
    st.integers(0, 100) | st.integers(0, 10**6) | st.integers(-100, -1)
)  # modulo the length: headers and ends often
PATCHES = st.sampled_from(
    ["00", "01", "20", "7f", "80", "ff", "ffffffff", "00" * 8, "80" * 9, "7fffffff", "ff" * 16]
) | (st.binary(min_size=1, max_size=8).map(bytes.hex))
EDITS = st.lists(
    st.tuples(st.sampled_from(["flip", "set", "insert", "remove", "repeat", "cut"]), PLACES, PATCHES).map(list),
    min_size=1,
    max_size=4,
)

STRANGE: list[Any] = [
    None, True, -1, 0, 1, 1.5, 2**31, 2**63, 10**30, 1e308, "", "x", "../x", "/etc/passwd", "\0", "train", [], {}, [1], [[]],
    {"a": 1}, "0" * 64, "\udcff", "9" * 5000, float("inf"), float("nan"),
]  # fmt: skip
CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["replace", "replace", "delete", "rename"]),
        st.integers(0, 10**6),
        st.integers(0, len(STRANGE) - 1),
    ).map(list),
    min_size=1,
    max_size=2,
)


def edited(data: bytes, edits: Sequence[Edit]) -> bytes:
    for what, place, patch in edits:
        at = place % max(1, len(data))
        new = bytes.fromhex(patch)
        if what == "flip" and data:
            data = data[:at] + bytes([data[at] ^ 1 << len(new) % 8]) + data[at + 1 :]
        elif what == "set":
            data = data[:at] + new + data[at + len(new) :]
        elif what == "insert":
            data = data[:at] + new + data[at:]
        elif what == "remove":
            data = data[:at] + data[at + len(new) :]
        elif what == "repeat":
            data = data[:at] + data[at : at + 100] * 2 + data[at + 100 :]
        elif what == "cut":
            data = data[:at]
    return data


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [path] * bool(path) + [place for name, child in children for place in places(child, (*path, name))]


def changed(tree: Any, changes: Sequence[Edit]) -> Any:
    """The tree, changed in place: values replaced, deleted, or under another name."""
    for how, where, number in changes:
        there = places(tree)
        if not there:
            return tree
        path = there[where % len(there)]
        inside = tree
        for name in path[:-1]:
            inside = inside[name]
        if how == "replace":
            inside[path[-1]] = copy.deepcopy(STRANGE[number])  # which a later change alters
        elif how == "delete" or isinstance(inside, list):
            del inside[path[-1]]
        else:
            inside[("rows", "x", "train")[number % 3]] = inside.pop(path[-1])
    return tree
