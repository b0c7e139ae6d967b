"""Distances of pairs, against loops in float64 over every pair of a data set."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from PIL import Image

from datasets.protocols import protocols
from datasets.protocols.protocols import PROTOCOLS
from datasets.shards.dataset import Dataset
from methods.matches import Labels
from orchestration.evaluation import distances
from orchestration.evaluation.distances import (
    BINS,
    EDGES,
    KINDS,
    OTHERS,
    Distances,
    distances_of,
    draw,
    pair_distances,
    same_person,
    shown_range,
)
from orchestration.evaluation.embed import Descriptors
from orchestration.measures import DISTANCES
from tests.tiny import tiny_dataset

SAME, CHANGED, UNKNOWN, OTHER = KINDS


def features(number: int, seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(number, 5, generator=generator, dtype=torch.float64), dim=1).to(dtype)


def labels(number: int, seed: int, lowest: int = -1) -> Labels:
    """Of four persons with two outfits each and three cameras; some unknown, unless `lowest` is 0."""
    random = np.random.default_rng(seed)
    person, camera, worn = (random.integers(lowest, top, number) for top in (4, 3, 2))
    return Labels(person, camera, np.where((person < 0) | (worn < 0), -1, 2 * person + worn))


def by_loops(
    query: torch.Tensor, gallery: torch.Tensor, of_query: Labels, of_gallery: Labels
) -> dict[str, list[float]]:
    """The distances of each kind's pairs, in float64."""
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for q in range(len(query)):
        for g in range(len(gallery)):
            distance = 1 - float(np.dot(query[q].double().numpy(), gallery[g].double().numpy()))
            is_same = of_query.person[q] == of_gallery.person[g] != -1
            if not is_same:
                found[OTHER].append(distance)
            elif of_query.camera[q] == of_gallery.camera[g] != -1:
                continue
            elif -1 in (of_query.clothes[q], of_gallery.clothes[g]):
                found[UNKNOWN].append(distance)
            else:
                found[SAME if of_query.clothes[q] == of_gallery.clothes[g] else CHANGED].append(distance)
    return found


@given(st.integers(1, 12), st.integers(1, 15), st.integers(0, 999))
def test_every_pair_is_counted_once_in_its_kind_and_the_means_are_those_of_loops(q: int, g: int, seed: int) -> None:
    query, gallery, of_query, of_gallery = (
        features(q, seed),
        features(g, seed + 1),
        labels(q, seed),
        labels(g, seed + 1),
    )
    found = pair_distances(query, gallery, of_query, of_gallery)
    for kind, values in enumerate(by_loops(query, gallery, of_query, of_gallery).values()):
        assert found.pairs[kind].sum() == len(values)
        assert found.mean(kind) == pytest.approx(np.mean(values) if values else np.nan, abs=1e-12, nan_ok=True)
        lowest, highest = EDGES[:-1][found.pairs[kind] > 0], EDGES[1:][found.pairs[kind] > 0]
        assert all(np.any((lowest - 1e-9 <= value) & (value <= highest + 1e-9)) for value in values)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_the_size_of_the_tiles_alters_nothing(queries: int, entries: int, seed: int) -> None:
    inputs = features(9, seed), features(13, seed + 1), labels(9, seed), labels(13, seed + 1)
    whole = pair_distances(*inputs)
    parts = pair_distances(*inputs, queries=queries, entries=entries)
    np.testing.assert_array_equal(parts.pairs, whole.pairs)
    np.testing.assert_allclose(parts.total, whole.total, rtol=0, atol=1e-12)


def test_features_in_float32_have_the_means_of_float64() -> None:
    inputs = [features(300, 1, torch.float32), features(500, 2, torch.float32)]
    of_both = labels(300, 1, 0), labels(500, 2, 0)
    found = pair_distances(inputs[0], inputs[1], *of_both)
    exact = pair_distances(inputs[0].double(), inputs[1].double(), *of_both)
    assert found.metrics() == pytest.approx(exact.metrics(), abs=1e-7)


def test_equal_and_opposite_features_fall_into_the_outer_bins() -> None:
    """Their similarity may be rounded beyond ±1."""
    query = features(200, 3, torch.float32)
    nothing = np.full(200, -1)
    found = pair_distances(query, torch.cat([query, -query]), Labels(nothing, nothing, nothing), labels(400, 1))
    assert found.pairs.sum() == 200 * 400
    assert found.pairs[OTHERS, 0] >= 200
    assert found.pairs[OTHERS, -1] >= 200


def test_delta_is_the_mean_over_other_persons_less_that_over_the_same_person() -> None:
    inputs = features(20, 4), features(30, 5), labels(20, 4, 0), labels(30, 5, 0)
    values = by_loops(*inputs)
    found = pair_distances(*inputs)
    same = np.mean([*values[SAME], *values[CHANGED], *values[UNKNOWN]])
    assert found.same_person == pytest.approx(same)
    assert found.delta == pytest.approx(np.mean(values[OTHER]) - same)
    assert found.metrics() == pytest.approx(
        dict(zip(DISTANCES, (np.mean(values[SAME]), np.mean(values[CHANGED]), same, np.mean(values[OTHER]), found.delta),
                 strict=True))
    )  # fmt: skip


