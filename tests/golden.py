"""Golden vectors: reference inputs and values, one pair `<family>.json`, `<family>.npz` per family.

The folder is `REDRESS_GOLDEN` (default: `../shared/golden` beside the repository root). Its README defines the format;
any folder of that format will do, with other cases or fewer families. Typical use:

    @pytest.mark.parametrize("case", golden.cases("cal_loss"))
    def test_golden_…(case: golden.Case) -> None:
        inputs = case.inputs(torch.float64)          # arrays as tensors, floats in the dtype asked for
        case.check("loss", my_loss(**inputs))        # tolerance by the dtype of what is checked

Nothing is raised while tests are collected: what is wrong with a folder, a family or a case fails the tests that use it,
one case each. tests/conftest.py runs every test of a case inside `judging`.
"""

from __future__ import annotations

import functools
import inspect
import json
import math
import os
import traceback
import warnings
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from torch import Tensor

DTYPES = (torch.float64, torch.float32)
ROOT = Path(__file__).resolve().parents[1]
DEFAULT = ROOT.parent / "shared" / "golden"
OURS = ("datasets", "methods", "orchestration")
NOT_FINITE = {sign + word for sign in ("", "+", "-") for word in ("nan", "inf", "infinity")}
T = TypeVar("T")

# Families, or operations as family/operation, whose code is not written yet. tests/test_golden.py holds the list.
NOT_YET = {
    "video_blocks/video_c2d": "video bodies",
    "video_blocks/video_i3d": "video bodies",
    "video_blocks/video_app3dc": "video bodies",
    "video_blocks/video_nonlocal": "video bodies",
    "video_blocks/video_inflate": "video bodies",
}


class GoldenError(RuntimeError):
    """The folder of golden vectors, a family in it or something in a case is missing, damaged or unknown."""


class GoldenWarning(UserWarning):
    """Ours has a value where the reference has none; the notes of the case say which."""


@dataclass(frozen=True)
class Raises:
    """An expected value "raises IndexError": the reference returns nothing. `error` is the name of its class."""

    error: str


class Named(dict[str, Any]):
    """A part of a case. A missing name is a GoldenError that says what there is."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        super().__init__(values)
        self.where = where

    def __missing__(self, name: str) -> Any:
        raise GoldenError(f"{self.where} has no {name!r}, only {', '.join(self) or 'nothing'}")


@dataclass(frozen=True)
class Case:
    """One golden case. `expected` and `raw_inputs`: name → float/bool/str/list/dict, or array as stored.

    A literal "nan" or "inf", at any depth, is that float; a literal "raises X" is a `Raises`. `problem` is what was wrong
    with the case or its files when they were read, or nothing.
    """

    family: str
    id: str
    op: str
    params: Mapping[str, Any]
    raw_inputs: Mapping[str, Any]
    expected: Mapping[str, Any]
    tolerances: Mapping[torch.dtype, Mapping[str, float]]
    notes: str
    problem: str = ""

    def __str__(self) -> str:
        return f"{self.family}/{self.id} (op {self.op}, params {dict(self.params)})"

    def inputs(self, dtype: torch.dtype) -> dict[str, Any]:
        """Fresh tensors for arrays and lists (floats in `dtype`, integers and bytes as stored); literals as they are."""
        return Named({n: _tensor(v, dtype) for n, v in self.raw_inputs.items()}, f"{self.family}/{self.id}: inputs")

    def tolerance(self, dtype: torch.dtype) -> dict[str, float]:
        """{"rtol", "atol"} for results in `dtype`: as the case says for float64 and float32, else 0."""
        return {"rtol": 0.0, "atol": 0.0, **self.tolerances.get(dtype, {})}

    def choose(self, functions: Mapping[str, T], kind: str | None = None) -> T:
        """What `kind` (default: the operation) stands for. Raises: GoldenError when there is none."""
        kind = self.op if kind is None else kind
        if kind not in functions:
            raise GoldenError(f"{self}: unknown kind {kind!r}, known are {', '.join(functions)}")
        return functions[kind]

    def bind(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function` with the case's parameters. Raises: GoldenError when it does not take one of them."""
        unknown = [name for name in self.params if name not in inspect.signature(function).parameters]
        if unknown:
            raise GoldenError(f"{self}: unknown parameter {', '.join(unknown)}")
        return functools.partial(function, **self.params)

    def check(self, name: str, actual: Tensor | float | None, *, dtype: torch.dtype | None = None) -> None:
        """Assert that `actual` is `expected[name]` within the tolerance of its dtype (`dtype` for plain numbers).

        null is not compared: not defined. Where the reference raises, or gives a literal NaN or infinity, its README
        leaves to the notes what is expected of us: the same, or a finite value if there are notes, with a warning.
        """
        if name not in self.expected and self.raised() and (actual is None or name.startswith("grad")):
            return  # the reference got no further
        expected = self.expected[name]
        if expected is None:
            return
        assert actual is not None, f"{self}: {name} is None"
        actual = actual.detach().cpu() if isinstance(actual, Tensor) else torch.tensor(actual, dtype=dtype)
        literal = isinstance(expected, float) and not math.isfinite(expected)
        assert not literal or not actual.shape, f"{self}: {name} has shape {tuple(actual.shape)}, not ()"
        if isinstance(expected, Raises) or (literal and actual.isfinite()):
            self._replace(name, actual, expected)
            return
        wanted = torch.as_tensor(expected, dtype=torch.float64)
        assert actual.shape == wanted.shape, (
            f"{self}: {name} has shape {tuple(actual.shape)}, not {tuple(wanted.shape)}"
        )
        tolerance = self.tolerance(dtype or actual.dtype)
        torch.testing.assert_close(
            actual.double(),
            wanted,
            rtol=tolerance["rtol"],
            atol=tolerance["atol"],
            equal_nan=True,
            msg=lambda text: f"{self}: {name}\n{text}",
        )

    def _replace(self, name: str, actual: Tensor, expected: Raises | float) -> None:
        """Ours returns `actual` where the reference raises or is not finite."""
        does = f"raises {expected.error}" if isinstance(expected, Raises) else f"gives {expected}"
        found = f"{self}: the reference {does} for {name}, ours gives {actual.tolist()}"
        assert actual.isfinite().all(), found
        assert self.notes, f"{found}; no notes allow it"
        warnings.warn(f"{found}; notes: {self.notes}", GoldenWarning, stacklevel=3)

    def raised(self) -> list[str]:
        """Names of the errors that the reference raises; what only documents the reference does not count."""
        return [
            value.error
            for name, value in self.expected.items()
            if isinstance(value, Raises) and "reference" not in name and not name.startswith("ref_")
        ]

    def allows(self, error: BaseException, *, ours: bool | None = None) -> bool:
        """The reference raises, too, and `error` comes from our code (`ours`: known to) and fits.

        It fits when its class has the recorded name or is one of ours.
        """
        kinds = {cls.__name__ for cls in type(error).__mro__}
        fits = type(error).__module__.partition(".")[0] in OURS or not kinds.isdisjoint(self.raised())
        return bool(self.raised()) and fits and (_through_our_code(error) if ours is None else ours)


