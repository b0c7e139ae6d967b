"""From words to an experiment: a recipe and overrides, checked as a whole, with every mistake in one report."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from methods import METHODS
from orchestration.config import constraints
from orchestration.config.diagnostics import Given, Mistake, explain, report
from orchestration.config.recipes import find, put, read, read_overrides, recipes
from orchestration.config.settings import Experiment, parse
from orchestration.engine.weights import HUB
from orchestration.errors import RequestError

__all__ = ["Experiment", "load", "override", "recipes"]

COMMAND_LINE = "command line"
ADDRESSES = ("data", "storage", "weights", "init_from")
NEEDED = {"data": "is needed: the address of a data set, data=FOLDER or data=s3://…; `redress data synth` makes one"}
NO_PATH = re.compile(r"://|^models:/|^[0-9a-f]{32}$")  # addresses, registered models, ids of runs
ROUNDS = 4  # mistakes can hide others


def load(name: str, overrides: Sequence[str] = ()) -> Experiment:
    """The experiment of a recipe's name or a YAML file's path, with `key=value` overrides.

    Values are read as YAML; `key=null` takes an optimizer out; relative paths count from the current folder.
    Raises: RequestError with all mistakes.
    """
    path = find(name)
    return build({"name": path.stem, **read(path)}, path.name, overrides)


def override(resolved: dict[str, Any], overrides: Sequence[str], source: str = "run") -> Experiment:
    """A stored experiment (`resolved`) with overrides. Raises: RequestError with all mistakes."""
    return build(copy.deepcopy(resolved), source, overrides)


def build(tree: dict[str, Any], source: str, overrides: Sequence[str]) -> Experiment:
    sources = dict.fromkeys(tree, source)
    title = f"experiment {tree.get('name')}"
    changes, wrong_words = read_overrides(overrides)
    found = [Mistake("", text, word=word) for word, text in wrong_words]
    for key, value in changes:
        obstacle = put(tree, key, value)
        sources[key] = COMMAND_LINE
        if obstacle:
            found.append(Mistake(key, obstacle, word=f"{key} = {value}"))
    tree = json.loads(json.dumps(make_absolute(without_absent(tree)), default=str))
    given = Given(tree, sources)
    more, experiment = check(given)
    found += more
    if found or experiment is None:
        raise RequestError(report(title, given, found))
    return experiment


def check(given: Given) -> tuple[list[Mistake], Experiment | None]:
    """Every mistake in the tree, and the experiment that it, without them, describes.

    What is wrong is put aside and the rest looked at again, so that one mistake does not hide another.
    """
    tree = copy.deepcopy(given.tree)
    found: dict[str, Mistake] = {}
    unsure: set[str] = set()  # keys whose value is not what was meant
    experiment = None
    for _ in range(ROUNDS):
        try:
            experiment = parse(tree)
            break
        except ValidationError as error:
            for mistake in explain(error, Experiment, tree):
                if not any(overlap(mistake.key, key) for key in unsure):
                    found.setdefault(mistake.key, needed(mistake))
                if not mistake.is_unknown:
                    unsure.add(mistake.key)
                put_aside(tree, mistake.key)
    if experiment is None:
        return list(found.values()), None
    on_command_line = {key for key, source in given.sources.items() if source == COMMAND_LINE}
    for keys, text in constraints.violations(experiment):
        if not any(overlap(key, wrong) for key in keys for wrong in unsure):
            key = next((key for key in keys if key in on_command_line), keys[0])
            found[f"{key} {text}"] = Mistake(key, text)
    return list(found.values()), experiment


def needed(mistake: Mistake) -> Mistake:
    return Mistake(mistake.key, NEEDED.get(mistake.key, mistake.text)) if "is needed" in mistake.text else mistake


STAND_INS: dict[str, Any] = {
    "name": "?",
    "data": "?",
    "method": {"name": next(iter(METHODS))},
    "optimizers": {},
}


def put_aside(tree: dict[str, Any], key: str) -> None:
    """Take a wrong setting out; where there must be one, put anything that passes."""
    place, _, last = key.rpartition(".")
    if last in ("name", "lr") and place:  # nothing can be said of the rest of it
        return put_aside(tree, place)
    found, at = Given(tree, {}).lookup(place) if place else (True, tree)
    if found and isinstance(at, dict):
        at.pop(last, None)
        if not place and last in STAND_INS:
            at[last] = STAND_INS[last]
    return None


def overlap(key: str, other: str) -> bool:
    """One is the other or part of it."""
    return key == other or key.startswith(f"{other}.") or other.startswith(f"{key}.")


def without_absent(tree: dict[str, Any]) -> dict[str, Any]:
    """Optimizers that an override took out (null) are gone."""
    optimizers = tree.get("optimizers")
    if isinstance(optimizers, dict):
        tree["optimizers"] = {name: settings for name, settings in optimizers.items() if settings is not None}
    return tree


def make_absolute(tree: dict[str, Any]) -> dict[str, Any]:
    """Plain paths, absolute: workers run elsewhere."""
    tree.setdefault("storage", Experiment.model_fields["storage"].default)
    for key in ADDRESSES:
        address = tree.get(key)
        if isinstance(address, str) and not NO_PATH.search(address) and not (key == "weights" and address == HUB):
            tree[key] = str(Path(address).expanduser().absolute())
    return tree
