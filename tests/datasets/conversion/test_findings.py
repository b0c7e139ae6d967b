"""The findings of a whole source: kept small, resumed where nothing changed, and a digest of all that is written."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.conversion import findings
from datasets.conversion.findings import Findings, check_all, duplicates, output_digest
from datasets.layouts.layout import Entry
from datasets.sources import Folder, Offender
from tests.datasets.conversion.damage import png

NUM = 70  # entries: more than two tasks
LONG_AGO_NS = 10**18


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of NUM images that changed long ago; number 3 is broken."""
    for number in range(NUM):
        data = png(np.full((2, 2, 3), number % 50, np.uint8)) if number != 3 else b"text"
        path = tmp_path / f"{number}.png"
        path.write_bytes(data)
        os.utime(path, ns=(LONG_AGO_NS, LONG_AGO_NS + number))
    return tmp_path


ENTRIES = [Entry("train", f"{number}.png", str(number // 2)) for number in range(NUM)]


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of the images that are decoded."""
    paths: list[str] = []
    check = findings.check

    def noting(source, entry, masks):
        paths.append(entry.path)
        return check(source, entry, masks)

    monkeypatch.setattr(findings, "check", noting)
    return paths


def test_every_entry_has_its_digest_and_stamp_and_an_offender_its_place(root: Path) -> None:
    progress: list[int] = []
    found = check_all(Folder(root), ENTRIES, None, threads=3, progress=progress.append)
    for number in range(NUM):
        data = (root / f"{number}.png").read_bytes()
        assert found.image(number) == hashlib.sha256(data).digest()[:16]
        assert found.mask(number) == bytes(16)
        assert found.stamps[number].tolist() == [len(data), LONG_AGO_NS + number, 0, 0]
    assert list(found.offenders) == [3]
    assert [offender.path for offender in found.offenders[3]] == ["3.png"]
    assert progress == sorted(progress)
    assert progress[-1] == NUM


def test_only_what_changed_or_was_bad_is_checked_again(root: Path, checked: list[str]) -> None:
    first = check_all(Folder(root), ENTRIES, None, threads=2)
    before = Findings.of_bytes(first.to_bytes(), NUM)
    assert before is not None
    assert before.offenders == {}
    (root / "5.png").write_bytes(png(np.zeros((3, 3, 3), np.uint8)))
    os.utime(root / "5.png", ns=(LONG_AGO_NS, LONG_AGO_NS + 1_000))
    os.utime(root / "6.png", ns=(LONG_AGO_NS, LONG_AGO_NS + 1_000))
    (root / "7.png").unlink()
    checked.clear()
    again = check_all(Folder(root), ENTRIES, None, threads=2, before=before)
    assert sorted(checked) == ["3.png", "5.png", "6.png", "7.png"]
    assert sorted(again.offenders) == [3, 7]
    same = [number for number in range(NUM) if number not in (5, 7)]
    assert (again.digests[same] == first.digests[same]).all()
    assert again.image(5) != first.image(5)
    assert again.stamps[7].tolist() == [-1] * 4


def test_a_file_that_changed_just_now_is_checked_again(root: Path, checked: list[str]) -> None:
    now = time.time_ns()
    os.utime(root / "1.png", ns=(now, now))
    before = check_all(Folder(root), ENTRIES, None, threads=1)
    assert before.stamps[1].tolist() == [-1] * 4
    checked.clear()
    check_all(Folder(root), ENTRIES, None, threads=1, before=before)
    assert "1.png" in checked
    assert "2.png" not in checked


def made(images: list[int], offenders: dict[int, tuple[Offender, ...]] | None = None) -> Findings:
    """Findings whose images are told apart by one number each."""
    digests = np.zeros((len(images), 2, 16), np.uint8)
    digests[:, 0, 0] = images
    orientations = np.ones(len(images), np.uint8)
    return Findings(digests, np.arange(4 * len(images)).reshape(-1, 4), offenders or {}, orientations)


def test_bytes_give_the_findings_back_except_offenders() -> None:
    found = made([1, 2, 3], {1: (Offender("a", "b", "c"),)})
    again = Findings.of_bytes(found.to_bytes(), 3)
    assert again is not None
    assert (again.digests == found.digests).all()
    assert again.stamps.tolist() == [[0, 1, 2, 3], [-1] * 4, [8, 9, 10, 11]]
    assert again.offenders == {}
    assert Findings.of_bytes(found.to_bytes(), 4) is None
    assert Findings.of_bytes(found.to_bytes()[:-1], 3) is None
    assert Findings.of_bytes(b"", 3) is None


@settings(max_examples=50)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=12), st.data())
def test_duplicates_are_those_of_plain_loops(images: list[int], data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.sampled_from(range(len(images))), unique=True, min_size=1).map(sorted))
    groups = {image: [number for number in chosen if images[number] == image] for image in images}
    expected = sorted(numbers for numbers in groups.values() if len(numbers) > 1)
    assert sorted(sorted(numbers) for numbers in duplicates(made(images), chosen)) == expected


def test_the_digest_of_the_output_follows_labels_bytes_recipe_and_choice() -> None:
    entries = ENTRIES[:3]
    plain = output_digest("recipe", entries, made([1, 2, 3]), [0, 1, 2])
    assert plain == output_digest("recipe", entries, made([1, 2, 3]), [0, 1, 2])
    assert len(plain) == 32
    others = [
        output_digest("other", entries, made([1, 2, 3]), [0, 1, 2]),
        output_digest("recipe", entries, made([1, 2, 4]), [0, 1, 2]),
        output_digest("recipe", entries, made([1, 2, 3]), [0, 1]),
        output_digest("recipe", [*entries[:2], Entry("train", "2.png", "9")], made([1, 2, 3]), [0, 1, 2]),
    ]
    assert len({plain, *others}) == 5
    unread = made([1, 2, 9])
    assert output_digest("recipe", entries, unread, [0, 1]) == others[2], "what is left out decides nothing"
