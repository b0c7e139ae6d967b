"""Ranking: the golden evaluations, and a literal stable sort on random data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from methods import counting, ranking
from methods.matches import RULES, Labels, NoValidQuery
from methods.ranking import describe, describe_tracks, rank, rank_by_rules, rank_distances
from methods.similarity import Gallery
from orchestration.measures import measured
from tests import golden

MODES = {"general": "general", "CC": "clothes-changing", "SC": "same-clothes"}
DOCUMENTED = {"torchreid_market1501", "clip_reid", "sps"}  # what other published evaluators give


def literal(distance: np.ndarray, query: Labels, gallery: Labels, rule: str) -> dict[str, list[float]]:
    """AP, INP and first match per query, straight from the definition: sort, strike out, walk down."""
    found: dict[str, list[float]] = {"ap": [], "inp": [], "first": []}
    for q, row in enumerate(distance):
        position, matches = 0, []
        for g in np.argsort(row, kind="stable"):
            if query.person[q] == gallery.person[g] >= 0:
                same_clothes = query.clothes[q] == gallery.clothes[g] >= 0
                if query.camera[q] == gallery.camera[g] >= 0:
                    continue
                if rule != "general" and same_clothes != (rule == "same-clothes"):
                    continue
                matches.append(position + 1)
            position += 1
        hits = [(k + 1) / at for k, at in enumerate(matches)]
        found["ap"].append(float(np.mean(hits)) if hits else np.nan)
        found["inp"].append(hits[-1] if hits else np.nan)
        found["first"].append(matches[0] if hits else -1)
    return found


def random_labels(rng: np.random.Generator, num: int, persons: int, unknown: bool) -> Labels:
    low = -1 if unknown else 0
    return Labels(rng.integers(low, persons, num), rng.integers(low, 3, num), rng.integers(low, 3, num))


@pytest.mark.parametrize("dtype", golden.DTYPES, ids=str)
@pytest.mark.parametrize(("case", "mode"), golden.parts("evaluation", documented=DOCUMENTED))
def test_golden_evaluation_in_every_mode(case: golden.Case, mode: str, dtype: torch.dtype) -> None:
    inputs, expected, rule = case.inputs(dtype), case.expected[mode], case.choose(MODES, mode)
    query = Labels(inputs["q_pids"], inputs["q_camids"], inputs["q_clothes"])
    gallery = Labels(inputs["g_pids"], inputs["g_camids"], inputs["g_clothes"])
    ranks = tuple(case.params["ranks"])

    def evaluate() -> ranking.Ranking:
        return rank_distances(inputs["distmat"], query, gallery, rule, ranks)

    if isinstance(expected, golden.Raises) or not expected["num_valid_queries"]:
        with pytest.raises(NoValidQuery, match=f"{rule}.*{len(query)} queries"):
            evaluate()
        return
    result = evaluate()
    assert result.num_valid == expected["num_valid_queries"]
    assert np.flatnonzero(np.isnan(result.per_query_ap)).tolist() == expected["skipped_queries"]
    assert np.flatnonzero(result.first_match < 0).tolist() == expected["skipped_queries"]
    tolerance = case.tolerance(dtype)
    assert result.mAP == pytest.approx(expected["mAP"], rel=tolerance["rtol"], abs=tolerance["atol"])
    shares = expected[f"cmc_{'_'.join(map(str, ranks))}"]
    cmc = [None if share is None or np.isnan(share) else share for share in shares]
    assert [result.cmc[k] is None for k in ranks] == [share is None for share in cmc]
    assert [result.cmc[k] or 0 for k in ranks] == pytest.approx([share or 0 for share in cmc], rel=1e-9)


@pytest.mark.parametrize("dtype", golden.DTYPES, ids=str)
@pytest.mark.parametrize("case", golden.cases("test_features", "image_test_feature"))
def test_golden_descriptor_of_an_image_and_its_mirror_image(case: golden.Case, dtype: torch.dtype) -> None:
    inputs = case.inputs(dtype)
    features = describe(lambda images: images.flatten(1) @ inputs["projection"], inputs["images"])
    case.check("features", features)
    num_query = case.params["num_query"]
    case.check("distmat", -features[:num_query] @ features[num_query:].T)


@pytest.mark.parametrize("dtype", golden.DTYPES, ids=str)
@pytest.mark.parametrize("case", golden.cases("test_features", "video_test_feature"))
def test_golden_descriptor_of_a_track(case: golden.Case, dtype: torch.dtype) -> None:
    inputs = case.inputs(dtype)
    case.check("features", describe_tracks(inputs["clip_features"], inputs["vid2clip_index"]))


@settings(max_examples=60)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 12),
    st.integers(1, 40),
    st.sampled_from(RULES),
    st.integers(1, 50),
    st.booleans(),
)
def test_equals_a_stable_sort_with_many_ties(
    seed: int, num_query: int, num_gallery: int, rule: str, block: int, unknown: bool
) -> None:
    """Small integers as features: products are exact, so ties are many and no rounding can hide a mistake."""
    rng = np.random.default_rng(seed)
    query, gallery = random_labels(rng, num_query, 4, unknown), random_labels(rng, num_gallery, 4, unknown)
    x, y = rng.integers(-1, 2, (num_query, 3)), rng.integers(-1, 2, (num_gallery, 3))
    expected = literal(-(x @ y.T), query, gallery, rule)
    for dtype in golden.DTYPES:
        x_, y_ = torch.tensor(x, dtype=dtype), torch.tensor(y, dtype=dtype)
        for evaluate in (
            lambda: rank(x_, y_, query, gallery, rule, block=block),  # noqa: B023
            lambda: rank_distances(-x_ @ y_.T, query, gallery, rule, block=block),  # noqa: B023
        ):
            if max(expected["first"]) < 0:
                with pytest.raises(NoValidQuery):
                    evaluate()
                continue
            result = evaluate()
            np.testing.assert_allclose(result.per_query_ap, expected["ap"], rtol=1e-12)
            assert result.first_match.tolist() == expected["first"]
            assert result.mAP == pytest.approx(np.nanmean(expected["ap"]))
            assert result.mINP == pytest.approx(np.nanmean(expected["inp"]))


def problem(seed: int = 0) -> tuple[Tensor, Tensor, Labels, Labels]:
    rng = np.random.default_rng(seed)
    features = torch.nn.functional.normalize(torch.from_numpy(rng.standard_normal((700, 24))), dim=1)
    features[500:540] = features[210:250]  # the same picture twice: tied wherever it lies
    return features[:200], features[200:], random_labels(rng, 200, 20, False), random_labels(rng, 500, 20, False)


@pytest.mark.parametrize("rule", RULES)
def test_real_features_rank_as_one_product_and_a_stable_sort_do(rule: str) -> None:
    x, y, query, gallery = problem()
    expected = literal((-x @ y.T).numpy(), query, gallery, rule)["ap"]
    for block in (96, 10_000):
        result = rank(x, y, query, gallery, rule, block=block)
        np.testing.assert_allclose(result.per_query_ap, expected, rtol=1e-12)


@pytest.mark.parametrize("dtype", golden.DTYPES, ids=str)
def test_every_way_to_give_the_gallery_gives_the_same(dtype: torch.dtype, tmp_path: Path) -> None:
    x, y, query, gallery = problem()
    x, y = x.to(dtype), y.to(dtype)
    np.save(tmp_path / "gallery.npy", y.numpy())
    ways: list[Gallery] = [
        np.load(tmp_path / "gallery.npy", mmap_mode="r"),
        list(y.split(37)),
        lambda: iter(y.split([3, 490, 0, 7])),
    ]
    expected = rank(x, y, query, gallery, "general", block=64)
    for way in ways:
        result = rank(x, way, query, gallery, "general", block=64)
        np.testing.assert_array_equal(result.per_query_ap, expected.per_query_ap)
        assert measured(result) == measured(expected)


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_do_not_change_the_result(threads: int) -> None:
    x, y, query, gallery = problem()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        result = rank(x, y, query, gallery, "general", block=128)
    finally:
        torch.set_num_threads(before)
    expected = literal((-x @ y.T).numpy(), query, gallery, "general")["ap"]
    np.testing.assert_allclose(result.per_query_ap, expected, rtol=1e-12)


def test_counting_on_a_device_equals_counting_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, query, gallery = problem()
    x, y = (x * 4).round(), (y * 4).round()
    on_host = rank(x, y, query, gallery, "clothes-changing", block=64)
    monkeypatch.setattr(counting, "_count_on_host", lambda *args, pool: counting._count_on_device(*args))
    on_device = rank(x, y, query, gallery, "clothes-changing", block=64)
    np.testing.assert_array_equal(on_host.per_query_ap, on_device.per_query_ap)


def test_a_product_that_depends_on_its_shape_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, query, gallery = problem()
    expected = rank(x, y, query, gallery, "general", block=64)
    similarities = ranking.pair_similarities

    def rounded_otherwise(*args: object) -> np.ndarray:
        found = similarities(*args)  # type: ignore[arg-type]
        return found if args[-1] else np.nextafter(found, 2)  # the last argument: with the tiles of the second pass

    monkeypatch.setattr(ranking, "pair_similarities", rounded_otherwise)
    result = rank(x, y, query, gallery, "general", block=64)
    np.testing.assert_array_equal(result.per_query_ap, expected.per_query_ap)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", golden.DTYPES, ids=str)
def test_a_gpu_ranks_as_its_own_product_and_a_stable_sort_do(dtype: torch.dtype) -> None:
    x, y, query, gallery = problem()
    x, y = x.to("cuda", dtype), y.to("cuda", dtype)
    expected = literal((-x @ y.T).cpu().numpy(), query, gallery, "general")["ap"]
    np.testing.assert_allclose(rank(x, y, query, gallery, "general").per_query_ap, expected, rtol=1e-12)


def test_ranks_beyond_the_gallery_have_no_share() -> None:
    columns = ([0, 1], [0, 0], [0, 1]), ([0, 1, 1], [1, 1, 1], [0, 1, 1])
    labels = Labels(*map(np.array, columns[0])), Labels(*map(np.array, columns[1]))
    result = rank_distances(torch.tensor([[1.0, 0.0, 2.0], [2.0, 0.0, 1.0]]), *labels, "general", ranks=(1, 3, 5))
    assert result.cmc == {1: 0.5, 3: 1.0, 5: None}
    assert (result.mAP, result.mINP) == (0.75, 0.75)


def gallery_that_changes(y: Tensor) -> Callable[[], list[Tensor]]:
    passes = iter(range(100))
    return lambda: [y + next(passes)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rule": "cc"}, "unknown rule 'cc': it is one of general, same-clothes, clothes-changing"),
        ({"query": torch.ones(3, 24)}, r"query must be floating point \[200, D\], one row per label; got .*\[3, 24\]"),
        ({"gallery": torch.ones(500, 8)}, r"gallery features must be \[\*, 24\] as the queries are; got \[500, 8\]"),
        ({"gallery": torch.ones(499, 24)}, "gallery has 499 features but 500 labels"),
        ({"gallery": torch.full((500, 24), torch.nan)}, "gallery features are not finite, first at row 0"),
        ({"gallery": gallery_that_changes(torch.ones(500, 24))}, "other features in the second pass"),
    ],
    ids=["rule", "query", "width", "length", "nan", "changing"],
)
def test_what_cannot_be_ranked_is_refused(change: dict[str, object], message: str) -> None:
    x, y, query, gallery = problem()
    arguments = {"query": x, "gallery": y, "query_labels": query, "gallery_labels": gallery, "rule": "general"}
    with pytest.raises(ValueError, match=message):
        rank(**(arguments | change))  # type: ignore[arg-type]


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), rule=st.sampled_from(RULES))
def test_precision_at_a_recall_is_the_best_there_or_beyond(seed: int, rule: str) -> None:
    """From plain walks down each query's list."""
    rng = np.random.default_rng(seed)
    query, gallery = random_labels(rng, 6, 3, unknown=False), random_labels(rng, 40, 3, unknown=False)
    distance = rng.random((6, 40))
    try:
        result = rank_distances(torch.from_numpy(distance), query, gallery, rule)
    except NoValidQuery:
        return
    curves = []
    for q, row in enumerate(distance):
        position, hits = 0, list[float]()
        for g in np.argsort(row, kind="stable"):
            if query.person[q] == gallery.person[g]:
                same_clothes = query.clothes[q] == gallery.clothes[g]
                if query.camera[q] == gallery.camera[g] or (
                    rule != "general" and same_clothes != (rule == "same-clothes")
                ):
                    continue
                hits.append((len(hits) + 1) / (position + 1))
            position += 1
        if hits:
            recall = (np.arange(len(hits)) + 1) / len(hits)
            curves.append(
                [max(p for p, r in zip(hits, recall, strict=True) if r >= at - 1e-9) for at in ranking.RECALLS]
            )
    np.testing.assert_allclose(result.precision, np.mean(curves, axis=0), atol=1e-12)


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), unknown=st.booleans())
def test_rules_ranked_together_are_those_ranked_apart(seed: int, unknown: bool) -> None:
    rng = np.random.default_rng(seed)
    query, gallery = random_labels(rng, 9, 3, unknown), random_labels(rng, 50, 3, unknown)
    x, y = (torch.from_numpy(rng.integers(-2, 3, (len(labels), 4))).float() for labels in (query, gallery))
    try:
        apart = {rule: rank(x, y, query, gallery, rule) for rule in RULES}
    except NoValidQuery:
        return
    together = rank_by_rules(x, y, query, gallery, RULES)
    for rule, one in apart.items():
        other = together[rule]
        assert (one.cmc, one.mAP, one.mINP, one.num_valid) == (other.cmc, other.mAP, other.mINP, other.num_valid)
        np.testing.assert_array_equal(one.per_query_ap, other.per_query_ap)
        np.testing.assert_array_equal(one.first_match, other.first_match)
        np.testing.assert_array_equal(one.precision, other.precision)
