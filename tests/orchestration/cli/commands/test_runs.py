"""`redress runs`: what is shown of runs."""

from __future__ import annotations

import pytest

from orchestration.cli.commands.runs import show_run, show_runs, show_sync
from tests.orchestration.printed_table import cells


def test_runs_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    run = {"run_id": "r", "name": "cal", "status": "FINISHED", "started": "monday", "data": "s3://reid/small"}
    show_runs({"runs": [run | {"metrics": {"general/rank-1": 0.5}}, run | {"metrics": {}, "data": None}]})
    assert cells(capsys.readouterr().out) == [
        ["run", "name", "state", "started", "rank-1 by mode, %", "data"],
        ["r", "cal", "FINISHED", "monday", "general 50.0", "s3://reid/small"],
        ["r", "cal", "FINISHED", "monday", "", ""],
    ]


def test_a_run_shows_metrics_settings_and_files(capsys: pytest.CaptureFixture[str]) -> None:
    run = {
        "run_id": "r", "name": "cal", "state": "FAILED", "started": "monday", "seconds": 3.5, "data": "d", "storage": "s",
        "models": [], "metrics": {"general/mAP": 0.25}, "settings": {"epochs": "3"}, "files": ["a.png", "b.png"],
    }  # fmt: skip
    show_run(run)
    shown = capsys.readouterr().out
    assert shown.startswith("run_id   r\nname     cal\nstate    FAILED\n")
    assert cells(shown) == [["mode", "mAP"], ["general", "25.0"], ["setting", "value"], ["epochs", "3"]]
    assert shown.endswith("files  a.png\n       b.png\n")
    show_run(run | {"metrics": {}, "files": []})
    assert cells(capsys.readouterr().out) == [["setting", "value"], ["epochs", "3"]]


@pytest.mark.parametrize(("model", "more"), [(None, ""), ("models:/m/1", "registered  models:/m/1\n")])
def test_a_delivery(model: str | None, more: str, capsys: pytest.CaptureFixture[str]) -> None:
    show_sync({"run_id": "r", "delivered": 5, "waiting": 0, "set_aside": [], "model": model})
    assert capsys.readouterr().out == f"run r: 5 records delivered, 0 waiting\n{more}"