def _through_our_code(error: BaseException) -> bool:
    files = [Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)]
    return any(file.is_relative_to(ROOT / package) for file in files for package in OURS)


@contextmanager
def judging(case: Case, *, of_a_part: bool = False) -> Iterator[None]:
    """Around a test of `case`: errors name the case, a broken case fails, an error that the case allows passes.

    A test of one part of a case (`parts`) expects the error of that part itself: nothing is allowed beside it.
    """
    if case.problem:
        pytest.fail(case.problem, pytrace=False)
    try:
        yield
    except Exception as error:
        if of_a_part or not case.allows(error):
            error.add_note(f"golden case {case}")
            raise
        warnings.warn(
            f"{case}: {type(error).__name__} where the reference raises, too: {error}", GoldenWarning, stacklevel=2
        )


def folder() -> Path:
    """The folder in use. Raises: GoldenError when it does not exist."""
    path = Path(os.environ.get("REDRESS_GOLDEN") or DEFAULT)
    if not any(path.glob("*.json")):
        raise GoldenError(
            f"no golden vectors at {path}: set REDRESS_GOLDEN to the folder that holds <family>.json and <family>.npz "
            "(by default ../shared/golden beside the repository)"
        )
    return path


def families() -> list[str]:
    """Names of the families in the folder, sorted. Raises: GoldenError when there is no folder."""
    return sorted(path.stem for path in folder().glob("*.json"))


def cases(family: str, *ops: str) -> list[Any]:
    """Every case of a family (of the operations `ops`, if any are named) as `pytest.param(case, id=case.id)`.

    A family that another folder than the default one lacks has no cases. What cannot be read is one case that fails.
    """
    try:
        found: Sequence[Case] = load_if_there(family)
    except GoldenError as error:
        found = [_broken(family, "unreadable", "", str(error))]
    return [pytest.param(case, id=case.id) for case in found if not ops or case.op in (*ops, "")]


def parts(family: str, *, documented: Collection[str] = ()) -> list[Any]:
    """`cases`, each for every name in its `expected` (not for those in `documented`): parameters (case, name)."""
    return [
        pytest.param(case, name, id=f"{case.id}-{name}")
        for (case,) in (parameter.values for parameter in cases(family))
        for name in (["unreadable"] if case.problem else case.expected)
        if name not in documented
    ]


