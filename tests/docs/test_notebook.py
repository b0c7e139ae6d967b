"""docs/train_from_python.ipynb runs from top to bottom, in a kernel of its own, and learns something."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

DOCS = Path(__file__).resolve().parents[2] / "docs"
NOTEBOOK = DOCS / "train_from_python.ipynb"


@pytest.fixture(scope="module")
def executed() -> list[dict[str, Any]]:
    """The outputs of all code cells, in order."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(notebook, timeout=280, resources={"metadata": {"path": str(DOCS)}})
    client.execute()
    return [output for cell in notebook.cells for output in cell.get("outputs", ())]


def text_of(outputs: list[dict[str, Any]]) -> str:
    return "".join(str(output.get("text", "")) for output in outputs)


def test_training_lowers_the_loss(executed: list[dict[str, Any]]) -> None:
    losses = [float(value) for value in re.findall(r"loss (\d+\.\d+)", text_of(executed))]
    assert len(losses) == 4
    assert losses[-1] < losses[0]


def test_every_mode_is_scored(executed: list[dict[str, Any]]) -> None:
    scored = re.findall(r"^(\S+) +rank-1 +([\d.]+) % +mAP +([\d.]+) %", text_of(executed), re.MULTILINE)
    assert [rule for rule, *_ in scored] == ["general", "same-clothes", "clothes-changing"]
    assert all(0 < float(value) <= 100 for _, *values in scored for value in values)


def test_ranked_lists_are_drawn(executed: list[dict[str, Any]]) -> None:
    assert [
        len(output["data"]["image/png"]) > 10_000 for output in executed if "image/png" in output.get("data", {})
    ] == [True]


def test_the_notebook_is_kept_without_outputs() -> None:
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
