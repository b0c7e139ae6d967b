"""The gate: the checks that a model must pass before promotion, configured by tags of the registered model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from datasets.protocols.protocols import PROTOCOLS
from orchestration.config.diagnostics import closest, either, suggest
from orchestration.errors import RequestError, first_line
from orchestration.measures import compared
from orchestration.tracking import mlflow_client

PREFIX = "gate."
USUAL_TARGET = "clothes-changing/mAP"


@dataclass(frozen=True)
class Gate:
    """target: the measure that must improve with `confidence`; None: clothes-changing/mAP, else the first mode's mAP.

    tolerance: how much worse mAP or rank-1 of any mode may be, as a fraction; 0.01 is one percentage point.
    """

    target: str | None = None
    tolerance: float = 0.01
    confidence: float = 0.95

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance <= 1:
            raise RequestError(
                f"gate: tolerance {self.tolerance} is not a fraction from 0 to 1. Set, for example, 0.01: one percentage point"
            )
        if not 0.5 <= self.confidence < 1:
            raise RequestError(
                f"gate: confidence {self.confidence} is not at least 0.5 and below 1. Set, for example, 0.95"
            )


@dataclass(frozen=True)
class Check:
    """The result of one check of the gate. text: the finding, as a phrase."""

    name: str
    passed: bool
    text: str


def read_gate(tags: Mapping[str, str]) -> Gate:
    """The gate in a registered model's tags, with defaults for missing ones. Raises: RequestError."""
    given = {key.removeprefix(PREFIX): value for key, value in tags.items() if key.startswith(PREFIX)}
    names = [field.name for field in fields(Gate)]
    if strange := sorted(given.keys() - set(names)):
        raise RequestError(
            f"tag {PREFIX}{strange[0]} of the registered model is unknown: a gate has {', '.join(names)}"
        )
    try:
        numbers = {name: float(given[name]) for name in ("tolerance", "confidence") if name in given}
    except ValueError as error:
        raise RequestError(f"a gate tag of the registered model is not a number: {error}") from error
    return Gate(target=given.get("target") or None, **numbers)


def set_gate(client: MlflowClient, name: str, **changes: float | str | None) -> Gate:
    """Change the values that are not None in the gate of a registered model; returns the gate. Raises: RequestError."""
    gate = Gate(**asdict(gate_of(client, name)) | {key: value for key, value in changes.items() if value is not None})
    for key, value in asdict(gate).items():
        if value is not None:
            client.set_registered_model_tag(name, f"{PREFIX}{key}", str(value))
    return gate


def show_gate(name: str, *, tracking_uri: str | None = None, **changes: float | str | None) -> dict[str, Any]:
    """The gate of a registered model, after changing the values that are not None. Raises: RequestError."""
    check_target(changes.get("target"))
    return {"name": name, "gate": asdict(set_gate(mlflow_client.connect(tracking_uri, create=False), name, **changes))}


def check_target(target: float | str | None) -> None:
    """Check that some protocol has the measure. Whether the data's own has it, a comparison says. Raises: RequestError."""
    names = dict.fromkeys(
        f"{mode.name}/{measure}" for protocol in PROTOCOLS.values() for mode in protocol.modes for measure in compared()
    )
    if target is not None and target not in names:
        raise RequestError(
            f"--target {target}: no protocol measures it{suggest(closest(target, names)) or '.'} Expected one of "
            f"{', '.join(names)}."
        )


def gate_of(client: MlflowClient, name: str) -> Gate:
    """Raises: RequestError where there is no such registered model."""
    try:
        return read_gate(client.get_registered_model(name).tags)
    except MlflowException as error:
        raise RequestError(
            f"{name}: {first_line(error)}. `redress registry list` lists the registered models."
        ) from error


def target_of(gate: Gate, measures: Iterable[str]) -> str:
    """The measure that must improve. Raises: RequestError where the protocol does not have it."""
    names = list(measures)
    wanted = gate.target or (USUAL_TARGET if USUAL_TARGET in names else names[0])
    if wanted not in names:
        raise RequestError(
            f"the gate's target is {wanted}, which the data's protocol does not measure; it measures {either(names)}. "
            "Set another target with `redress registry gate NAME --target …`."
        )
    return wanted


def run_checks(evidence: Mapping[str, Any], gate: Gate) -> list[Check]:
    """Check a comparison's evidence (`review.evidence`) against the gate. Without a champion, the baseline is random order.

    Raises: RequestError where the evidence has another confidence or lacks the gate's target.
    """
    if evidence["confidence"] != gate.confidence:
        raise RequestError(
            f"the comparison's intervals have {100 * evidence['confidence']:g}% confidence and the gate now requires "
            f"{100 * gate.confidence:g}%. Compare again: redress registry compare {evidence['model']}"
        )
    checks = [
        better(evidence, gate),
        no_worse(evidence, gate),
        Check(
            "same data",
            evidence["same_data"],
            "trained and compared on the same data"
            if evidence["same_data"]
            else "different data: " + evidence["data_note"],
        ),
        Check(
            "test set",
            not evidence["select_on_test"],
            "the model was selected on the test set: its numbers are optimistic"
            if evidence["select_on_test"]
            else "the test set was not used to select the model",
        ),
    ]
    if "seen_in_training" in evidence:  # evidence stored by earlier versions has none
        seen = evidence["seen_in_training"]
        checks.append(Check("test people", not seen, seen or "test people unseen in training"))
    return checks


def better(evidence: Mapping[str, Any], gate: Gate) -> Check:
    target = target_of(gate, evidence["differences"])
    found = evidence["differences"][target]
    low, high = (math.nan if found[end] is None else found[end] for end in ("low", "high"))
    than = "the champion" if evidence["against"] else "random order"
    change = format_pp(found["candidate"] - found["champion"])
    passed = low > 0
    text = f"{target} {change} ({100 * gate.confidence:g} %: {format_interval(low, high)})"
    verdict = f"better than {than}" if passed else f"not shown to be better than {than}"
    return Check("target better", passed, f"{text}: {verdict}")


def no_worse(evidence: Mapping[str, Any], gate: Gate) -> Check:
    change = {name: one["candidate"] - one["champion"] for name, one in evidence["differences"].items()}
    beyond = {name: value for name, value in change.items() if value < -gate.tolerance}
    if beyond:
        worse = ", ".join(f"{name} {format_pp(value)}" for name, value in beyond.items())
        return Check("no mode worse", False, f"worse by more than {format_pp(gate.tolerance, sign='')}: {worse}")
    name = min(change, key=lambda name: change[name])
    limit = format_pp(gate.tolerance, sign="")
    return Check(
        "no mode worse",
        True,
        f"no mode worse by more than {limit}; the smallest change: {name} {format_pp(change[name])}",
    )


def format_interval(low: float, high: float) -> str:
    return "no interval" if math.isnan(low) else f"{100 * low:+.1f} to {100 * high:+.1f}".replace("-", "−")


def format_pp(value: float, sign: str = "+") -> str:
    """A difference of fractions in percentage points."""
    return f"{100 * value:{sign}.1f} points".replace("-", "−")
