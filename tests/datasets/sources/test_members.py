"""The tree of an archive's members, added in any order: paths, links, duplicates, and what must not be opened."""

from __future__ import annotations

import pytest

from datasets.errors import DataError
from datasets.sources import members as module
from datasets.sources.members import BAD, FOLDER, Members


def made() -> Members:
    return Members("x.tar", width=2)


def test_files_stand_in_folders_that_need_not_be_members() -> None:
    members = made()
    members.add_file("./a//b/1.jpg", (5, 100))
    members.add_file("2.jpg", (6, 200))
    members.add_folder("a/c/")
    assert members.folders == {
        "": {"a": FOLDER, "2.jpg": 1},
        "a": {"b": FOLDER, "c": FOLDER},
        "a/b": {"1.jpg": 0},
        "a/c": {},
    }
    assert [list(members.noted(number)) for number in range(len(members))] == [[5, 100], [6, 200]]


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ("/a.jpg", "an absolute path"),
        ("C:a.jpg", "an absolute path"),
        ("a/../b.jpg", "a path that leads out of the archive"),
        ("a\\b.jpg", "a path with a backslash or a zero byte"),
        ("a\0.jpg", "a path with a backslash or a zero byte"),
        ("\udcff.jpg", "the name is not UTF-8"),
        ("a" * 1025, "a path of 1025 characters"),
    ],
)
def test_a_path_that_has_no_place_is_an_offender(written: str, problem: str) -> None:
    members = made()
    members.add_file(written, (1, 1))
    assert len(members) == 0
    assert members.folders == {"": {}}
    assert [offender.problem for offender in members.offenders] == [f"{problem}; it is not read"]
    assert all(offender.path.isprintable() and len(offender.path) < 100 for offender in members.offenders)


def test_of_a_file_that_is_there_twice_the_last_counts() -> None:
    members = made()
    members.add_file("a.jpg", (1, 1))
    members.add_bad("b.jpg", "is encrypted", "unpack it")
    members.add_file("a.jpg", (2, 2))
    members.add_file("b.jpg", (3, 3))
    assert members.num_twice == 2
    assert list(members.noted(members.folders[""]["a.jpg"])) == [2, 2]
    assert members.bad == {}


def test_a_file_cannot_be_a_folder_too() -> None:
    members = made()
    members.add_file("a", (1, 1))
    members.add_file("a/b", (1, 1))
    members.add_file("c/d", (1, 1))
    members.add_file("c", (1, 1))
    assert len(members) == 2
    assert [offender.problem for offender in members.offenders] == ["is a file and a folder at once"] * 2


def test_links_are_resolved_once_everything_is_listed() -> None:
    members = made()
    members.add_link("a/link.jpg", "../b/1.jpg")
    members.add_link("c", "b")
    members.add_link("top", ".")
    members.add_link("out", "../x")
    members.add_link("absolute", "/x")
    members.add_link("gone", "b/9.jpg")
    members.add_link("round", "round")
    members.add_file("b/1.jpg", (1, 1))
    members.resolve_links()
    assert members.real("a/link.jpg") == "b/1.jpg"
    assert members.real("c/1.jpg") == "b/1.jpg"
    assert members.real("top/c/1.jpg") == "b/1.jpg"
    assert members.real("b") == "b"
    assert [members.real(path) for path in ("out", "absolute", "gone", "round", "c/9.jpg", "out/x")] == [None] * 6
    assert {path: offender.problem.rpartition(" leads ")[2] for path, offender in members.bad.items()} == {
        "out": "out of the archive", "absolute": "out of the archive", "gone": "nowhere", "round": "nowhere"
    }  # fmt: skip


def test_a_hard_link_is_the_file_that_came_before_it() -> None:
    members = made()
    members.add_hard_link("early.jpg", "a.jpg")
    members.add_file("a.jpg", (1, 1))
    members.add_hard_link("late.jpg", "./a.jpg")
    assert members.folders[""] == {"early.jpg": BAD, "a.jpg": 0, "late.jpg": 0}
    assert members.bad["early.jpg"].problem == "is a hard link to a.jpg, no file that came before it"


def test_too_many_files_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_MEMBERS", 2)
    members = made()
    members.add_file("1", (1, 1))
    members.add_file("2", (1, 1))
    with pytest.raises(DataError, match=r"x\.tar has more than 2 files; unpack it"):
        members.add_file("3", (1, 1))
