"""The sweeps that come with redress: YAML files in `experiments/sweeps/`, each a paper's study of its parameters."""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Any

from orchestration.config.diagnostics import either
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
    """A sweep's settings; `over` as words KEY=VALUES. A path to a YAML file of one's own does as well. Raises: RequestError."""
    path = Path(name).expanduser()
    if name in sweeps():
        path = FOLDER / f"{name}.yaml"
    elif path.suffix not in (".yaml", ".yml") or not path.is_file():
        close = difflib.get_close_matches(name, sweeps(), n=1)
        meant = f" Meant {close[0]}?" if close else ""
        raise RequestError(f"there is no sweep {name!r}.{meant} There are {either(sweeps())}; or give a YAML file.")
    found = read(path)
    if unknown := sorted(set(found) - set(KEYS)):
        raise RequestError(f"{path}: a sweep has no {either(unknown)}; it has {', '.join(KEYS)}.")
    for key in WHOLE & set(found):
        if type(found[key]) is not int or found[key] < 1:
            raise RequestError(f"{path}: {key} = {found[key]!r}: expected a whole number from 1 on.")
    for key in set(found) - WHOLE - {"over"}:
        if not isinstance(found[key], str):
            raise RequestError(f"{path}: {key} = {found[key]!r}: expected a word.")
    over = found.get("over") or {}
    if not isinstance(over, dict):
        raise RequestError(f"{path}: over = {over!r}: expected keys with {KINDS}.")
    words = {key: values if isinstance(values, str) else json.dumps(values) for key, values in over.items()}
    return found | {"over": tuple(f"{key}={values}" for key, values in words.items())}
