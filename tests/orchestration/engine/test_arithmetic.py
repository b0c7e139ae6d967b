"""float32 is IEEE 754 in every operation; a processor that must emulate bfloat16 is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from orchestration.config import build
from orchestration.config.load import load
from orchestration.engine.arithmetic import slowness

CPU = torch.device("cpu")
FACTS = {"num_persons": 2, "clothes_owner": [], "label_map": None}


@pytest.mark.parametrize(
    ("precision", "is_short"), [("tf32", True), ("float32", False), ("bfloat16", False), ("float64", False)]
)
def test_matrix_products_and_convolutions_of_a_method_have_the_same_precision(
    precision: str, is_short: bool, tmp_path: Path
) -> None:
    words = [f"data={tmp_path}", "method.width=0.0625", "epochs=12", f"precision={precision}"]
    build.build_method(load("baseline-demo", words), FACTS)
    assert torch.backends.cudnn.allow_tf32 is is_short
    assert torch.backends.cuda.matmul.allow_tf32 is is_short


@pytest.mark.parametrize("unit", ["avx512_bf16", "amx_bf16", "bf16"])
def test_bfloat16_is_called_slow_where_the_processor_has_no_units_for_it(
    unit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "cpu_name": "Old"})
    warning = slowness("bfloat16", CPU)
    assert warning is not None
    assert "without units for it (Old)" in warning
    assert "Set precision=float32" in warning
    assert slowness("float32", CPU) is None
    assert slowness("bfloat16", torch.device("cuda")) is None
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, unit: True})
    assert slowness("bfloat16", CPU) is None
