"""`redress demo`: the table it ends with, and the folder it empties."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestration.cli.commands.demo import DEMO, empty_folder, show_demo
from orchestration.errors import RequestError

METRICS = {
    "baseline-demo": {"general/rank-1": 0.75, "general/mAP": 0.346, "clothes-changing/rank-1": 0.058,
                      "clothes-changing/mAP": 0.077, "general/mINP": 0.1, "distance/delta": 0.3},
    "other-demo": {"general/rank-1": 0.566, "general/mAP": 0.361, "clothes-changing/rank-1": 0.246,
                   "clothes-changing/mAP": 0.216, "general/mINP": 0.2},
}  # fmt: skip
TABLE = """\
rendered people, LTCC's protocol, %
┏━━━━━━━━━━━━━━━┳━━━━━━━━━┳━━━━━━━━━┳━━━━━━━━━━━━━━━━━━┳━━━━━━━━━━━━━━━━━━┓
┃               ┃ general ┃ general ┃ clothes-changing ┃ clothes-changing ┃
┃ recipe        ┃  rank-1 ┃     mAP ┃           rank-1 ┃              mAP ┃
┡━━━━━━━━━━━━━━━╇━━━━━━━━━╇━━━━━━━━━╇━━━━━━━━━━━━━━━━━━╇━━━━━━━━━━━━━━━━━━┩
│ baseline-demo │    75.0 │    34.6 │              5.8 │              7.7 │
│ other-demo    │    56.6 │    36.1 │             24.6 │             21.6 │
└───────────────┴─────────┴─────────┴──────────────────┴──────────────────┘
model            models:/demo/1
pictures         a.png
                 b.png
to see the runs  mlflow ui
                 then open http://page
seconds          124
"""


def test_the_table_has_rank_1_and_map_of_each_mode(capsys: pytest.CaptureFixture[str]) -> None:
    answer = {"table": METRICS, "model": "models:/demo/1", "pictures": ["a.png", "b.png"], "mlflow_ui": "mlflow ui"}
    show_demo(answer | {"mlflow_page": "http://page", "seconds": 123.6})
    shown = capsys.readouterr().out
    assert [line.rstrip() for line in shown.splitlines()] == TABLE.splitlines()


def test_only_the_folder_of_an_earlier_demo_is_emptied(tmp_path: Path) -> None:
    root = empty_folder(tmp_path / "new" / "demo")
    (root / "old").touch()
    assert list(empty_folder(root).iterdir()) == [root / ".redress-demo"]
    (tmp_path / "mine").mkdir()
    empty_folder(tmp_path / "mine")  # empty: nothing is lost
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "thesis").touch()
    with pytest.raises(RequestError, match="theirs is not empty and not from an earlier demo"):
        empty_folder(tmp_path / "theirs")
    assert (tmp_path / "theirs" / "thesis").exists()


def test_the_folder_is_named_or_is_demo() -> None:
    assert DEMO.parse([]).directory == "demo"
    assert DEMO.parse(["there"]).directory == "there"
