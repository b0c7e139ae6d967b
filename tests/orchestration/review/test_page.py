"""What the review page shows of numbers, curves and cards. The whole page: tests/orchestration/review/test_review.py."""

from __future__ import annotations

import math
import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from orchestration.export.model_card import Provenance, write_card
from orchestration.registry.gate import Check, Gate
from orchestration.review import page
from orchestration.review.comparison import Difference
from orchestration.review.page import Review, cmc, format_interval, format_pp, markdown, percent, precision_recall


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
            one, name="m", model="models:/m/2", is_first=True, gate=Gate(), target="general/mAP", cases={"general": ((), ())},
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


def test_headings_of_a_card_are_below_those_of_the_page() -> None:
    assert markdown("# a\n\n## b\n\n##### c") == "<h3>a</h3>\n<h4>b</h4>\n<h6>c</h6>\n"
    assert "<table>" in markdown("| a |\n|---|\n| b |")
    assert "<img" not in markdown('![x](http://host/x.png) <img src="y">')
