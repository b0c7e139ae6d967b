"""What the review page shows of numbers, curves and cards. The whole page: tests/orchestration/review/test_review.py."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from orchestration.evaluation.distances import EDGES, KINDS, Distances
from orchestration.evaluation.tsne import Choice, Plane
from orchestration.export.model_card import Provenance, write_card
from orchestration.registry.gate import Check, Gate
from orchestration.review import page
from orchestration.review.comparison import Difference
from orchestration.review.page import (
    FeatureSpace,
    Review,
    cmc,
    distance_chart,
    distance_rows,
    distance_ticks,
    format_interval,
    format_pp,
    markdown,
    percent,
    plane_chart,
    plane_legend,
    precision_recall,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0123, "+1.2"),
        (-0.003, "−0.3"),
        (0.0004, "0.0"),
        (-0.0004, "0.0"),
        (0.0, "0.0"),
        (1.0, "+100.0"),
        (math.nan, "–"),
    ],
)
def test_a_difference_is_shown_in_percentage_points(value: float, text: str) -> None:
    assert format_pp(value) == text


def test_an_interval_shows_both_ends_or_that_there_is_none() -> None:
    assert format_interval((-0.01, 0.025)) == "−1.0 to +2.5"
    assert format_interval((math.nan, math.nan)) == "no interval"


def test_a_share_is_shown_in_percent() -> None:
    assert percent(0.1234) == "12.3"
    assert percent(math.nan) == "–"


def difference(low: float, high: float) -> Difference:
    return Difference(champion=0.2, candidate=0.3, low=low, high=high, by_person=(low, high))


def review(*modes: Any, **changes: Any) -> Review:
    champion, candidate = (page.ModelSummary(label, {}) for label in ("champion 1", "candidate 2"))
    facts = dict.fromkeys(Review.__dataclass_fields__, None) | {"champion": champion, "candidate": candidate}
    return Review(**(facts | {"comparisons": modes, "checks": ()} | changes))


def mode(name: str = "general", **differences: Difference) -> Any:
    curve = {1: 0.5, 2: 0.6, 5: 0.7, 10: 0.8, 20: None}
    ranking = SimpleNamespace(cmc=curve, precision=np.linspace(1, 0, 21))
    return SimpleNamespace(mode=SimpleNamespace(name=name), differences=differences, rankings=(ranking, ranking))


def distances(*means: float) -> Distances:
    """A pair of each kind at its distance; NaN for a kind without pairs."""
    pairs = np.zeros((len(KINDS), len(EDGES) - 1), dtype=np.int64)
    for kind, mean in enumerate(means):
        if not math.isnan(mean):
            pairs[kind, int(50 * mean)] = 1
    return Distances(pairs, np.nan_to_num(np.array(means)))


def features(label: str, *means: float, names: Sequence[str] = ("a", "b")) -> FeatureSpace:
    choice = Choice(list(names), np.arange(4), np.array([0, 0, 1, 1]), np.array([0, 1, 0, -1]))
    points = np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0], [3.0, 3.0]])
    return FeatureSpace(label, distances(*(means or (0.1, 0.2, math.nan, 0.9))), Plane(choice, points))


def test_distances_are_a_row_for_each_kind_of_pairs_that_exists_and_one_for_delta() -> None:
    both = [features("champion 1"), features("candidate 2", 0.1, 0.12, math.nan, 1.0)]
    assert distance_rows(review(features=both)) == [
        (KINDS[0], 1, ["0.100", "0.100"]),
        (KINDS[1], 1, ["0.200", "0.120"]),
        (KINDS[3], 1, ["0.900", "1.000"]),
        ("δ", 3, ["0.750", "0.890"]),
    ]


def test_the_distance_charts_of_both_models_have_one_scale() -> None:
    narrow, wide = features("champion 1", 0.4, 0.5, math.nan, 0.6), features("candidate 2", 0.1, 0.2, math.nan, 1.6)
    drawn = [str(distance_chart(review(features=[narrow, wide]), one)) for one in (narrow, wide)]
    ticks = [re.findall(r'class="tick middle">([\d.]+)<', one) for one in drawn]
    assert ticks[0] == ticks[1]
    assert (float(ticks[0][0]), float(ticks[0][-1])) == (0.0, 1.75)
    assert "same person, other clothes: mean 0.500" in drawn[0]
    assert "δ 1.450" in drawn[1]
    assert drawn[1].count('class="density') == drawn[1].count('class="mean') == 3


@pytest.mark.parametrize(("ends", "texts"), [((0.0, 2.0), 9), ((0.31, 0.47), 5), ((0.28, 1.01), 10), ((0.0, 0.02), 2)])
def test_ticks_enclose_the_range_and_are_few(ends: tuple[float, float], texts: int) -> None:
    ticks = distance_ticks(ends)
    assert ticks[0][0] <= ends[0] + 1e-9
    assert ticks[-1][0] >= ends[1] - 1e-9
    assert len(ticks) == texts
    assert all(float(text) == pytest.approx(x) for x, text in ticks)


def test_the_plane_has_a_dot_for_each_image_and_keys_for_persons_and_outfits() -> None:
    one = features("candidate 2")
    assert isinstance(one.plane, Plane)
    drawn = str(plane_chart(one, one.plane))
    assert re.findall(r'class="dot (\w+)"', drawn) == ["p0", "p0", "p1", "p1"]
    assert "4 images of 2 persons, candidate 2" in drawn
    keys = re.findall(r"</svg> ([^<]+)</span>", str(plane_legend(one.plane)))
    assert [html.unescape(key) for key in keys] == [
        "person a", "person b", "clothes unknown", "the person's outfit 1", "the person's outfit 2",
    ]  # fmt: skip


def test_all_intervals_have_one_scale_the_widest_finite_end() -> None:
    found = review(
        mode(mAP=difference(-0.01, 0.3)), mode("other", mAP=difference(-0.4, 0.1), top=difference(math.nan, math.inf))
    )
    assert found.widest == 0.4
    assert review(mode(mAP=difference(math.nan, math.nan))).widest == 1.0


def test_the_target_names_mode_and_measure() -> None:
    wanted = difference(0.1, 0.2)
    modes = (mode(mAP=difference(0, 0)), mode("clothes-changing", mAP=wanted))
    assert review(*modes, target="clothes-changing/mAP").target_difference is wanted


def test_a_review_passes_if_every_check_does() -> None:
    passed, failed = Check("a", True, ""), Check("b", False, "")
    assert review(checks=[passed, passed]).passes
    assert not review(checks=[passed, failed]).passes


def test_the_cmc_curve_is_over_the_logarithm_of_the_ranks_that_the_gallery_has() -> None:
    drawn = str(cmc(review(), mode()))
    assert "champion 1: 50.0 % at rank 1, 80.0 % at rank 10; candidate 2: 50.0 % at rank 1" in drawn
    assert ">20<" not in drawn
    [path] = re.findall(r'class="line champion" d="M([^"]+)"', drawn)
    x = [float(point.split()[0]) for point in path.split("L")]
    expected = [(math.log(k) / math.log(10)) * (x[-1] - x[0]) + x[0] for k in (1, 2, 5, 10)]
    assert x == pytest.approx(expected, abs=0.11)


def test_a_gallery_of_one_entry_has_a_curve_of_one_point() -> None:
    one = mode()
    for ranking in one.rankings:
        ranking.cmc = {1: 1.0, 2: None}
    drawn = str(cmc(review(), one))
    assert drawn.count("<circle") == 2
    assert "nan" not in drawn


def test_the_precision_curve_says_half_and_all_of_the_matches() -> None:
    drawn = str(precision_recall(review(), mode()))
    assert "champion 1: precision 50.0 % at half of the matches, 0.0 % at all" in drawn
    assert drawn.count("<circle") == 2 * 21


def test_what_a_data_set_says_of_itself_stays_one_escaped_line() -> None:
    hostile = "mine\n\n# A heading\r\n<h2 onclick='x()'>Passes</h2> & [a](javascript:x)"
    shown = "mine # A heading &lt;h2 onclick=&#39;x()&#39;&gt;Passes&lt;/h2&gt; &amp; [a](javascript:x)"
    manifest = SimpleNamespace(
        name=hostile, version=hostile, licence=hostile, protocol="ltcc", splits={hostile: SimpleNamespace(rows=1)}
    )
    one = mode(mAP=difference(0.1, 0.2))
    one.__dict__.update(num_queries=1, num_better=0, num_worse=0, cameras=(), clothes=())
    one.mode.draws = 0
    provenance = Provenance(run_id="1", data_name=hostile, licence=hostile, metrics={"general/mAP": 0.4})
    text = page.write_page(
        review(
            one, name="m", model="models:/m/2", is_first=True, features=[features("candidate 2", names=[hostile, "b"])],
            gate=Gate(), target="general/mAP", cases={"general": ((), ())},
            explanations="none", manifest=manifest, data=hostile, fingerprints={}, changes={}, resamples=100, who="ann",
            when="2026-01-01T00:00", card=write_card("m", provenance, size=(64, 32), dimensions=5, inputs=("images",)),
        )
    )  # fmt: skip
    body, _, card = text.partition('<section id="card"')
    assert f"<dd>{shown} {shown}, protocol ltcc</dd>" in body
    assert f"<dd>{shown}</dd>" in body
    assert f"<code>{shown}</code>" in body
    assert f"<dd>{shown} 1</dd>" in body
    for wrong in ("<h2 onclick", "<h3>A heading", 'href="javascript'):
        assert wrong not in text
    assert "# A heading" in card
    assert f"person {shown}" in " ".join(body.split())


def test_headings_of_a_card_are_below_those_of_the_page() -> None:
    assert markdown("# a\n\n## b\n\n##### c") == "<h3>a</h3>\n<h4>b</h4>\n<h6>c</h6>\n"
    assert "<table>" in markdown("| a |\n|---|\n| b |")
    assert "<img" not in markdown('![x](http://host/x.png) <img src="y">')
