"""The two colour baselines by hand: colours of a few pixels, and rank-1 by plain loops over the rules."""

from pathlib import Path

import numpy as np

from datasets.images.label_maps import LABEL_MAPS
from datasets.inspection.colour_baselines import clothes_colour, has_skin_labels, rank1, skin_colour, stack
from datasets.shards.dataset import Dataset
from tests.tiny import tiny_dataset

LIP = LABEL_MAPS["lip20"]


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
    assert not has_skin_labels(LABEL_MAPS["six"])


def test_unseen_colours_become_the_mean_of_the_others() -> None:
    assert stack([np.array([1.0, np.nan]), np.array([3.0, 5.0])]).tolist() == [[1, 5], [3, 5]]


def test_rank_1_follows_the_rules(tmp_path: Path) -> None:
    """Against plain loops over the rule's definition."""
    address = tiny_dataset(tmp_path / "tiny", test_persons=5)
    query, gallery = Dataset.open(address).indexes("query", "gallery")
    rng = np.random.default_rng(0)
    query_colours, gallery_colours = rng.random((len(query), 3)), rng.random((len(gallery), 3))
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
                kept.append((float(((query_colours[q] - gallery_colours[g]) ** 2).sum()), g, bool(same)))
            if any(same for _, _, same in kept):
                valid += 1
                right += min(kept)[2]
        score = rank1(query_colours, gallery_colours, query, gallery, rule, "camera")
        assert score is not None
        assert (score.num_valid, score.rank1) == (valid, right / valid)


def test_without_a_camera_rule_every_image_of_a_person_is_a_match(tmp_path: Path) -> None:
    query, gallery = Dataset.open(tiny_dataset(tmp_path / "tiny")).indexes("query", "gallery")
    colours = np.zeros((len(query), 1))
    score = rank1(colours, np.zeros((len(gallery), 1)), query, gallery, "general", None)
    assert score is not None
    assert score.num_valid == len(query)
    shares = [(gallery.person == person).mean() for person in query.person]
    assert abs(score.random - float(np.mean(shares))) < 1e-12
    nobody = np.full(len(gallery), -1)
    others = type(gallery)(**{**vars(gallery), "person": nobody})
    assert rank1(colours, np.zeros((len(gallery), 1)), query, others, "general", None) is None


def test_colours_that_are_not_visible_are_nan() -> None:
    image, parsing = np.full((2, 2, 3), 9, np.uint8), np.zeros((2, 2), np.uint8)
    assert np.isnan(clothes_colour(image, parsing, LIP)).all()
    assert np.isnan(skin_colour(image, parsing, LIP)).all()
