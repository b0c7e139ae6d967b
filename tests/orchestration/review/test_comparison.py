"""Comparison of two models: the numbers of evaluation, the right breakdown, and nothing lost between the two."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from datasets.protocols.protocols import PROTOCOLS, Mode
from datasets.shards.dataset import Dataset, SplitIndex
from methods.matches import Labels
from orchestration.evaluation.embed import Descriptors
from orchestration.evaluation.modes import rank_modes
from orchestration.review.comparison import ModeComparison, clothes_changes, compare
from tests.orchestration.reviewed_models import people
from tests.tiny import tiny_dataset

Told = tuple[Dataset, dict[str, SplitIndex], dict[str, Descriptors], dict[str, Descriptors]]


@pytest.fixture(scope="module", params=["ltcc", "prcc"])
def told(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Told:
    data = tiny_dataset(tmp_path_factory.mktemp("data") / "data", test_persons=12, splits=request.param)
    dataset = Dataset.open(data)
    protocol = PROTOCOLS[request.param]
    splits = sorted({split for mode in protocol.modes for split in (mode.query, mode.gallery)})
    indexes = dict(zip(splits, dataset.indexes(*splits), strict=True))
    return dataset, indexes, descriptors(indexes, 1.5, 1), descriptors(indexes, 1.0, 2)


def descriptors(indexes: dict[str, SplitIndex], noise: float, seed: int) -> dict[str, Descriptors]:
    return {
        split: Descriptors(np.arange(len(index)), people(index.person, noise, seed + number))
        for number, (split, index) in enumerate(indexes.items())
    }


def compared(told: Told, *, swap: bool = False) -> list[ModeComparison]:
    dataset, indexes, old, new = told
    pair = (new, old) if swap else (old, new)
    return compare(PROTOCOLS[dataset.manifest.protocol], indexes, *pair, dataset.manifest, confidence=0.95)


def test_both_models_have_the_metrics_of_their_evaluations(told: Told) -> None:
    dataset, indexes, *both = told
    protocol = PROTOCOLS[dataset.manifest.protocol]
    for role, model in zip(("champion", "candidate"), both, strict=True):
        expected = rank_modes(protocol, indexes, model, dataset.manifest).metrics
        for one in compared(told):
            for measure, difference in one.differences.items():
                assert getattr(difference, role) == pytest.approx(expected[f"{one.mode.name}/{measure}"], abs=1e-12)


def test_the_other_way_round_is_the_same_with_its_sign_changed(told: Told) -> None:
    for one, other in zip(compared(told), compared(told, swap=True), strict=True):
        assert (one.num_better, one.num_worse) == (other.num_worse, other.num_better)
        for measure, difference in one.differences.items():
            turned = other.differences[measure]
            assert difference.delta == pytest.approx(-turned.delta)
            assert (difference.low, difference.high) == pytest.approx((-turned.high, -turned.low))


def test_groups_share_out_the_queries_and_their_mean_is_the_whole(told: Told) -> None:
    for one in compared(told):
        for groups in (one.cameras, one.clothes):
            assert sum(group.num_queries for group in groups) == one.num_queries
            for measure, whole in one.differences.items():
                parts = sum(group.num_queries * group.differences[measure].candidate for group in groups)
                assert parts / one.num_queries == pytest.approx(whole.candidate)


def test_queries_that_changed_most_come_first_and_bear_their_sign(told: Told) -> None:
    for one in compared(told):
        if one.mode.draws:
            assert not one.better
            continue
        ap = [ranking.per_query_ap for ranking in one.rankings]
        change = ap[1] - ap[0]
        for shown, sign in ((one.better, 1), (one.worse, -1)):
            values = [sign * changed.delta for changed in shown]
            assert values == sorted(values, reverse=True)
            assert all(value > 0 for value in values)
        if one.better:
            assert one.better[0].delta == pytest.approx(np.nanmax(change))
        assert all(len(changed.candidate.gallery) == 5 for changed in one.better)


def test_a_model_against_itself_differs_in_nothing(told: Told) -> None:
    dataset, indexes, old, _ = told
    for one in compare(PROTOCOLS[dataset.manifest.protocol], indexes, old, old, dataset.manifest, confidence=0.95):
        assert (one.num_better, one.num_worse, one.better, one.worse) == (0, 0, [], [])
        assert {(d.low, d.delta, d.high) for d in one.differences.values()} == {(0.0, 0.0, 0.0)}


def test_what_matches_wear_is_told_of_each_query(tmp_path: Path) -> None:
    """Query of person 0 in clothes 0, camera 0; person 1 has unlabelled clothes."""
    query = Labels([0, 0, 0, 0, 1], [0, 0, 0, 1, 0], [0, 1, 9, 0, -1])
    gallery = Labels([0, 0, 0, 0, 0, 1, 1], [1, 1, 1, 1, 0, 1, 0], [0, 0, 1, 2, 3, -1, -1])
    general = clothes_changes(query, gallery, Mode("general", "query", "gallery", "general"))
    assert general == [
        "same clothes and 2 other outfits",
        "same clothes and 2 other outfits",
        "3 or more other outfits",
        "1 other outfit",
        "unknown",
    ]
    changing = clothes_changes(query, gallery, Mode("clothes-changing", "query", "gallery", "clothes-changing"))
    assert changing[:2] == ["2 other outfits", "2 other outfits"]
    same = clothes_changes(query, gallery, Mode("same-clothes", "query", "gallery", "same-clothes"))
    assert same[0] == "same clothes only"
