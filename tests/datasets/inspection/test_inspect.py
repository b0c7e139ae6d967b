"""What `data inspect` says of a data set."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.errors import DataError
from datasets.inspection.inspect import inspect
from datasets.shards.dataset import Dataset
from datasets.synthetic.dataset import LICENCE, render_dataset
from datasets.synthetic.presets import PRESETS
from tests.tiny import tiny_dataset


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("inspect"))
    render_dataset(folder, preset=replace(PRESETS["tiny"], train_persons=7), workers=1)
    return folder


def test_counts_sizes_and_clothes_per_person(address: str) -> None:
    facts = inspect(address)
    train = facts["splits"]["train"]
    assert train["images"] == 7 * 2 * 3 * 2
    assert (train["persons"], train["clothes"], train["cameras"], train["sequences"]) == (7, 13, 6, 42)
    assert train["clothes_per_person"] == {"1": 1, "2": 6}
    assert train["masks"] == train["images"]
    assert train["sizes"] == {"32x64": train["images"]}
    assert facts["licence"] == LICENCE
    assert facts["fingerprint"] == Dataset.open(address).fingerprint
    assert facts["sheet"] is None


def test_colour_baselines_come_for_each_mode_of_the_protocol(address: str) -> None:
    trivial = inspect(address)["trivial"]
    assert list(trivial) == ["general", "same-clothes", "clothes-changing"]
    for scores in trivial.values():
        assert set(scores) == {"clothes colour", "skin and hair colour"}
        assert all(0 <= score["rank1"] <= 1 and 0 < score["random"] < 1 for score in scores.values())
    clothes = {mode: scores["clothes colour"]["rank1"] for mode, scores in trivial.items()}
    assert clothes["same-clothes"] > clothes["clothes-changing"] + 0.4


def test_without_masks_there_are_no_colour_baselines(tmp_path: Path) -> None:
    address = tiny_dataset(tmp_path / "plain", parsing=False)
    facts = inspect(address, sheet=tmp_path / "sheet.png")
    assert facts["trivial"] == {}
    assert Image.open(facts["sheet"]).width > 100


def test_the_contact_sheet_shows_a_person_a_row(address: str, tmp_path: Path) -> None:
    path = tmp_path / "pictures" / "sheet.png"
    assert inspect(address, sheet=path)["sheet"] == str(path)
    sheet = np.asarray(Image.open(path))
    assert sheet.shape[0] > 7 * 192  # 64 rows of pixels, three times
    assert sheet.shape[1] > 2 * 3 * 2 * 96  # two outfits, three images, each beside its mask
    assert len(np.unique(sheet.reshape(-1, 3), axis=0)) > 1000


def test_an_unfinished_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no data set at"):
        inspect(str(tmp_path))
