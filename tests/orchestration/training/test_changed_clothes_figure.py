"""The picture of changed clothes: who is in it, what it shows, and that training does not depend on it."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.shards.dataset import Dataset
from orchestration.config.load import Experiment, load
from orchestration.training import changed_clothes_figure
from orchestration.training.changed_clothes_figure import PICTURE, chosen, draw_changed_clothes, first_batch
from tests.tiny import tiny_dataset


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_dataset(tmp_path_factory.mktemp("data") / "tiny", persons=8, size=(40, 24))


def experiment(data: str, *words: str) -> Experiment:
    size = ["augment.height=40", "augment.width=24", "batch={people: 4, images: 4, lanes: 4}"]
    return load("pixel-sampling-demo", [f"data={data}", *size, *words])


def test_one_person_in_two_outfits_and_three_others_are_shown() -> None:
    person = np.array([7, 7, 7, 7, 3, 3, 3, 3, 5, 5, 5, 5, 1, 1, 1, 1])
    clothes = np.array([0, 0, 0, 0, 2, 4, 4, 2, 6, 6, 6, 6, 8, 8, 8, 8])
    assert chosen(person, clothes) == [4, 7, 5, 0, 8, 12]  # as (a) and (b) of Fig. 1, then (c), then (d) to (f)


@pytest.mark.parametrize(
    ("person", "clothes", "expected"),
    [
        ([1, 1, 2, 2], [-1, -1, -1, -1], [0, 1, 2]),  # no labels of clothes
        ([1, 1, 2, 2], [0, 1, 2, 2], [0, 1, 2]),  # no outfit twice
        ([1, 2, 3, 4], [0, 1, 2, 3], [0, 1, 2, 3]),  # nobody twice
        ([1], [0], [0]),
    ],
)
def test_a_smaller_batch_shows_what_it_has(person: list[int], clothes: list[int], expected: list[int]) -> None:
    assert chosen(np.array(person), np.array(clothes)) == expected


def test_it_shows_the_first_batch_as_it_is_trained_on(data: str) -> None:
    wanted = experiment(data)
    host, images, parts, changed = first_batch(wanted, Dataset.open(data))
    assert images.dtype == changed.dtype == torch.uint8
    assert len(images) == len(host.person) == 16
    differs = (images != changed).any(1)
    assert set(parts[differs].unique().tolist()) == {2, 3}
    png = draw_changed_clothes(wanted, Dataset.open(data))[PICTURE]
    assert min(Image.open(io.BytesIO(png)).size) > 200


def test_where_clothes_are_as_they_are_there_is_no_picture(data: str) -> None:
    plain = experiment(data, "augment.clothes_sampling=null", "method.consistency_weight=0")
    assert draw_changed_clothes(plain, Dataset.open(data)) == {}


def test_a_picture_that_cannot_be_drawn_is_told_and_stops_nothing(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> bytes:
        raise RuntimeError("no ink")

    monkeypatch.setattr(changed_clothes_figure, "grid", broken)
    with caplog.at_level(logging.WARNING):
        assert draw_changed_clothes(experiment(data), Dataset.open(data)) == {}
    assert "no picture of changed clothes: RuntimeError: no ink" in caplog.text
