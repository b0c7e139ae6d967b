"""The page about streaming: its code runs, its settings are settings, its picture is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from orchestration.config.settings import BatchSettings
from tests.tiny import tiny_dataset

PAGE = Path(__file__).resolve().parents[2] / "datasets" / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def test_the_settings_shown_are_settings() -> None:
    for block in blocks("yaml"):
        BatchSettings(**yaml.safe_load(block)["batch"])
    assert set(re.findall(r"`batch\.(\w+)", PAGE.read_text())) <= set(BatchSettings.model_fields)


def test_the_code_shown_runs_on_a_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    address = tiny_dataset(tmp_path / "mine", persons=40, clothes=1, images=9, row_group_bytes=10_000)
    for block in blocks("python"):
        exec(block.replace("s3://reid/mine", address), {})
    said = capsys.readouterr().out
    assert len(re.findall(r"needs a cache of [\d,]+ bytes", said)) == 4
    assert re.search(r"a person meets \d+ others in an epoch; \d+ images are not drawn", said)


def test_the_picture_shown_is_there_and_small() -> None:
    [name] = re.findall(r"!\[.*\]\((.*)\)", PAGE.read_text())
    assert 0 < (PAGE.parent / name).stat().st_size < 100_000