def load_if_there(family: str) -> tuple[Case, ...]:
    """`load`, but nothing for a family that another folder than the default one lacks."""
    return () if folder() != DEFAULT and family not in families() else load(family)


def load(family: str) -> tuple[Case, ...]:
    """Every case of a family, in the order of its index; of a damaged one, `problem` says what is wrong.

    Raises: GoldenError when there is no folder or family, or when a file cannot be read.
    """
    return _load(folder(), family)


def find(family: str, name: str) -> Case | None:
    """The case of this id; None where another folder than the default one does not have it."""
    found = next((case for case in load_if_there(family) if case.id == name), None)
    assert found or folder() != DEFAULT, f"the golden family {family} has no case {name!r}"
    return found


@functools.cache
def _load(place: Path, family: str) -> tuple[Case, ...]:
    path = place / f"{family}.json"
    if not path.is_file():
        raise GoldenError(f"no golden family {family!r} in {place}: it has {', '.join(families())}")
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        entries, arrays_name = index["cases"], index.get("arrays")
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise GoldenError(f"golden index {path} is damaged: {type(error).__name__}: {error}") from error
    if not isinstance(entries, list):
        raise GoldenError(f"golden index {path} is damaged: cases is no list")
    arrays = _read_arrays(place / arrays_name) if arrays_name else {}
    return tuple(_case(family, position, entry, arrays) for position, entry in enumerate(entries))


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path) as stored:
            return dict(stored)
    except (OSError, ValueError, EOFError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise GoldenError(f"golden arrays {path} are damaged: {type(error).__name__}: {error}") from error


def _case(family: str, position: int, entry: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Case:
    name = str(entry.get("id", f"case-{position}")) if isinstance(entry, Mapping) else f"case-{position}"
    where = f"{family}/{name}"
    try:
        for part in ("params", "inputs", "expected", "tol_float64", "tol_float32"):
            if not isinstance(entry[part], Mapping):
                raise GoldenError(f"{part} is no object")
        return Case(
            family=family,
            id=name,
            op=entry["op"],
            params=_resolve(entry["params"], arrays, f"{where}: params"),
            raw_inputs=_resolve(entry["inputs"], arrays, f"{where}: inputs"),
            expected=_resolve(entry["expected"], arrays, f"{where}: expected"),
            tolerances={torch.float64: dict(entry["tol_float64"]), torch.float32: dict(entry["tol_float32"])},
            notes=entry.get("notes") or "",
        )
    except (KeyError, TypeError, ValueError, AttributeError, GoldenError) as error:
        op = entry.get("op", "") if isinstance(entry, Mapping) else ""
        reason = str(error) if isinstance(error, GoldenError) else f"{type(error).__name__}: {error}"
        return _broken(family, name, str(op), f"golden case {where} in {family}.json is damaged: {reason}")


def _broken(family: str, name: str, op: str, problem: str) -> Case:
    return Case(family, name, op, {}, {}, {}, {}, "", problem)


def _resolve(value: Any, arrays: Mapping[str, np.ndarray], where: str) -> Any:
    """Replace every {"array": name, …} by the array and texts by what they stand for, at any depth."""
    if isinstance(value, Mapping):
        if "array" in value:
            return _array(value, arrays, where)
        return Named({name: _resolve(inner, arrays, f"{where}.{name}") for name, inner in value.items()}, where)
    if isinstance(value, list):
        return [_resolve(inner, arrays, where) for inner in value]
    if isinstance(value, str) and value.lower() in NOT_FINITE:
        return float(value)  # JSON has no NaN or infinity
    if isinstance(value, str) and value.startswith("raises "):
        return Raises(value.removeprefix("raises ").strip())
    return value


def _array(described: Mapping[str, Any], arrays: Mapping[str, np.ndarray], where: str) -> np.ndarray:
    name = described["array"]
    if name not in arrays:
        raise GoldenError(f"{where}: no array {name!r} in the family's .npz")
    array = arrays[name]
    shape, dtype = described.get("shape", [*array.shape]), described.get("dtype", array.dtype)
    if [*array.shape] != shape or array.dtype != dtype:
        raise GoldenError(f"{where}: array {name!r} is {array.dtype} {[*array.shape]}, the index says {dtype} {shape}")
    return array


def _tensor(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, np.ndarray):
        tensor = torch.from_numpy(value.copy())
        return tensor.to(dtype) if tensor.is_floating_point() else tensor
    if isinstance(value, Mapping):
        return {name: _tensor(inner, dtype) for name, inner in value.items()}
    if isinstance(value, list) and np.asarray(value).dtype.kind in "fiub":
        return _tensor(np.asarray(value), dtype)
    return value
