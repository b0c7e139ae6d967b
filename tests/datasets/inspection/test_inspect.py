"""What `data inspect` says of a data set, and the two trivial scores by hand."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.errors import DataError
from datasets.images.label_maps import LABEL_MAPS
from datasets.inspection.colour_baselines import clothes_colour, rank1, skin_colour, stack, tells_skin
from datasets.inspection.contact_sheet import label_colours, overlay
from datasets.inspection.inspect import inspect
from datasets.shards.dataset import Dataset
from datasets.synthetic.dataset import LICENCE, render_dataset
from datasets.synthetic.presets import PRESETS
from tests.tiny import tiny_dataset

LIP = LABEL_MAPS["lip20"]


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


def test_trivial_scores_come_for_each_mode_of_the_protocol(address: str) -> None:
    trivial = inspect(address)["trivial"]
    assert list(trivial) == ["general", "same-clothes", "clothes-changing"]
    for scores in trivial.values():
        assert set(scores) == {"clothes colour", "skin and hair colour"}
        assert all(0 <= score["rank1"] <= 1 and 0 < score["random"] < 1 for score in scores.values())
    clothes = {mode: scores["clothes colour"]["rank1"] for mode, scores in trivial.items()}
    assert clothes["same-clothes"] > clothes["clothes-changing"] + 0.4


def test_without_masks_there_are_no_trivial_scores(tmp_path: Path) -> None:
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


def test_clothes_colour_is_the_mean_of_top_and_bottom() -> None:
    image, parsing = np.zeros((4, 2, 3), np.uint8), np.zeros((4, 2), np.uint8)
    image[0], image[1], image[2] = (10, 20, 30), (30, 40, 50), (7, 8, 9)
    parsing[:2], parsing[2] = 5, 9
    assert clothes_colour(image, parsing, LIP).tolist() == [20, 30, 40, 7, 8, 9]
    parsing[parsing > 0] = 6  # a dress: its upper and its lower half
    assert clothes_colour(image, parsing, LIP).tolist() == [20, 30, 40, 7, 8, 9]


def test_skin_colour_is_the_mean_of_skin_and_hair() -> None:
    image, parsing = np.full((2, 2, 3), 9, np.uint8), np.array([[2, 13], [14, 0]], np.uint8)
    image[0, 0], image[0, 1], image[1, 0] = 1, 100, 50
    assert skin_colour(image, parsing, LIP).tolist() == [75, 75, 75, 1, 1, 1]
    assert not tells_skin(LABEL_MAPS["six"])


def test_unseen_colours_become_the_mean_of_the_others() -> None:
    assert stack([np.array([1.0, np.nan]), np.array([3.0, 5.0])]).tolist() == [[1, 5], [3, 5]]


def test_rank_1_follows_the_rules(address: str) -> None:
    """Against plain loops over the rule's definition."""
    query, gallery = Dataset.open(address).indexes("query", "gallery")
    rng = np.random.default_rng(0)
    asked, shown = rng.random((len(query), 3)), rng.random((len(gallery), 3))
    for rule in ("general", "same-clothes", "clothes-changing"):
        right, valid = 0, 0
        for q in range(len(query)):
            kept = []
            for g in range(len(gallery)):
                same = query.person[q] == gallery.person[g]
                if same and query.camera[q] == gallery.camera[g]:
                    continue
                alike = query.clothes[q] == gallery.clothes[g]
                if same and ((rule == "same-clothes" and not alike) or (rule == "clothes-changing" and alike)):
                    continue
                kept.append((float(((asked[q] - shown[g]) ** 2).sum()), g, bool(same)))
            if any(same for _, _, same in kept):
                valid += 1
                right += min(kept)[2]
        score = rank1(asked, shown, query, gallery, rule, "camera")
        assert score is not None
        assert (score.num_valid, score.rank1) == (valid, right / valid)


def test_every_label_has_a_colour_of_its_own() -> None:
    assert len(np.unique(label_colours(), axis=0)) == 256
    image, parsing = np.full((1, 2, 3), 100, np.uint8), np.array([[0, 5]], np.uint8)
    assert overlay(image, parsing)[0, 0].tolist() == [50, 50, 50]
    assert overlay(image, parsing)[0, 1].tolist() != [50, 50, 50]
