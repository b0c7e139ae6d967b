"""The sweeps included in redress: YAML files in `experiments/sweeps/`, each a parameter study of a paper."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from orchestration.config.diagnostics import closest, either, suggest
from orchestration.config.recipes import read
from orchestration.errors import RequestError
from orchestration.sweeps.space import KINDS

FOLDER = Path(__file__).resolve().parents[1] / "experiments" / "sweeps"
KEYS = ("experiment", "over", "seeds", "search", "points", "objective", "stop", "every", "grace")
WHOLE = {"seeds", "points", "every", "grace"}


def sweeps() -> list[str]:
    """Their names, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read_sweep(name: str) -> dict[str, Any]:
    """The settings of an included sweep, or of a YAML file at a path; `over` as KEY=VALUES. Raises: RequestError."""
    path = Path(os.path.expanduser(name))
    if name in sweeps():
        path = FOLDER / f"{name}.yaml"
    elif path.suffix not in (".yaml", ".yml") or not os.path.isfile(path):
        suggestion = suggest(closest(name, sweeps()))
        raise RequestError(
            f"there is no sweep {name!r}{suggestion or '.'} Choose {either(sweeps())}, or give the path of a YAML file."
        )
    found = read(path)
    if unknown := sorted(set(found) - set(KEYS)):
        raise RequestError(f"{path}: a sweep has no setting {either(unknown)}; it has {', '.join(KEYS)}.")
    for key in WHOLE & set(found):
        if type(found[key]) is not int or found[key] < 1:
            raise RequestError(f"{path}: {key} = {found[key]!r}: expected a whole number, at least 1.")
    for key in set(found) - WHOLE - {"over"}:
        if not isinstance(found[key], str):
            raise RequestError(f"{path}: {key} = {found[key]!r}: expected text.")
    over = found.get("over") or {}
    if not isinstance(over, dict):
        raise RequestError(f"{path}: over = {over!r}: expected settings with values such as {KINDS}.")
    words = {key: values if isinstance(values, str) else json.dumps(values) for key, values in over.items()}
    return found | {"over": tuple(f"{key}={values}" for key, values in words.items())}
