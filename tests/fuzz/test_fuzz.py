"""Each target with a few inputs, and with every input that has failed once. `make fuzz` tries thousands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from tests.fuzz.target import judge
from tests.fuzz.targets import TARGETS

EXAMPLES = {"addresses": 100, "images": 100, "over": 10, "checkpoints": 12, "overrides": 15, "recipes": 15}
USUAL = 25
SEEDS: dict[str, list[Any]] = json.loads(Path(__file__).with_name("seeds.json").read_text(encoding="utf-8"))


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow tells of damaged tags
@pytest.mark.parametrize("name", TARGETS)
def test_an_input_works_or_one_of_our_errors_names_it(name: str, tmp_path: Path) -> None:
    # The same inputs in each run: new ones are for `make fuzz`.
    @settings(max_examples=EXAMPLES.get(name, USUAL), suppress_health_check=list(HealthCheck), derandomize=True)
    @given(drawn=TARGETS[name].inputs)
    def one(drawn: Any) -> None:
        judge(TARGETS[name], drawn, tmp_path / "room")

    one()


@pytest.mark.parametrize(
    ("name", "number"), [(name, number) for name, kept in SEEDS.items() for number in range(len(kept))]
)
def test_inputs_that_failed_once_do_so_no_more(name: str, number: int, tmp_path: Path) -> None:
    judge(TARGETS[name], SEEDS[name][number], tmp_path / "room")