def test_without_clothes_labels_pairs_of_the_same_person_are_one_kind() -> None:
    of_query, of_gallery = (
        Labels(x.person, x.camera, np.full(len(x), -1)) for x in (labels(20, 4, 0), labels(30, 5, 0))
    )
    found = pair_distances(features(20, 4), features(30, 5), of_query, of_gallery)
    assert [KINDS[kind] for kind in found.kinds] == [UNKNOWN, OTHER]
    assert list(found.metrics()) == ["distance/same-person", "distance/other-persons", "distance/delta"]


def test_without_pairs_of_other_persons_there_is_no_delta() -> None:
    one = Labels(np.zeros(3), np.arange(3), np.zeros(3))
    found = pair_distances(features(3, 1), features(3, 2), one, one)
    assert list(found.metrics()) == ["distance/same-clothes", "distance/same-person"]
    assert draw(found).startswith(b"\x89PNG")


def test_an_unknown_person_is_another_person_to_everybody_and_an_unknown_camera_removes_nothing() -> None:
    unknown = Labels(*np.array([[-1, 0, 0], [0, -1, -1], [-1, 0, 0]]))
    kind = np.full(9, OTHERS)
    at, found = same_person(unknown, unknown)
    kind[at] = found
    assert [KINDS[one] for one in kind.tolist()] == [OTHER, OTHER, OTHER, OTHER, SAME, SAME, OTHER, SAME, SAME]


@pytest.mark.parametrize("protocol", ["ltcc", "prcc"])
def test_a_protocols_pairs_are_those_of_all_its_queries_each_split_once(protocol: str, tmp_path: Path) -> None:
    dataset = Dataset.open(tiny_dataset(tmp_path / "data", splits=protocol))
    rules = PROTOCOLS[protocol]
    splits = sorted({split for mode in rules.modes for split in (mode.query, mode.gallery)})
    indexes = dict(zip(splits, dataset.indexes(*splits), strict=True))
    model = {
        split: Descriptors(np.arange(len(index)), features(len(index), seed, torch.float32))
        for seed, (split, index) in enumerate(indexes.items())
    }
    expected: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for query in (split for split in splits if split != "gallery"):
        read = [protocols.labels(rules, indexes[split]) for split in (query, "gallery")]
        of_both = [Labels(one.person, one.camera, one.clothes) for one in read]
        for kind, values in by_loops(model[query].features, model["gallery"].features, *of_both).items():
            expected[kind] += values
    found = distances_of(rules, indexes, model)
    assert found.pairs.sum(1).tolist() == [len(values) for values in expected.values()]
    for number in found.kinds:
        assert found.mean(number) == pytest.approx(np.mean(expected[KINDS[number]]), abs=1e-6)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Callable[[Distances], list[Axes]]:
    """Draws distances and gives the axes that the picture was made from."""

    def made(found: Distances) -> list[Axes]:
        kept: list[Axes] = []

        def keep(figure: object) -> bytes:
            kept.extend(figure.axes)  # type: ignore[attr-defined]
            return b""

        monkeypatch.setattr(distances, "to_png", keep)
        draw(found)
        return kept

    return made


def test_the_picture_has_every_kinds_density_its_mean_and_delta(drawn: Callable[[Distances], list[Axes]]) -> None:
    found = pair_distances(features(60, 1), features(80, 2), labels(60, 1), labels(80, 2))
    [axes] = drawn(found)
    assert [np.asarray(line.get_xdata())[0] for line in axes.lines] == pytest.approx(
        [found.mean(kind) for kind in range(4)]
    )
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text().partition(":")[0] for text in legend.get_texts()] == list(KINDS)
    assert any(text.get_text().startswith(f"δ = {found.delta:.3f}") for text in axes.texts)
    areas = [found.density(kind).sum() * (EDGES[1] - EDGES[0]) for kind in range(4)]
    assert areas == pytest.approx([1] * 4)
    low, high = axes.get_xlim()
    assert found.pairs[:, (EDGES[1:] <= low) | (EDGES[:-1] >= high)].sum() == 0


def test_the_shown_range_has_every_pair_of_all_models_and_stays_on_the_axis() -> None:
    narrow, wide = np.zeros((4, BINS), np.int64), np.zeros((4, BINS), np.int64)
    narrow[0, 25], wide[3, BINS - 1] = 1, 2
    several = [Distances(one, np.zeros(4)) for one in (narrow, wide)]
    assert shown_range(several[:1]) == pytest.approx((0.46, 0.56))
    assert shown_range(several) == pytest.approx((0.46, 2.0))


def test_the_same_distances_give_the_same_picture() -> None:
    found = pair_distances(features(20, 1), features(30, 2), labels(20, 1), labels(30, 2))
    first, second = draw(found), draw(found)
    assert first == second
    assert min(Image.open(io.BytesIO(first)).size) > 300
