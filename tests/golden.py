"""Golden vectors: reference inputs and values, one pair `<family>.json`, `<family>.npz` per family.

The folder is `REDRESS_GOLDEN` (default: `../shared/golden` beside the repository root). Its README defines the format;
any folder of that format will do, with other cases or fewer families. Typical use:

    @pytest.mark.parametrize("case", golden.cases("cal_loss"))
    def test_golden_…(case: golden.Case) -> None:
        inputs = case.inputs(torch.float64)          # arrays as tensors, floats in the dtype asked for
        case.check("loss", my_loss(**inputs))        # tolerance by the dtype of what is checked
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

DTYPES = (torch.float64, torch.float32)
DEFAULT = Path(__file__).resolve().parents[2] / "shared" / "golden"


class GoldenError(RuntimeError):
    """The folder of golden vectors, or a family in it, is not there."""


@dataclass(frozen=True)
class Case:
    """One golden case. `expected` and `raw_inputs`: name → float/bool/str/list/dict, or array as stored."""

    family: str
    id: str
    op: str
    params: Mapping[str, Any]
    raw_inputs: Mapping[str, Any]
    expected: Mapping[str, Any]
    tolerances: Mapping[torch.dtype, Mapping[str, float]]
    notes: str

    def inputs(self, dtype: torch.dtype) -> dict[str, Any]:
        """Fresh tensors for the arrays (floats in `dtype`, integers and bytes as stored); literals as they are."""
        return {name: _tensor(value, dtype) for name, value in self.raw_inputs.items()}

    def tolerance(self, dtype: torch.dtype) -> dict[str, float]:
        """{"rtol", "atol"} for results in `dtype` (float64 or float32)."""
        return dict(self.tolerances[dtype])

    def check(self, name: str, actual: Tensor | float, *, dtype: torch.dtype | None = None) -> None:
        """Assert that `actual` is `expected[name]` within the tolerance of its dtype (`dtype` for plain numbers)."""
        actual = actual.detach().cpu() if isinstance(actual, Tensor) else torch.tensor(actual, dtype=dtype)
        expected = torch.as_tensor(_number(self.expected[name]), dtype=torch.float64)
        assert actual.shape == expected.shape, f"{self.id}: {name} has shape {tuple(actual.shape)}"
        torch.testing.assert_close(
            actual.double(),
            expected,
            **self.tolerance(dtype or actual.dtype),
            equal_nan=True,
            msg=lambda text: f"{self.family}/{self.id}: {name}\n{text}",
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
    """Names of the families in the folder, sorted."""
    return sorted(path.stem for path in folder().glob("*.json"))


def cases(family: str, *ops: str) -> list[Any]:
    """Every case of a family (of the operations `ops`, if any are named) as `pytest.param(case, id=case.id)`.

    A family that another folder than the default one lacks has no cases. Raises: GoldenError when the default folder
    lacks it, or when there is no folder.
    """
    return [pytest.param(case, id=case.id) for case in load_if_there(family) if not ops or case.op in ops]


def load_if_there(family: str) -> tuple[Case, ...]:
    """`load`, but nothing for a family that another folder than the default one lacks."""
    return () if folder() != DEFAULT and family not in families() else load(family)


@functools.cache
def load(family: str) -> tuple[Case, ...]:
    """Every case of a family, in the order of its index."""
    path = folder() / f"{family}.json"
    if not path.is_file():
        raise GoldenError(f"no golden family {family!r} in {folder()}: it has {', '.join(families())}")
    index = json.loads(path.read_text(encoding="utf-8"))
    arrays: Mapping[str, np.ndarray] = np.load(folder() / index["arrays"]) if index.get("arrays") else {}
    return tuple(_case(family, entry, arrays) for entry in index["cases"])


def _case(family: str, entry: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Case:
    return Case(
        family=family,
        id=entry["id"],
        op=entry["op"],
        params=entry["params"],
        raw_inputs=_resolve(entry["inputs"], arrays),
        expected=_resolve(entry["expected"], arrays),
        tolerances={torch.float64: entry["tol_float64"], torch.float32: entry["tol_float32"]},
        notes=entry.get("notes") or "",
    )


def _resolve(value: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """Replace every {"array": name, …} by the array, at any depth."""
    if isinstance(value, Mapping):
        if "array" in value:
            return arrays[value["array"]]
        return {name: _resolve(inner, arrays) for name, inner in value.items()}
    if isinstance(value, list):
        return [_resolve(inner, arrays) for inner in value]
    return value


def _tensor(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, np.ndarray):
        tensor = torch.from_numpy(value.copy())
        return tensor.to(dtype) if tensor.is_floating_point() else tensor
    if isinstance(value, Mapping):
        return {name: _tensor(inner, dtype) for name, inner in value.items()}
    return value


def _number(value: Any) -> Any:
    """JSON has no NaN or infinity: the format writes them as strings."""
    if isinstance(value, str):
        return float(value)
    if isinstance(value, Iterable) and not isinstance(value, np.ndarray):
        return [_number(inner) for inner in value]
    return value
