"""docs/tutorial.md works as it stands: its blocks run in order, in one folder, by the functions that the commands call."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from datasets.shards.dataset import Dataset
from orchestration.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
SECTIONS = {int(number): text for number, text in re.findall(r"^## (\d+)\. (.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.M)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where a reader would work: the data set converted, people held out, the recipe saved."""
    folder = tmp_path_factory.mktemp("first")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PYTHONPATH", str(ROOT))  # a Ray that starts in this folder finds our packages
        patch.setenv("MLFLOW_TRACKING_URI", re.findall(r"^export MLFLOW_TRACKING_URI=(.*)$", PAGE, re.MULTILINE)[0])
        for section in (2, 3, 4, 5):
            follow(section)
        yield folder


def follow(section: int, *, without: str = "nothing") -> dict[str, Any]:
    """Do what a section says; returns the names that its last block of Python leaves."""
    names: dict[str, Any] = {}
    for language, text in re.findall(r"^```(\w+)\n(.*?)^```", SECTIONS[section], re.DOTALL | re.MULTILINE):
        if language == "python":
            names = {}
            exec(compile(text, f"docs/tutorial.md, section {section}", "exec"), names)
        elif language == "yaml":
            Path("mine.yaml").write_text(text, encoding="utf-8")
        for line in text.splitlines() if language == "sh" else ():
            words = shlex.split(line)
            assert words[0] == "redress", line
            if words[1] != without:
                assert main(words[1:]) == 0, line
    return names


def test_your_images_become_a_data_set_with_held_out_people(folder: Path) -> None:
    people, mine, held = (Dataset.open(name) for name in ("people", "mine-set", "mine-val"))
    for split in people.splits:
        theirs, ours = list(people.samples(split)), list(mine.samples(split))
        assert sorted((s.image, s.parsing, s.person, s.clothes, s.camera) for s in theirs) == sorted(
            (s.image, s.parsing, s.person, s.clothes, s.camera) for s in ours
        )
    assert held.index("train").num_persons == people.index("train").num_persons - 2
    assert {"val_query", "val_gallery"} <= set(held.splits)
    assert (folder / "mine.png").stat().st_size > 1000


def test_the_page_shows_the_recipe_that_it_trains(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["experiments", "show", "mine.yaml", "--json"]) == 0
    experiment = json.loads(capfd.readouterr().out)["experiment"]
    assert experiment["method"]["name"] == "cal"
    assert experiment["data"] == str(folder / "mine-val")


@pytest.mark.system  # it needs no server, and takes as long as one
@pytest.mark.timeout(600)
def test_the_recipe_trains_is_searched_promoted_and_serves(folder: Path, ray_cluster: str) -> None:
    follow(6)
    trained = json.loads((folder / "train.json").read_text())
    assert trained["model"] == "models:/mine/1"
    follow(7)
    assert (folder / "search.png").is_file()
    assert (folder / "own.png").is_file()
    follow(8)
    follow(9)
    assert "general" in (folder / "review.html").read_text(encoding="utf-8")
    served = follow(10)
    assert served["gallery"].shape[0] == len(served["paths"]) == 72
    assert served["nearest"][0] == 0
