"""Trees of the data sets as their authors hand them out, to be damaged and converted, and a tiny data set of ours."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import layouts
from tests.layouts import Fixture
from tests.tiny import tiny_dataset


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A data set's tree, unpacked once."""
    unpacked: dict[str, Path] = {}

    def place(name: str) -> Path:
        if name not in unpacked:
            unpacked[name] = tmp_path_factory.mktemp(name)
            layouts.unpack(name, unpacked[name])
        return unpacked[name]

    return place


@pytest.fixture
def tree(pristine: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Fixture]:
    """A fresh copy of a data set's tree."""

    def copy(name: str) -> Fixture:
        shutil.copytree(pristine(name), tmp_path / name)
        truth = layouts.expected(name)
        return Fixture(name, tmp_path / name / truth["root"], tmp_path / name / "parsing", truth)

    return copy


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    """The address of a fresh one."""
    return tiny_dataset(tmp_path / "tiny")
