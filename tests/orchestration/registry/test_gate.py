"""The gate: what passes, what fails, and the messages of both."""

from __future__ import annotations

from typing import Any

import pytest

from orchestration.errors import RequestError
from orchestration.registry.gate import Check, Gate, check_target, read_gate, run_checks, show_gate


def evidence(**changes: Any) -> dict[str, Any]:
    """A candidate that is better where clothes change and half a point worse elsewhere."""
    found = {
        "general/mAP": {"champion": 0.5, "candidate": 0.495, "low": -0.01, "high": 0.0},
        "general/rank-1": {"champion": 0.8, "candidate": 0.8, "low": -0.01, "high": 0.01},
        "clothes-changing/mAP": {"champion": 0.2, "candidate": 0.23, "low": 0.01, "high": 0.05},
    }
    plain = {"model": "models:/m/2", "against": "1", "same_data": True, "data_note": "", "select_on_test": False}
    return plain | {"confidence": 0.95, "differences": found} | changes


def failed(checks: list[Check]) -> list[str]:
    return [check.name for check in checks if not check.passed]


def test_better_in_the_target_and_no_worse_than_tolerated_passes() -> None:
    checks = run_checks(evidence(), Gate())
    assert not failed(checks)
    assert checks[0].text == "clothes-changing/mAP +3.0 points (95 %: +1.0 to +5.0): better than the champion"
    assert "no mode worse by more than 1.0 points; the smallest change: general/mAP −0.5 points" in checks[1].text


def test_an_interval_that_reaches_zero_does_not_pass() -> None:
    for low in (0.0, -0.001, None):
        changed = evidence()
        changed["differences"]["clothes-changing/mAP"]["low"] = low
        [name] = failed(run_checks(changed, Gate()))
        assert name == "target better"


def test_a_mode_worse_than_tolerated_does_not_pass() -> None:
    checks = run_checks(evidence(), Gate(tolerance=0.004))
    assert failed(checks) == ["no mode worse"]
    assert "worse by more than 0.4 points: general/mAP −0.5 points" in checks[1].text


def test_other_data_and_choice_on_the_test_set_do_not_pass() -> None:
    checks = run_checks(evidence(same_data=False, data_note="the champion is of data 1234"), Gate())
    assert failed(checks) == ["same data"]
    assert "the champion is of data 1234" in checks[2].text
    assert failed(run_checks(evidence(select_on_test=True), Gate())) == ["test set"]


def test_people_of_train_among_the_test_people_do_not_pass() -> None:
    checks = run_checks(evidence(seen_in_training="2 of the 3 people in query are also in train"), Gate())
    assert failed(checks) == ["test people"]
    assert checks[-1].text == "2 of the 3 people in query are also in train"
    assert run_checks(evidence(seen_in_training=""), Gate())[-1].text == "test people unseen in training"
    assert [check.name for check in run_checks(evidence(), Gate())] == [
        check.name for check in checks[:-1]
    ]  # stored earlier


def test_without_a_champion_the_candidate_has_to_beat_random_order() -> None:
    checks = run_checks(evidence(against=None), Gate())
    assert checks[0].text.endswith("better than random order")


def test_the_gates_target_can_be_another_measure() -> None:
    assert failed(run_checks(evidence(), Gate(target="general/rank-1"))) == ["target better"]
    with pytest.raises(
        RequestError,
        match=r"target is general/rank-9, which the data's protocol does not measure.*general/mAP.*redress registry gate",
    ):
        run_checks(evidence(), Gate(target="general/rank-9"))


def test_evidence_of_another_confidence_is_rejected() -> None:
    with pytest.raises(RequestError, match=r"95% confidence and the gate now requires 99.5%.*compare models:/m/2"):
        run_checks(evidence(), Gate(confidence=0.995))


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"gate.tolerance": "much"}, "gate tag of the registered model is not a number.*much"),
        ({"gate.tolerance": "2"}, "tolerance 2.0 is not a fraction from 0 to 1"),
        ({"gate.confidence": "95"}, "confidence 95.0 is not at least 0.5 and below 1"),
        (
            {"gate.patience": "1"},
            "gate.patience of the registered model is unknown: a gate has target, tolerance, confidence",
        ),
    ],
)
def test_an_invalid_gate_is_rejected(tags: dict[str, str], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        read_gate(tags)


def test_missing_tags_give_the_default_gate() -> None:
    assert read_gate({"owner": "ann"}) == Gate()
    assert read_gate({"gate.tolerance": "0.02", "gate.target": "general/mAP"}) == Gate("general/mAP", 0.02)


def test_a_target_that_no_protocol_measures_is_refused_when_it_is_set() -> None:
    for target in (None, "clothes-changing/mAP", "general/rank-1"):
        check_target(target)
    with pytest.raises(RequestError, match=r"--target clothes-changing/map: no protocol.*mean clothes-changing/mAP\?"):
        show_gate("m", target="clothes-changing/map", tracking_uri="http://nobody.invalid")
