"""`redress clip train-tiny`: its line, and what is shown of its answer."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch

from datasets.synthetic.dataset import render_dataset
from orchestration.cli.commands.clip import CLIP, show_tiny
from orchestration.clip import tiny
from orchestration.errors import RequestError
from tests.orchestration.printed_table import cells
from tests.tiny import tiny_dataset


def test_it_writes_the_weights_and_tells_the_recall(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tiny, "WORD_STEPS", 2)
    monkeypatch.setattr(tiny, "PAIR_STEPS", 2)
    render_dataset(str(tmp_path / "people"), preset="tiny", seed=3, workers=1)
    _, command, args = CLIP.find(["train-tiny", str(tmp_path / "people"), str(tmp_path / "tiny.safetensors")])
    answer = command.call(command.parse(args))
    assert len(safetensors.torch.load_file(tmp_path / "tiny.safetensors")) > 20
    assert answer["bytes"] == (tmp_path / "tiny.safetensors").stat().st_size < 3e6
    capsys.readouterr()
    show_tiny(answer)
    shown = cells(capsys.readouterr().out)
    assert any("sentence about the person" in row and "shielded images" in row for row in shown)


def test_data_without_captions_are_refused_before_any_work(tmp_path: Path) -> None:
    data = tiny_dataset(tmp_path / "drawn", persons=3)
    _, command, args = CLIP.find(["train-tiny", data, str(tmp_path / "tiny.safetensors")])
    with pytest.raises(RequestError, match="has no captions"):
        command.call(command.parse(args))
