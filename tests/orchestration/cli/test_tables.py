"""What views print: facts, tables, percent."""

from __future__ import annotations

import pytest

from orchestration.cli.tables import main_metrics, percent, print_facts, print_metrics, print_table, rename_status
from tests.orchestration.printed_table import cells


def test_facts_stand_in_columns_and_those_without_a_value_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    print_facts({"run": "a1", "none": None, "pictures": "x.png\ny.png", "empty": "", "files": [], "zero": 0})
    assert capsys.readouterr().out == "run       a1\npictures  x.png\n          y.png\nzero      0\n"
    print_facts({})
    assert capsys.readouterr().out == ""


def test_a_table_shows_cells_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    """Neither markup nor numbers are interpreted, and a file's lines are as long as they need."""
    print_table("title", ["name", "value"], [["[bold]x[/bold]", 12], [None, "y" * 100]])
    shown = capsys.readouterr().out
    assert shown.splitlines()[0].rstrip() == "title"
    assert cells(shown) == [["name", "value"], ["[bold]x[/bold]", "12"], ["", "y" * 100]]
    assert "\x1b" not in shown


def test_columns_of_numbers_are_aligned_to_the_right(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("", ["name", "long heading"], [["x", "1.0"]], numbers=["long heading"])
    assert "│ x    │          1.0 │" in capsys.readouterr().out


def test_metrics_have_modes_down_and_measures_across_in_percent(capsys: pytest.CaptureFixture[str]) -> None:
    metrics = {
        "general/rank-1": 0.75, "general/mAP": 0.3456, "general/loss": 3.0,
        "general-reranked/mAP": 0.5, "clothes-changing/rank-1": 0.0,
    }  # fmt: skip
    print_metrics("evaluation", metrics)
    shown = capsys.readouterr().out
    assert shown.splitlines()[0].rstrip() == "evaluation, %"
    assert cells(shown) == [
        ["mode", "rank-1", "mAP"],
        ["general", "75.0", "34.6"],
        ["general-reranked", "", "50.0"],
        ["clothes-changing", "0.0", ""],
    ]


def test_distances_are_a_line_below_the_table_and_no_percentages(capsys: pytest.CaptureFixture[str]) -> None:
    print_metrics("evaluation", {"general/mAP": 0.5, "distance/delta": 0.2764, "distance/same-clothes": 0.31})
    shown = capsys.readouterr().out
    assert cells(shown) == [["mode", "mAP"], ["general", "50.0"]]
    assert shown.splitlines()[-1] == "mean distances: same clothes 0.310, delta 0.276"


def test_small_pieces() -> None:
    assert [percent(value) for value in (None, 0.0, 0.12345, 1.0)] == ["", "0.0", "12.3", "100.0"]
    assert main_metrics({"general/rank-1": 0.5, "general/mAP": 0.1, "x/rank-1": 0.25}) == "general 50.0  x 25.0"
    assert main_metrics({}) == ""
    assert rename_status({"status": "FINISHED", "run_id": "a"}) == {"state": "FINISHED", "run_id": "a"}
