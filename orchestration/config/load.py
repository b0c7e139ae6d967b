"""Load an experiment from a recipe and overrides; check it as a whole and report every error at once."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import ValidationError

from datasets.storage.address import AddressError, parse_address
from methods import METHODS
from orchestration.addresses import initial_address
from orchestration.config import constraints
from orchestration.config.diagnostics import Diagnostic, RawConfig, explain, report
from orchestration.config.recipes import find, put, read, read_overrides, recipes
from orchestration.config.settings import Experiment, parse
from orchestration.engine.weights import weights_address
from orchestration.errors import RequestError

__all__ = ["Experiment", "load", "override", "recipes"]

COMMAND_LINE = "command line"
ADDRESSES: dict[str, Callable[[str], object]] = {
    "data": parse_address,
    "storage": parse_address,
    "weights": weights_address,
    "init_from": initial_address,
}
REQUIRED = {
    "data": "is required: the address of a data set, data=FOLDER or data=s3://…; `redress data synth` creates one"
}
ROUNDS = 4  # of validation: an error can hide others


def load(name: str, overrides: Sequence[str] = ()) -> Experiment:
    """Load the experiment of a recipe's name or a YAML file's path, with `key=value` overrides.

    Values are parsed as YAML; `key=null` removes an optimizer; paths are relative to the current folder.
    Raises: RequestError listing every error.
    """
    path = find(name)
    return build({"name": path.stem, **read(path)}, path.name, overrides)


def override(resolved: dict[str, Any], overrides: Sequence[str], source: str = "run") -> Experiment:
    """A stored experiment (`resolved`) with overrides. Raises: RequestError listing every error."""
    return build(copy.deepcopy(resolved), source, overrides)


def build(tree: dict[str, Any], source: str, overrides: Sequence[str]) -> Experiment:
    sources = dict.fromkeys(tree, source)
    title = f"experiment {tree.get('name')}"
    changes, wrong_words = read_overrides(overrides)
    found = [Diagnostic("", text, word=word) for word, text in wrong_words]
    for key, value in changes:
        obstacle = put(tree, key, value)
        sources[key] = COMMAND_LINE
        if obstacle:
            found.append(Diagnostic(key, obstacle, word=f"{key} = {value}"))
    found += parse_addresses(tree)
    tree = json.loads(json.dumps(without_removed_optimizers(tree), default=str))
    raw = RawConfig(tree, sources)
    more, experiment = check(raw)
    found += more
    if found or experiment is None:
        raise RequestError(report(title, raw, found))
    return experiment


def check(raw: RawConfig) -> tuple[list[Diagnostic], Experiment | None]:
    """Every error in the tree, and the experiment that the valid settings describe (None if there is none).

    Invalid settings are removed and the rest is validated again, so that one error does not hide another.
    """
    tree = copy.deepcopy(raw.tree)
    found: dict[str, Diagnostic] = {}
    unsure: set[str] = set()  # keys whose intended value is unknown
    experiment = None
    for _ in range(ROUNDS):
        try:
            experiment = parse(tree)
            break
        except ValidationError as error:
            for diagnostic in explain(error, Experiment, tree):
                if not any(overlap(diagnostic.key, key) for key in unsure):
                    found.setdefault(diagnostic.key, explain_required(diagnostic))
                if not diagnostic.is_unknown:
                    unsure.add(diagnostic.key)
                remove_invalid(tree, diagnostic.key)
    if experiment is None:
        return list(found.values()), None
    on_command_line = {key for key, source in raw.sources.items() if source == COMMAND_LINE}
    for keys, text in constraints.violations(experiment):
        if not any(overlap(key, wrong) for key in keys for wrong in unsure):
            key = next((key for key in keys if key in on_command_line), keys[0])
            found[f"{key} {text}"] = Diagnostic(key, text)
    return list(found.values()), experiment


def explain_required(diagnostic: Diagnostic) -> Diagnostic:
    if "is required" not in diagnostic.text:
        return diagnostic
    return Diagnostic(diagnostic.key, REQUIRED.get(diagnostic.key, diagnostic.text))


STAND_INS: dict[str, Any] = {
    "name": "?",
    "data": "?",
    "method": {"name": next(iter(METHODS))},
    "optimizers": {},
}


def remove_invalid(tree: dict[str, Any], key: str) -> None:
    """Remove an invalid setting; replace a required one by any valid value."""
    place, _, last = key.rpartition(".")
    if last in ("name", "lr") and place:  # without them the rest cannot be validated
        return remove_invalid(tree, place)
    found, at = RawConfig(tree, {}).lookup(place) if place else (True, tree)
    if found and isinstance(at, dict):
        at.pop(last, None)
        if not place and last in STAND_INS:
            at[last] = STAND_INS[last]
    return None


def overlap(key: str, other: str) -> bool:
    """Whether one key is the other or contains it."""
    return key == other or key.startswith(f"{other}.") or other.startswith(f"{key}.")


def without_removed_optimizers(tree: dict[str, Any]) -> dict[str, Any]:
    """The tree without the optimizers that an override removed (null)."""
    optimizers = tree.get("optimizers")
    if isinstance(optimizers, dict):
        tree["optimizers"] = {name: settings for name, settings in optimizers.items() if settings is not None}
    return tree


def parse_addresses(tree: dict[str, Any]) -> list[Diagnostic]:
    """Parse the addresses of the tree in place: paths become absolute, because workers run in other folders."""
    found = []
    tree.setdefault("storage", Experiment.model_fields["storage"].default)
    for key, parse_one in ADDRESSES.items():
        if isinstance(address := tree.get(key), str):
            try:
                tree[key] = str(parse_one(address))
            except AddressError as error:
                found.append(Diagnostic(key, str(error)))
    return found
