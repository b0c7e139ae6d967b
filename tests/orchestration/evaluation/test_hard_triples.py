"""Hard triples: whom they are made of, against what loops over all images find."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from datasets.images.decode import decode_image, decode_parsing
from datasets.images.label_maps import LABEL_MAPS
from datasets.inspection.colour_baselines import clothes_colour
from datasets.protocols import protocols
from datasets.protocols.protocols import PROTOCOLS, Labels
from datasets.shards.dataset import Dataset
from orchestration.evaluation import hard_triples
from orchestration.evaluation.hard_triples import SHOWN, ModeEntries, choose, middle_of_each, spread
from tests.tiny import tiny_dataset

PERSONS = 8


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return Dataset.open(tiny_dataset(tmp_path_factory.mktemp("masked") / "data", test_persons=PERSONS, clothes=3))


@pytest.fixture(scope="module")
def unmasked(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    place = tmp_path_factory.mktemp("unmasked") / "data"
    return Dataset.open(tiny_dataset(place, test_persons=PERSONS, clothes=3, parsing=False))


def entries_of(dataset: Dataset, seed: int = 0) -> tuple[ModeEntries, ModeEntries]:
    """Queries and gallery with features drawn at random."""
    random = torch.Generator().manual_seed(seed)
    made = []
    for index in dataset.indexes("query", "gallery"):
        features = torch.nn.functional.normalize(torch.randn(len(index), 16, generator=random), dim=1)
        made.append(ModeEntries(index, np.arange(len(index)), protocols.labels(PROTOCOLS["ltcc"], index), features))
    return made[0], made[1]


def colours(dataset: Dataset, split: str) -> np.ndarray:
    """One row after the other: float64 [N, 6]."""
    labels = LABEL_MAPS["lip20"]
    return np.stack(
        [
            clothes_colour(decode_image(s.image).permute(1, 2, 0).numpy(), decode_parsing(s.parsing).numpy(), labels)
            for s in dataset.samples(split)
            if s.parsing
        ]
    )


def test_a_triple_is_a_person_twice_in_other_clothes_and_somebody_else(masked: Dataset, unmasked: Dataset) -> None:
    for dataset in (masked, unmasked):
        query, gallery = entries_of(dataset)
        chosen = choose(dataset, query, gallery)
        assert chosen.changed
        assert len(chosen.triples) == SHOWN
        assert len({query.labels.person[t.anchor] for t in chosen.triples}) == SHOWN
        for t in chosen.triples:
            person, clothes, camera = (getattr(query.labels, n)[t.anchor] for n in ("person", "clothes", "camera"))
            assert gallery.labels.person[t.positive] == person
            assert gallery.labels.clothes[t.positive] != clothes
            assert gallery.labels.camera[t.positive] != camera
            assert gallery.labels.person[t.negative] != person


def test_with_masks_triples_depend_on_the_data_alone(masked: Dataset) -> None:
    first, second = (choose(masked, *entries_of(masked, seed)) for seed in (0, 1))
    assert first.by_clothes
    assert first == second


def test_with_masks_the_negative_is_dressed_most_like_the_query_and_the_positive_least(masked: Dataset) -> None:
    """Clothes of one outfit look nearly the same in all its images here, so outfits may stand for images."""
    query, gallery = entries_of(masked)
    asked, shown = colours(masked, "query"), colours(masked, "gallery")
    nearest = []
    for t in choose(masked, query, gallery).triples:
        distance = np.sqrt(((shown - asked[t.anchor]) ** 2).mean(1))
        same = gallery.labels.person == query.labels.person[t.anchor]
        other_clothes = gallery.labels.clothes != query.labels.clothes[t.anchor]
        slack = 3.0  # of 255: noise of one outfit's images
        assert distance[t.negative] <= distance[~same].min() + slack
        assert distance[t.positive] >= distance[same & other_clothes].max() - slack
        nearest.append(distance[t.negative])
    assert all(a <= b for a, b in pairwise(nearest)), "the most alike come first"


def test_without_masks_the_models_farthest_match_and_nearest_other_are_taken(unmasked: Dataset) -> None:
    query, gallery = entries_of(unmasked)
    chosen = choose(unmasked, query, gallery)
    assert not chosen.by_clothes
    margins = []
    for t in chosen.triples:
        similarity = (gallery.features @ query.features[t.anchor]).numpy()
        same = gallery.labels.person == query.labels.person[t.anchor]
        other_camera = gallery.labels.camera != query.labels.camera[t.anchor]
        other_clothes = gallery.labels.clothes != query.labels.clothes[t.anchor]
        assert similarity[t.positive] == pytest.approx(similarity[same & other_camera & other_clothes].min())
        assert similarity[t.negative] == pytest.approx(similarity[~same].max())
        margins.append(similarity[t.positive] - similarity[t.negative])
    assert all(a <= b for a, b in pairwise(margins)), "from the worst to the best"


def unlabelled(part: ModeEntries) -> ModeEntries:
    nothing = np.full(len(part.rows), -1)
    return replace(part, labels=Labels(part.labels.person, part.labels.camera, nothing))


def test_without_clothes_labels_the_positive_is_from_another_camera(masked: Dataset) -> None:
    query, gallery = (unlabelled(part) for part in entries_of(masked))
    chosen = choose(masked, query, gallery)
    assert not chosen.changed
    for t in chosen.triples:
        assert gallery.labels.person[t.positive] == query.labels.person[t.anchor]
        assert gallery.labels.camera[t.positive] != query.labels.camera[t.anchor]


def test_where_there_is_nobody_else_there_is_no_triple(tmp_path: Path) -> None:
    dataset = Dataset.open(tiny_dataset(tmp_path / "data", test_persons=1))
    assert choose(dataset, *entries_of(dataset)).triples == []


def test_a_garment_out_of_sight_does_not_count() -> None:
    seen, nothing = np.array([[10.0, 10, 10, 0, 0, 0]]), np.full((1, 6), np.nan)
    half = np.array([0.0, 0, 0, np.nan, np.nan, np.nan])
    assert hard_triples.apart(half, seen) == 10
    assert np.isnan(hard_triples.apart(half, nothing)).all()


@given(st.lists(st.integers(-1, 5), min_size=1, max_size=40))
def test_the_middle_one_of_each_class_is_one_of_its_entries(classes: list[int]) -> None:
    found = middle_of_each(np.array(classes))
    assert [classes[at] for at in found] == sorted(set(classes))
    for at in found:
        before, after = classes[:at].count(classes[at]), classes[at + 1 :].count(classes[at])
        assert 0 <= before - after <= 1


@given(st.integers(0, 60), st.integers(2, 20))
def test_spread_takes_both_ends_and_keeps_distances_even(length: int, number: int) -> None:
    found = spread(np.arange(length), number)
    assert len(found) == min(length, number)
    if length > 1:
        assert (found[0], found[-1]) == (0, length - 1)
        steps = np.diff(found)
        assert steps.min() >= 1
        assert steps.max() - steps.min() <= 1
