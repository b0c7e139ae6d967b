"""`redress search`: what is shown of the nearest images."""

from __future__ import annotations

import pytest

from orchestration.cli.commands.search import SEARCH, show_search
from tests.orchestration.printed_table import cells


def test_the_nearest_of_a_data_set_with_the_labels_that_are_known(capsys: pytest.CaptureFixture[str]) -> None:
    found = [
        {"rank": 1, "similarity": 0.98765, "image": "a.png", "is_match": True, "person": "7", "clothes": "2"},
        {"rank": 2, "similarity": 0.5, "image": "b.png", "is_match": False, "person": "8", "clothes": None},
    ]
    answer = {
        "results": [{"image": "q.png", "person": "7", "found": found}],
        "searched": "data",
        "picture": "search.png",
    }
    show_search(answer | {"set_aside": []})
    shown = capsys.readouterr().out
    assert shown.startswith("nearest to q.png (person 7)")
    assert cells(shown) == [
        ["rank", "similarity", "image", "same person", "person", "clothes"],
        ["1", "0.988", "a.png", "yes", "7", "2"],
        ["2", "0.500", "b.png", "no", "8", ""],
    ]
    assert shown.endswith("searched  data\npicture   search.png\n")


def test_the_nearest_of_a_folder_have_no_labels_and_unreadable_files_are_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    result = {"image": "q.png", "found": [{"rank": 1, "similarity": 1.0, "image": "a.png"}]}
    show_search({"results": [result], "searched": "crops", "set_aside": ["x.png: no image"], "picture": "p.png"})
    shown = capsys.readouterr().out
    assert cells(shown) == [["rank", "similarity", "image"], ["1", "1.000", "a.png"]]
    assert "skipped   x.png: no image\n" in shown


def test_images_may_follow_options() -> None:
    options = SEARCH.parse(["m", "crops", "a.png", "--top", "5", "b.png"])
    assert (options.images, options.top, options.out) == (["a.png", "b.png"], 5, "search.png")
    assert SEARCH.parse(["m", "crops", "--top", "5", "b.png"]).images == ["b.png"]
    assert SEARCH.parse(["m", "crops"]).images == []
