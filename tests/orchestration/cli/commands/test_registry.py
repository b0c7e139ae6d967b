"""`redress registry`: what its commands show of their answers."""

from __future__ import annotations

from typing import Any

import pytest

from orchestration.cli.command import Command
from orchestration.cli.commands.registry import (
    REGISTRY,
    show_comparison,
    show_decision,
    show_gate,
    show_model,
    show_models,
    show_registration,
)
from tests.orchestration.printed_table import cells

DECISIONS = [
    {"number": 1, "what": "promoted", "version": "1", "who": "ann", "when": "monday", "why": "first", "overridden": []},
    {
        "number": 2, "what": "rejected", "version": "2", "who": "bob", "when": "tuesday", "why": "bags",
        "overridden": ["gate", "data"],
    },
]  # fmt: skip
DECISION_LINES = [
    ["", "decision", "version", "who", "when", "reason", "overridden"],
    ["2", "rejected", "2", "bob", "tuesday", "bags", "gate, data"],
    ["1", "promoted", "1", "ann", "monday", "first", ""],
]


def test_models_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    metrics = {"general/rank-1": 0.5, "general/mAP": 0.25}
    model = {
        "model": "models:/m/2",
        "aliases": ["candidate", "new"],
        "decision": None,
        "run_id": "r",
        "metrics": metrics,
    }
    show_models({"models": [model]})
    assert cells(capsys.readouterr().out) == [
        ["model", "aliases", "decision", "run", "rank-1 by mode, %"],
        ["models:/m/2", "candidate, new", "", "r", "general 50.0"],
    ]


def test_a_name_shows_aliases_and_decisions_newest_first(capsys: pytest.CaptureFixture[str]) -> None:
    show_model({"model": "m", "aliases": {"champion": "1", "candidate": "3"}, "decisions": DECISIONS})
    shown = capsys.readouterr().out
    assert shown.startswith("model    m\naliases  champion 1, candidate 3\n")
    assert cells(shown) == DECISION_LINES


def test_a_version_shows_metrics_verdict_decisions_and_card(capsys: pytest.CaptureFixture[str]) -> None:
    version = {
        "model": "models:/m/2", "run_id": "r", "created": "monday", "aliases": ["candidate"],
        "metrics": {"general/mAP": 0.25}, "tags": {"review.verdict": "passes"}, "decisions": DECISIONS, "card": "# m",
    }  # fmt: skip
    show_model(version)
    shown = capsys.readouterr().out
    assert shown.startswith("model    models:/m/2\nrun_id   r\ncreated  monday\naliases  candidate\n")
    assert cells(shown) == [["mode", "mAP"], ["general", "25.0"], *DECISION_LINES]
    assert "review.verdict  passes\n" in shown
    assert "review.page" not in shown
    assert shown.endswith("# m\n")
    show_model(version | {"metrics": {}, "tags": {}, "decisions": []})
    assert cells(capsys.readouterr().out) == []


def test_a_registration(capsys: pytest.CaptureFixture[str]) -> None:
    show_registration({"model": "models:/m/1"})
    assert capsys.readouterr().out == "models:/m/1 is registered as candidate\n"


def comparison(passes: bool) -> dict[str, Any]:
    return {
        "model": "models:/m/2", "against": "models:/m/1", "data": "s3://reid/small", "confidence": 0.95,
        "differences": {
            "general/mAP": {"champion": 0.5, "candidate": 0.525, "low": 0.0125, "high": 0.04},
            "general/rank-1": {"champion": 0.75, "candidate": 0.5, "low": None, "high": None},
        },
        "changed": {"general": {"better": 7, "worse": 3}}, "passes": passes, "run_id": "r", "page": "reviews/review.html",
        "page_address": "/artifacts/r/reviews/review.html", "copy": "/tmp/copy.html",
        "checks": [{"name": "target", "passed": True, "text": "better"}, {"name": "modes", "passed": passes, "text": "why"}],
    }  # fmt: skip


@pytest.mark.parametrize("passes", [True, False])
def test_a_comparison_shows_changes_in_points_and_the_gate(passes: bool, capsys: pytest.CaptureFixture[str]) -> None:
    show_comparison(comparison(passes))
    shown = capsys.readouterr().out
    assert "on s3://reid/small" in shown
    assert cells(shown) == [
        ["metric, %", "models:/m/1", "models:/m/2", "change", "95% interval"],
        ["general/mAP", "50.0", "52.5", "+2.5", "+1.2 to +4.0"],
        ["general/rank-1", "75.0", "50.0", "-25.0", ""],
    ]
    assert "general: 7 queries better, 3 worse\n" in shown
    verdict = "passes the gate\n" if passes else "does not pass the gate\n"
    assert f"\n{verdict}  passed  target: better\n  {'passed' if passes else 'FAILED'}  modes: why\n" in shown
    page = "review page  run r, artifact reviews/review.html\n             /artifacts/r/reviews/review.html\n"
    assert shown.endswith(f"{page}its copy     /tmp/copy.html\n")


def test_a_decision(capsys: pytest.CaptureFixture[str]) -> None:
    decision = DECISIONS[1] | {"evidence": None}
    show_decision({"name": "m", "decision": decision, "aliases": {"champion": "1"}})
    assert capsys.readouterr().out == (
        "m, decision 2  rejected, version 2\n"
        "who and when   bob, tuesday\n"
        "reason         bags\n"
        "aliases        champion 1\n"
    )


@pytest.mark.parametrize(
    ("target", "shown"),
    [
        ("general/mAP", "general/mAP"),
        (None, "clothes-changing/mAP (or, where the protocol has none, the first mode's mAP)"),
    ],
)
def test_a_gate(target: str | None, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    show_gate({"name": "m", "gate": {"target": target, "tolerance": 0.015, "confidence": 0.9}})
    assert capsys.readouterr().out == (
        f"m: {shown} better with 90% confidence, no mode worse by more than 1.5 points\n"
    )


def test_options_are_read_into_their_types() -> None:
    commands = {command.name: command for command in REGISTRY.commands if isinstance(command, Command)}
    options = commands["compare"].parse(["m", "--with", "models:/m/1", "--by", "ann"])
    assert (options.model, options.against, options.by, options.data) == ("m", "models:/m/1", "ann", None)
    options = commands["gate"].parse(["m", "--tolerance", "0.02"])
    assert (options.tolerance, options.confidence, options.target) == (0.02, None, None)
    assert commands["rollback"].parse(["m", "--reason", "fails at night"]).reason == "fails at night"
