"""`redress tune`: which sweep is asked for, and what is shown of one."""

from __future__ import annotations

from typing import Any

import pytest

from orchestration.cli.commands.tune import TUNE, requested_sweep, show_sweep
from orchestration.errors import RequestError
from orchestration.sweeps.settings import SweepSettings
from orchestration.tuning import tune
from tests.orchestration.printed_table import cells


def test_options_override_the_preset_sweep_and_the_preset_overrides_the_defaults() -> None:
    _, settings = requested_sweep(TUNE.parse(["cal", "data=/given"]))
    assert settings.seeds == 3
    assert settings.retries == SweepSettings(over=()).retries
    options = ["--seeds", "5", "--retries", "0", "--stop", "median", "--every", "2", "--concurrent", "1"]
    _, settings = requested_sweep(TUNE.parse(["cal", "data=/given", *options]))
    assert (settings.seeds, settings.retries, settings.stop, settings.every, settings.concurrent) == (
        5,
        0,
        "median",
        2,
        1,
    )


@pytest.mark.parametrize(
    ("args", "name"),
    [
        ([], "cal-demo"),
        (["register=of-recipe"], "of-recipe"),
        (["--register", "mine"], "mine"),
        (["--no-register"], None),
    ],
)
def test_the_best_is_registered_under_the_experiments_name_unless_another_is_given(
    args: list[str], name: str | None
) -> None:
    over = ["--over", "method.tau=[1/4, 1/16]"]
    _, settings = requested_sweep(TUNE.parse(["cal-demo", "data=/given", *over, *args]))
    assert settings.register == name


def test_a_resumed_sweep_keeps_all_settings_but_a_few(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = SweepSettings(over=("a=[1, 2]",), seeds=3, retries=2, register="m")
    monkeypatch.setattr(tune, "stored_sweep", lambda sweep: (f"experiment of {sweep}", stored))
    assert requested_sweep(TUNE.parse(["--resume", "s"])) == ("experiment of s", stored)
    _, settings = requested_sweep(TUNE.parse(["--resume", "s", "--retries", "0", "--concurrent", "4"]))
    assert settings == SweepSettings(over=("a=[1, 2]",), seeds=3, retries=0, concurrent=4, register="m")
    _, settings = requested_sweep(TUNE.parse(["--resume", "s", "--no-register"]))
    assert settings.register is None
    _, settings = requested_sweep(TUNE.parse(["--resume", "s", "--register", "other"]))
    assert settings.register == "other"
    for args in (["--over", "a=[1]"], ["--search", "grid"], ["--points", "2"], ["--seeds", "1"], ["--objective", "x/mAP"],
                 ["--stop", "asha"], ["--every", "1"], ["--grace", "1"], ["epochs=3"]):  # fmt: skip
        with pytest.raises(RequestError, match=f"keeps its settings: leave out {args[0]}, or start a new sweep"):
            requested_sweep(TUNE.parse(["--resume", "s", *args]))


def configuration(tau: float, **changes: Any) -> dict[str, Any]:
    values = {"method.tau": tau, "method.epsilon": 0.1}
    return {
        "values": values, "score": 0.25, "spread": None, "seeds": [1], "epochs": 9, "state": "finished", "failures": {},
    } | changes  # fmt: skip


def sweep(*points: dict[str, Any]) -> dict[str, Any]:
    return {
        "points": list(points), "objective": "general/mAP", "sweep": "s", "model": "models:/m/1", "pictures": ["tau.png"],
        "pages": ["parallel.html"], "best": {"values": points[0]["values"], "run_id": "r"},
    }  # fmt: skip


def test_a_sweep_shows_a_line_for_each_configuration_and_the_best(capsys: pytest.CaptureFixture[str]) -> None:
    show_sweep(sweep(configuration(0.25, spread=0.0125, seeds=[1, 2]), configuration(0.5, score=None, state="stopped")))
    shown = capsys.readouterr().out
    assert shown.startswith("validation, best first")
    assert cells(shown) == [
        ["tau", "epsilon", "general/mAP, %", "seeds", "epochs", "state"],
        ["0.25", "0.1", "25.0 ± 1.2", "2", "9", "finished"],
        ["0.5", "0.1", "", "1", "9", "stopped"],
    ]
    assert shown.endswith(
        "sweep            s\n"
        "best             method.tau = 0.25, method.epsilon = 0.1\n"
        "run of the best  r\n"
        "model            models:/m/1\n"
        "in MLflow        pictures/tau.png\n"
        "                 parallel.html\n"
    )


def test_failures_have_a_column_where_there_are_any_each_once(capsys: pytest.CaptureFixture[str]) -> None:
    failed = configuration(0.5, score=None, state="failed", failures={"1": "no memory", "2": "no memory", "3": "lost"})
    show_sweep(sweep(configuration(0.25), failed))
    assert [line[-1] for line in cells(capsys.readouterr().out)] == ["failure", "", "no memory; lost"]
