"""Persons in the plane: who is chosen, that neighbours stay neighbours, and what cannot be drawn."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from datasets.protocols.protocols import PROTOCOLS
from datasets.shards.dataset import Dataset, SplitIndex
from orchestration.evaluation import tsne
from orchestration.evaluation.embed import Descriptors
from orchestration.evaluation.tsne import IMAGES, MARKERS, PEOPLE, Plane, choose, draw, marker, outfit_name, plane_of
from tests.tiny import tiny_dataset

LTCC = PROTOCOLS["ltcc"]
Indexes = dict[str, SplitIndex]


@pytest.fixture(scope="module")
def indexes(tmp_path_factory: pytest.TempPathFactory) -> Indexes:
    data = tiny_dataset(tmp_path_factory.mktemp("people") / "data", test_persons=14, images=4)
    return dict(zip(("gallery", "query"), Dataset.open(data).indexes("gallery", "query"), strict=True))


def of_person(indexes: Indexes, noise: float = 0.3) -> dict[str, Descriptors]:
    """Descriptors around a direction of each person's own."""
    generator = torch.Generator().manual_seed(0)
    centre = torch.randn(64, 16, generator=generator)
    return {
        split: Descriptors(
            np.arange(len(index)),
            F.normalize(
                centre[torch.from_numpy(index.person)] + noise * torch.randn(len(index), 16, generator=generator), dim=1
            ),
        )
        for split, index in indexes.items()
    }


def pooled(indexes: Indexes, column: str) -> np.ndarray:
    return np.concatenate([getattr(indexes[split], column) for split in sorted(indexes)])


def plane(indexes: Indexes) -> Plane:
    found = plane_of(LTCC, indexes, of_person(indexes))
    assert isinstance(found, Plane)
    return found


def test_ten_persons_are_chosen_with_all_their_outfits_and_names(indexes: Indexes) -> None:
    chosen = choose(LTCC, indexes)
    person, clothes = pooled(indexes, "person")[chosen.at], pooled(indexes, "clothes")[chosen.at]
    assert len(set(chosen.names)) == PEOPLE
    names = indexes["query"].person_names
    assert [chosen.names[at] for at in chosen.person.tolist()] == [names[at] for at in person.tolist()]
    assert len(set(chosen.at.tolist())) == len(chosen.at)
    for one in range(PEOPLE):
        mine = chosen.person == one
        assert mine.sum() <= IMAGES
        pairs = set(zip(clothes[mine].tolist(), chosen.outfit[mine].tolist(), strict=True))
        worn = set(pooled(indexes, "clothes")[pooled(indexes, "person") == person[mine][0]].tolist())
        assert {outfit for _, outfit in pairs} == set(range(len(worn)))
        assert len(pairs) == len(worn)


def test_persons_with_several_outfits_come_first(indexes: Indexes) -> None:
    """The four who are not chosen among equals keep their outfits, and everybody else is left one."""
    changing = sorted(set(indexes["query"].person_names) - set(choose(LTCC, indexes).names))
    changed: Indexes = {}
    for split, index in indexes.items():
        own = np.isin(index.person, [index.person_names.index(name) for name in changing])
        first = np.array([index.clothes[index.person == person].min() for person in index.person.tolist()])
        changed[split] = replace(index, clothes=np.where(own, index.clothes, first))
    chosen = choose(LTCC, changed)
    assert len(chosen.names) == PEOPLE
    assert {chosen.names[at] for at in chosen.person[chosen.outfit > 0].tolist()} == set(changing)
    assert len(changing) == 4


def test_of_a_person_with_many_images_a_share_of_each_outfit_is_chosen(tmp_path: Path) -> None:
    data = tiny_dataset(tmp_path / "many", test_persons=2, images=40)
    many = dict(zip(("gallery", "query"), Dataset.open(data).indexes("gallery", "query"), strict=True))
    chosen = choose(LTCC, many)
    person, clothes = pooled(many, "person"), pooled(many, "clothes")
    for one in np.unique(person).tolist():
        assert (person[chosen.at] == one).sum() == IMAGES
        for outfit in np.unique(clothes[person == one]).tolist():
            share = (clothes == outfit).sum() / (person == one).sum()
            assert abs((clothes[chosen.at] == outfit).sum() - share * IMAGES) <= 1


def test_without_clothes_labels_outfits_are_unknown(indexes: Indexes) -> None:
    bare = {split: replace(index, clothes=np.full(len(index), -1)) for split, index in indexes.items()}
    chosen = choose(LTCC, bare)
    assert len(chosen.names) == PEOPLE
    assert (chosen.outfit == -1).all()
    assert draw(plane(bare)).startswith(b"\x89PNG")


