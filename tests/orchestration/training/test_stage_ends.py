"""The seam between stages: the line that is said, the picture that is logged, and that training does not depend on them."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from methods.separation import Separation, separation
from orchestration.review.stages import render_stages
from orchestration.tracking import kept_stages
from orchestration.tracking.forwarder import FILES
from orchestration.tracking.segments import Record
from orchestration.tracking.tracked_run import TrackedRun
from orchestration.training import stage_ends

NOBODY = "http://127.0.0.1:9"  # nothing is delivered here


def found() -> dict[str, Separation]:
    random = torch.Generator().manual_seed(1)
    vectors, labels = torch.randn(5, 3, generator=random), torch.arange(5).repeat(20)
    noisy = vectors[labels] + torch.randn(100, 3, generator=random)
    pair = {name: separation(name, noisy, labels, vectors, cosine=name == "near") for name in ("near", "far")}
    return {name: one for name, one in pair.items() if one is not None}


def records() -> list[Record]:
    plain = {"step": 3, "epoch": 1, "stage": "prompts", "metrics": {"loss/model": 1.0}}
    return [plain, plain | {"step": 4, "metrics": {"auc/near": 0.93456, "auc/far": 0.5, "loss/model": 1.0}}]


def test_what_a_stage_told_apart_is_kept_as_it_is(tmp_path: Path) -> None:
    run = TrackedRun("0" * 32, str(tmp_path), NOBODY)
    assert kept_stages.stages(run.store) == []
    assert kept_stages.read(run.store, "prompts") == {}
    wanted = found()
    kept_stages.keep(run.store, "prompts", wanted)
    kept_stages.keep(run.store, "prompts", wanted)
    assert kept_stages.stages(run.store) == ["prompts"]
    again = kept_stages.read(run.store, "prompts")
    assert again.keys() == wanted.keys()
    for name, one in again.items():
        assert (one.title, one.auc, one.bound) == (wanted[name].title, wanted[name].auc, wanted[name].bound)
        assert torch.equal(one.own, wanted[name].own)
        assert torch.equal(one.other, wanted[name].other)


@pytest.mark.parametrize("stage", ["prompts", "prompts, parts"])
def test_the_end_of_a_stage_is_said_once_and_its_picture_logged(tmp_path: Path, stage: str) -> None:
    run = TrackedRun("0" * 32, str(tmp_path), NOBODY)
    kept_stages.keep(run.store, "prompts", found())
    said: list[str] = []
    stage_ends.report(run, [record | {"stage": stage} for record in records()], said.append)
    assert said == [f"stage {stage!r} ended after epoch 2; AUC of own against others: near 0.935, far 0.500"]
    drawn = np.asarray(Image.open(io.BytesIO(run.store.read(f"{FILES}/pictures/stage-prompts.png"))).convert("RGB"))
    assert (drawn != 255).any(2).mean() > 0.05
    assert run.delivery.pending == 0
    run.delivery.read()
    assert run.delivery.pending == 1  # the picture
    resumed = TrackedRun("0" * 32, str(tmp_path), NOBODY)
    stage_ends.report(resumed, [record | {"stage": stage} for record in records()], said.append)
    assert len(said) == 1, "a run that is resumed reads its journal from the beginning"
    resumed.delivery.read()
    assert resumed.delivery.pending == 1


def test_a_damaged_file_costs_the_picture_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = TrackedRun("0" * 32, str(tmp_path), NOBODY)
    run.store.write("stages/prompts.json", b"{")
    said: list[str] = []
    with caplog.at_level(logging.WARNING):
        stage_ends.report(run, records(), said.append)
        assert render_stages({"candidate 2": run.storage}) == {}
    assert len(said) == 1
    assert "no picture of stage 'prompts': JSONDecodeError" in caplog.text
    assert "no picture of the stages of candidate 2" in caplog.text


def test_the_review_page_has_the_pictures_of_models_whose_stages_told_something(tmp_path: Path) -> None:
    runs = {label: str(tmp_path / label) for label in ("champion 1", "candidate 2")}
    kept_stages.keep(TrackedRun("0" * 32, runs["candidate 2"], NOBODY).store, "prompts", found())
    [(label, [picture])] = render_stages(runs).items()
    assert label == "candidate 2"
    assert picture.source.startswith("data:image/png;base64,iVBOR")
    assert picture.alt.startswith("Histograms at the end of stage prompts: near, AUC 0.")
