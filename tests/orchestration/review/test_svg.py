"""Charts as SVG: every point where its numbers say, nothing outside, and no text that is markup."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest

from orchestration.review import svg
from orchestration.review.svg import (
    BAR_WIDTH,
    BOTTOM,
    HEIGHT,
    LEFT,
    MARKS,
    RIGHT,
    SQUARE,
    TOP,
    WIDTH,
    Density,
    Dot,
    Line,
    curves,
    densities,
    density_legend,
    dot_legend,
    interval,
    legend,
    scatter,
)

TICKS = [(0.0, "1"), (1.0, "5"), (2.0, "10")]


def points(path: str) -> list[tuple[float, float]]:
    """The points of a path such as M1 2L3 4."""
    return [(float(x), float(y)) for x, y in (pair.split() for pair in re.split("[ML]", path)[1:])]


def test_points_lie_where_their_numbers_say() -> None:
    line = Line("candidate", "candidate 2", [(0.0, 0.0), (0.5, 0.5), (2.0, 1.0)])
    [path] = [
        one for one in ElementTree.fromstring(curves("t", "x", "y", TICKS, [line])) if "line" in one.get("class", "")
    ]
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    expected = [(LEFT, HEIGHT - BOTTOM), (LEFT + width / 4, TOP + height / 2), (LEFT + width, TOP)]
    for found, wanted in zip(points(path.get("d", "")), expected, strict=True):
        assert found == pytest.approx(wanted, abs=0.06)
    assert path.get("class") == "line candidate"


def test_every_point_has_a_mark_and_those_beyond_the_axis_are_left_out() -> None:
    lines = [
        Line("champion", "a", [(0.0, 0.1), (1.0, 0.2), (3.0, 0.3)]),
        Line("candidate", "b", [(-1.0, 0.1), (1.0, 0.4)]),
    ]
    root = ElementTree.fromstring(curves("t", "rank", "share", TICKS, lines))
    marks = [(one.get("class"), one.get("cx"), one.get("cy")) for one in root.iter("circle")]
    assert [kind for kind, _, _ in marks] == ["mark champion"] * 2 + ["mark candidate"]
    for path, number in zip([p for p in root if "line" in p.get("class", "")], (2, 1), strict=True):
        assert len(points(path.get("d", ""))) == number
    texts = [one.text for one in root.iter("text")]
    assert texts[:5] == ["0", "25", "50", "75", "100"]
    assert texts[5:] == ["1", "5", "10", "rank", "share"]


def test_a_density_has_its_curve_and_its_mean_where_their_numbers_say() -> None:
    one = Density("others", "other persons", [(-1.0, 0.2), (0.0, 0.0), (1.0, 1.0), (2.0, 0.5)], 0.5)
    root = ElementTree.fromstring(densities("t", "distance", "density", TICKS, [one]))
    curve, mean = (path for path in root.iter("path") if "others" in path.get("class", ""))
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    expected = [(LEFT, HEIGHT - BOTTOM), (LEFT + width / 2, TOP), (LEFT + width, TOP + height / 2)]
    for found, wanted in zip(points(curve.get("d", "")), expected, strict=True):
        assert found == pytest.approx(wanted, abs=0.06)
    ends = points(mean.get("d", ""))
    assert [x for x, _ in ends] == pytest.approx([LEFT + width / 4] * 2, abs=0.06)
    assert [y for _, y in ends] == [HEIGHT - BOTTOM, TOP]
    assert [path.get("class") for path in (curve, mean)] == ["density others", "mean others"]


def test_dots_keep_their_shape_and_fill_the_square_in_one_direction() -> None:
    dots = [Dot("p0", 0, -3.0, 0.0), Dot("p1", 1, 1.0, 2.0), Dot("p1", -1, 0.0, -0.5)]
    root = ElementTree.fromstring(scatter("t", dots))
    drawn = [re.match(r"M([\d.]+) ([\d.]+)(m.*)", path.get("d", "")) for path in root.iter("path")]
    x, y = ([float(one[at]) for one in drawn if one] for at in (1, 2))
    assert (min(x), max(x)) == pytest.approx((TOP, WIDTH - TOP), abs=0.06)
    scale = (WIDTH - 2 * TOP) / 4
    assert y[0] - y[1] == pytest.approx(2 * scale, abs=0.1), "one scale, and up is up"
    assert (min(y) + max(y)) / 2 == pytest.approx(SQUARE / 2, abs=0.1)
    assert [one[3] for one in drawn if one] == [MARKS[0], MARKS[1], svg.UNKNOWN_MARK]
    assert [path.get("class") for path in root.iter("path")] == ["dot p0", "dot p1", "dot p1"]


def test_dots_at_one_place_are_drawn_in_the_middle() -> None:
    assert str(scatter("t", [Dot("p0", 0, 1.0, 1.0)] * 2)).count(f'd="M{WIDTH / 2} {SQUARE / 2}m') == 2


def test_marks_begin_again_behind_the_last() -> None:
    assert svg.mark(len(MARKS) + 1, 1, 2) == svg.mark(1, 1, 2) != svg.mark(0, 1, 2)


def test_legends_show_each_kind_with_its_label() -> None:
    drawn = density_legend([Density("others", "other <b>", [], 0.0)]) + dot_legend([("p3", 1, "person 7")])
    first, second = ElementTree.fromstring(f"<all>{drawn}</all>")
    assert [key.find(".//path").get("class") for key in (first, second)] == ["density others", "dot p3"]  # type: ignore[union-attr]
    assert [(key[0].tail or "").strip() for key in (first, second)] == ["other <b>", "person 7"]


def test_text_is_never_markup() -> None:
    hostile = '"><script>alert(1)</script>'
    line = Line("champion", hostile, [(0.0, 0.5)])
    for drawn in (curves(hostile, hostile, hostile, [(0.0, hostile), (1.0, "")], [line]), legend([line])):
        assert "<script" not in drawn
        assert "&lt;script&gt;" in drawn
    root = ElementTree.fromstring(curves(hostile, "x", "y", TICKS, [line]))
    assert root.get("aria-label") == hostile
    assert [one.text for one in root.iter("title")] == [hostile]


@pytest.mark.parametrize(
    ("low", "value", "high", "kind"),
    [(0.01, 0.02, 0.03, "up"), (-0.03, -0.02, -0.01, "down"), (-0.01, 0.01, 0.03, "open"), (0.0, 0.1, 0.2, "open")],
)
def test_an_interval_is_up_down_or_open_by_where_zero_lies(low: float, value: float, high: float, kind: str) -> None:
    root = ElementTree.fromstring(interval(low, value, high, 0.2))
    assert root.get("class") == f"interval {kind}"
    middle, scale = BAR_WIDTH / 2, 0.94 * BAR_WIDTH / 2 / 0.2
    [circle] = root.iter("circle")
    assert float(circle.get("cx", "")) == pytest.approx(middle + value * scale, abs=0.06)
    ends = re.match(r"M([\d.]+) [\d.]+H([\d.]+)", [p.get("d", "") for p in root.iter("path")][1])
    assert ends
    assert [float(end) for end in ends.groups()] == pytest.approx(
        [middle + low * scale, middle + high * scale], abs=0.06
    )


def test_an_interval_beyond_the_scale_ends_at_its_edge_and_a_scale_of_zero_is_no_error() -> None:
    root = ElementTree.fromstring(interval(-5.0, 0.0, 5.0, 0.1))
    path = [p.get("d", "") for p in root.iter("path")][1]
    assert path.startswith(f"M{round(BAR_WIDTH / 2 * 0.06, 1)} ")
    assert interval(0.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize("ends", [(math.nan, 0.1, 0.2), (0.0, math.nan, 0.2), (0.0, 0.1, math.inf)])
def test_an_interval_of_numbers_that_are_none_is_not_drawn(ends: tuple[float, float, float]) -> None:
    assert interval(*ends, 1.0) == ""


def test_the_legend_shows_each_stroke_with_its_label() -> None:
    drawn = legend([Line("champion", "champion 1", []), Line("candidate", "candidate 2", [])])
    root = ElementTree.fromstring(f"<all>{drawn}</all>")
    assert [(key.find(".//path").get("class"), (key[0].tail or "").strip()) for key in root] == [  # type: ignore[union-attr]
        ("line champion", "champion 1"),
        ("line candidate", "candidate 2"),
    ]
    assert legend([]) == ""
