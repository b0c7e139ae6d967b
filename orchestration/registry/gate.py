"""What a model has to show before it may be promoted: a gate of a few numbers, kept in tags of the registered model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from orchestration.config.diagnostics import either
from orchestration.errors import RequestError, first_line
from orchestration.tracking import mlflow_client

PREFIX = "gate."
USUAL_TARGET = "clothes-changing/mAP"


@dataclass(frozen=True)
class Gate:
    """target: the measure that has to be better, with `confidence`; none: clothes-changing/mAP, or the first mode's mAP.

    tolerance: by how much (a fraction; 0.01 is a point) mAP or rank-1 of any mode may be worse.
    """

    target: str | None = None
    tolerance: float = 0.01
    confidence: float = 0.95

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance <= 1:
            raise RequestError(f"gate: tolerance {self.tolerance} is no fraction from 0 to 1; 0.01 is one point")
        if not 0.5 <= self.confidence < 1:
            raise RequestError(f"gate: confidence {self.confidence} is not from 0.5 to below 1; usual is 0.95")


@dataclass(frozen=True)
class Check:
    """One demand of the gate. text: what was found, as a sentence."""

    name: str
    passed: bool
    text: str


def read_gate(tags: Mapping[str, str]) -> Gate:
    """The gate in a registered model's tags; what they do not say is as usual. Raises: RequestError."""
    given = {key.removeprefix(PREFIX): value for key, value in tags.items() if key.startswith(PREFIX)}
    names = [field.name for field in fields(Gate)]
    if strange := sorted(given.keys() - set(names)):
        raise RequestError(f"tag {PREFIX}{strange[0]} of the registered model: a gate has {', '.join(names)}")
    try:
        numbers = {name: float(given[name]) for name in ("tolerance", "confidence") if name in given}
    except ValueError as error:
        raise RequestError(
            f"the gate in the registered model's tags has no number where one belongs: {error}"
        ) from error
    return Gate(target=given.get("target") or None, **numbers)


def set_gate(client: MlflowClient, name: str, **changes: float | str | None) -> Gate:
    """Change what is not None in the gate of a registered model; returns the whole. Raises: RequestError."""
    gate = Gate(**asdict(gate_of(client, name)) | {key: value for key, value in changes.items() if value is not None})
    for key, value in asdict(gate).items():
        if value is not None:
            client.set_registered_model_tag(name, f"{PREFIX}{key}", str(value))
    return gate


def show_gate(name: str, *, tracking_uri: str | None = None, **changes: float | str | None) -> dict[str, Any]:
    """The gate of a registered model, after the changes that are not None. Raises: RequestError."""
    return {"name": name, "gate": asdict(set_gate(mlflow_client.connect(tracking_uri), name, **changes))}


def gate_of(client: MlflowClient, name: str) -> Gate:
    """Raises: RequestError where there is no such registered model."""
    try:
        return read_gate(client.get_registered_model(name).tags)
    except MlflowException as error:
        raise RequestError(f"{name}: {first_line(error)}. `redress registry list` shows what there is.") from error


def target_of(gate: Gate, measures: Iterable[str]) -> str:
    """The measure that has to be better. Raises: RequestError where the protocol has no such one."""
    names = list(measures)
    wanted = gate.target or (USUAL_TARGET if USUAL_TARGET in names else names[0])
    if wanted not in names:
        raise RequestError(
            f"the gate asks for {wanted}, which the data's protocol does not give; it gives {either(names)}. "
            "Set another with `redress registry gate NAME --target …`."
        )
    return wanted


def run_checks(evidence: Mapping[str, Any], gate: Gate) -> list[Check]:
    """What the gate makes of a comparison's evidence (`review.evidence`). Without a champion, chance stands in for it.

    Raises: RequestError where the evidence was made for a gate of another confidence or other measures.
    """
    if evidence["confidence"] != gate.confidence:
        raise RequestError(
            f"the comparison's intervals are of {100 * evidence['confidence']:g}% confidence and the gate now asks for "
            f"{100 * gate.confidence:g}%. Compare again: redress registry compare {evidence['model']}"
        )
    return [
        better(evidence, gate),
        no_worse(evidence, gate),
        Check(
            "same data",
            evidence["same_data"],
            "trained and compared on the same data"
            if evidence["same_data"]
            else "not the same data: " + evidence["data_note"],
        ),
        Check(
            "test set",
            not evidence["select_on_test"],
            "the model was chosen on the test set, so that its numbers are too good"
            if evidence["select_on_test"]
            else "the test set had no part in choosing the model",
        ),
    ]


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
    return Check(
        "no mode worse",
        True,
        f"no mode worse by more than {format_pp(gate.tolerance, sign='')}; the least change: {name} {format_pp(change[name])}",
    )


def format_interval(low: float, high: float) -> str:
    return "no interval" if math.isnan(low) else f"{100 * low:+.1f} to {100 * high:+.1f}".replace("-", "−")


def format_pp(value: float, sign: str = "+") -> str:
    """A difference of fractions in points of percent."""
    return f"{100 * value:{sign}.1f} points".replace("-", "−")