def test_some_unknown_outfits_and_persons_are_no_outfits_and_no_persons(indexes: Indexes) -> None:
    query = indexes["query"]
    some = {
        "query": replace(query, clothes=np.full(len(query), -1)),
        "gallery": replace(indexes["gallery"], person=np.where(indexes["gallery"].person == 0, -1, indexes["gallery"].person)),
    }  # fmt: skip
    chosen = choose(LTCC, some)
    person = pooled(some, "person")
    assert (person[chosen.at] >= 0).all()
    assert set(np.unique(chosen.outfit).tolist()) == {-1, 0, 1}


def test_the_choice_depends_on_the_labels_alone(indexes: Indexes) -> None:
    first, second = (plane_of(LTCC, indexes, of_person(indexes, noise)) for noise in (0.1, 2.0))
    assert isinstance(first, Plane)
    assert isinstance(second, Plane)
    assert first.choice.at.tolist() == second.choice.at.tolist()
    assert not np.allclose(first.points, second.points)


def test_images_of_one_person_stay_neighbours(indexes: Indexes) -> None:
    found = plane(indexes)
    distance = np.linalg.norm(found.points[:, None] - found.points, axis=2)
    np.fill_diagonal(distance, np.inf)
    is_own = found.choice.person[distance.argmin(1)] == found.choice.person
    assert is_own.mean() > 0.95
    np.testing.assert_allclose(found.points.mean(0), 0, atol=1e-4)


def test_every_image_has_the_descriptor_of_its_row(indexes: Indexes) -> None:
    model = of_person(indexes)
    whole = np.concatenate([model[split].features.numpy() for split in ("gallery", "query")])
    at = np.array([0, 3, len(indexes["gallery"]) - 1, len(indexes["gallery"]), len(whole) - 1])
    np.testing.assert_array_equal(tsne.pooled(model, at), whole[at])


def test_the_same_descriptors_give_the_same_picture(indexes: Indexes) -> None:
    assert draw(plane(indexes)) == draw(plane(indexes))


def persons(indexes: Indexes, number: int, images: int) -> Indexes:
    """The first persons of the queries, some images each, and nobody in the gallery."""
    index = indexes["query"]
    rows = np.concatenate([np.flatnonzero(index.person == person)[:images] for person in range(number)])
    labels = {name: getattr(index, name)[rows] for name in ("person", "clothes", "camera", "sequence")}
    return {"query": replace(index, **labels)}


def test_two_persons_with_two_images_each_are_enough(indexes: Indexes) -> None:
    few = persons(indexes, 2, 2)
    found = plane(few)
    assert found.points.shape == (4, 2)
    assert np.isfinite(found.points).all()
    assert draw(found).startswith(b"\x89PNG")


@pytest.mark.parametrize(("number", "images", "text"), [(1, 2, "there is one"), (3, 1, "there is none")])
def test_fewer_are_told_in_a_sentence(indexes: Indexes, number: int, images: int, text: str) -> None:
    few = persons(indexes, number, images)
    assert plane_of(LTCC, few, of_person(few)) == (f"t-SNE needs two test persons with two images each, and {text}.")


def test_a_model_that_tells_nobody_apart_is_told_in_a_sentence(indexes: Indexes) -> None:
    equal = {
        split: Descriptors(np.arange(len(index)), torch.ones(len(index), 4) / 2) for split, index in indexes.items()
    }
    assert plane_of(LTCC, indexes, equal) == "the model gives all images that t-SNE would show the same descriptor."


def test_scikit_learn_is_imported_only_where_it_draws() -> None:
    """Its import takes a second, and commands that evaluate nothing import this module, too."""
    tree = ast.parse(Path(tsne.__file__).read_text(encoding="utf-8"))
    everywhere = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert "sklearn.manifold" in everywhere
    assert "sklearn.manifold" not in [node.module for node in tree.body if isinstance(node, ast.ImportFrom)]


def test_markers_begin_again_behind_the_last() -> None:
    assert marker(len(MARKERS)) == marker(0) != marker(1)
    assert marker(-1) not in MARKERS
    assert [outfit_name(outfit) for outfit in (-1, 0)] == ["clothes unknown", "the person's outfit 1"]


def test_what_t_sne_cannot_place_costs_the_picture_alone(indexes: Indexes, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(features: np.ndarray) -> np.ndarray:
        raise ValueError("no neighbours")

    monkeypatch.setattr(tsne, "place", fail)
    assert plane_of(LTCC, indexes, of_person(indexes)) == "t-SNE failed: ValueError: no neighbours"
