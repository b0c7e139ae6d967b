"""The review page: one self-contained HTML file that shows whether a candidate is better than the champion, and where."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup

from datasets.format.manifest import Manifest
from methods.ranking import RECALLS
from orchestration.evaluation.distances import EDGES, KINDS, Distances, shown_range
from orchestration.evaluation.tsne import Plane, outfit_name
from orchestration.measures import compared
from orchestration.registry.gate import Check, Gate
from orchestration.review import svg
from orchestration.review.comparison import Difference, ModeComparison
from orchestration.review.svg import Density, Dot, Line
from orchestration.review.thumbnails import Case, ExplainedQuery, Picture

TEMPLATE = Path(__file__).with_name("page.html")
# MLflow shows a page in a sandbox, in which Chromium does not follow links within the page. Elsewhere links work by themselves.
SCRIPT = """
if (location.protocol === "blob:") document.addEventListener("click", event => {
  const link = event.target.closest('a[href^="#"]');
  const part = link && document.getElementById(link.getAttribute("href").slice(1));
  if (!part) return;
  event.preventDefault();
  part.scrollIntoView();
  part.focus({preventScroll: true});
});
"""
DENSITY_KINDS = ("same-clothes", "other-clothes", "unknown-clothes", "others")  # classes of the style sheet, as KINDS
RECALL_TICKS = [(0.0, "0"), (0.25, "25"), (0.5, "50"), (0.75, "75"), (1.0, "100")]


@dataclass(frozen=True)
class ModelSummary:
    """A version under review, or the baseline where there is no champion.

    label: its name in sentences. facts: rows of the table of origins.
    """

    label: str
    facts: Mapping[str, str]


@dataclass(frozen=True)
class FeatureSpace:
    """A model's test descriptors. plane: some persons' images in the plane, or a sentence on why they cannot be drawn."""

    label: str
    distances: Distances
    plane: Plane | str


@dataclass(frozen=True)
class Review:
    """The content of the page.

    features: of the champion, where there is one, and of the candidate. stages: by model, what the stages of its training
    came to tell apart. cases: queries ranked better and worse, by mode. explanations: Grad-CAM of both models, or a sentence
    on why there is none. changes: setting → (champion's, candidate's). card: Markdown.
    """

    name: str
    model: str
    champion: ModelSummary
    candidate: ModelSummary
    is_first: bool
    gate: Gate
    target: str
    checks: Sequence[Check]
    comparisons: Sequence[ModeComparison]
    cases: Mapping[str, tuple[Sequence[Case], Sequence[Case]]]
    features: Sequence[FeatureSpace]
    explanations: Sequence[ExplainedQuery] | str
    stages: Mapping[str, Sequence[Picture]]
    manifest: Manifest
    data: str
    fingerprints: Mapping[str, str]
    changes: Mapping[str, tuple[str, str]]
    card: str
    resamples: int
    who: str
    when: str

    @property
    def passes(self) -> bool:
        return all(check.passed for check in self.checks)

    @cached_property
    def widest(self) -> float:
        """The largest absolute end of any interval: the common scale of their drawings."""
        ends = [end for mode in self.comparisons for one in mode.differences.values() for end in (one.low, one.high)]
        return max((abs(end) for end in ends if math.isfinite(end)), default=1.0)

    @property
    def target_difference(self) -> Difference:
        mode, _, measure = self.target.rpartition("/")
        return next(one.differences[measure] for one in self.comparisons if one.mode.name == mode)


def write_page(review: Review) -> str:
    """The HTML. Text from data, names and people is escaped, nothing is fetched, and no script but SCRIPT may run."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {"percent": percent, "pp": format_pp, "markdown": markdown, "interval_text": format_interval}
    environment.filters["one_line"] = one_line
    environment.globals |= {"cmc": cmc, "precision_recall": precision_recall, "interval": interval, "legend": legend}
    environment.globals |= {
        "distance_rows": distance_rows,
        "distance_chart": distance_chart,
        "plane_chart": plane_chart,
    }
    environment.globals |= {"distance_legend": distance_legend, "plane_legend": plane_legend}
    environment.globals["measures"] = compared()
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(review=review, script=Markup(SCRIPT), script_digest=f"sha256-{digest}")


def one_line(text: object) -> str:
    return " ".join(str(text).split())


def percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.1f}"


def format_pp(value: float) -> str:
    """A fraction in percentage points, such as +1.2 or −0.3; what rounds to zero has no sign."""
    shown = f"{100 * value:+.1f}"
    return "–" if math.isnan(value) else "0.0" if shown in ("+0.0", "-0.0") else shown.replace("-", "−")


def format_interval(interval: tuple[float, float]) -> str:
    low, high = interval
    return "no interval" if math.isnan(low) else f"{format_pp(low)} to {format_pp(high)}"


def interval(difference: Difference, widest: float) -> Markup:
    return svg.interval(difference.low, difference.delta, difference.high, widest)


def lines(review: Review, of_both: Sequence[Sequence[tuple[float, float]]]) -> list[Line]:
    """of_both: the points of the champion's line and of the candidate's."""
    labels = {"champion": review.champion.label, "candidate": review.candidate.label}
    return [Line(kind, label, some) for (kind, label), some in zip(labels.items(), of_both, strict=True)]


def legend(review: Review) -> Markup:
    return svg.legend(lines(review, [(), ()]))


def cmc(review: Review, mode: ModeComparison) -> Markup:
    """Share of queries whose first match is within rank k."""
    of_both = [[(k, share) for k, share in one.cmc.items() if share is not None] for one in mode.rankings]
    ranks = [k for k, _ in of_both[0]]
    positions = {k: math.log(k) for k in ranks}
    ticks = [(positions[k], str(k)) for k in ranks if k in (1, 2, 5, 10, 20, 50)] or [(0.0, "1")]
    if len(ticks) < 2:
        ticks = [*ticks, (ticks[0][0] + 1, "")]
    summary = "; ".join(
        f"{label}: {percent(curve[0][1])} % at rank 1, {percent(curve[-1][1])} % at rank {curve[-1][0]}"
        for label, curve in zip((review.champion.label, review.candidate.label), of_both, strict=True)
    )
    placed = [[(positions[k], share) for k, share in curve] for curve in of_both]
    title = f"Cumulative match characteristic, {mode.mode.name}. {summary}"
    return svg.curves(title, "rank", "queries matched, %", ticks, lines(review, placed))


def precision_recall(review: Review, mode: ModeComparison) -> Markup:
    """Interpolated precision at recall, mean over queries."""
    placed = [list(zip(RECALLS.tolist(), one.precision.tolist(), strict=True)) for one in mode.rankings]
    summary = "; ".join(
        f"{label}: precision {percent(one.precision[10])} % at half of the matches, {percent(one.precision[20])} % at all"
        for label, one in zip((review.champion.label, review.candidate.label), mode.rankings, strict=True)
    )
    title = f"Precision over recall, {mode.mode.name}. {summary}"
    return svg.curves(title, "recall, %", "precision, %", RECALL_TICKS, lines(review, placed))


def distance_rows(review: Review) -> list[tuple[str, int, list[str]]]:
    """Rows of the table: the kind of pairs, their number, and each model's mean distance; at last δ of all pairs."""
    several = [one.distances for one in review.features]
    rows = [
        (KINDS[kind], int(several[0].pairs[kind].sum()), [f"{one.mean(kind):.3f}" for one in several])
        for kind in several[0].kinds
    ]
    return [*rows, ("δ", int(several[0].pairs.sum()), [f"{one.delta:.3f}" for one in several])]


def distance_chart(review: Review, features: FeatureSpace) -> Markup:
    """The densities of distances by kind of pair. The charts of both models have one scale in each direction."""
    several = [one.distances for one in review.features]
    highest = max(float(one.density(kind).max()) for one in several for kind in one.kinds)
    found = features.distances
    middles = (EDGES[:-1] + EDGES[1:]) / 2
    shown = [
        Density(
            DENSITY_KINDS[kind],
            KINDS[kind],
            list(zip(middles.tolist(), (found.density(kind) / highest).tolist(), strict=True)),
            found.mean(kind),
        )
        for kind in found.kinds
    ]
    means = "; ".join(f"{KINDS[kind]}: mean {found.mean(kind):.3f}" for kind in found.kinds)
    title = f"Distances of pairs, {features.label}. {means}; δ {found.delta:.3f}"
    return svg.densities(title, "distance", "density of pairs", distance_ticks(shown_range(several)), shown)


def distance_ticks(ends: tuple[float, float]) -> list[tuple[float, str]]:
    """Ticks from below the lower end to above the upper one, at most ten."""
    step = next(step for step in (0.05, 0.1, 0.25) if (ends[1] - ends[0]) / step <= 8 or step == 0.25)
    first, last = math.floor(ends[0] / step + 1e-9), math.ceil(ends[1] / step - 1e-9)
    return [(step * at, f"{step * at:.2f}") for at in range(first, last + 1)]


def distance_legend(review: Review) -> Markup:
    kinds = review.features[0].distances.kinds
    return svg.density_legend([Density(DENSITY_KINDS[kind], KINDS[kind], (), 0.0) for kind in kinds])


def plane_chart(features: FeatureSpace, plane: Plane) -> Markup:
    """Images in the plane: a colour for each person, a mark for each of its outfits."""
    chosen = plane.choice
    rows = zip(chosen.person.tolist(), chosen.outfit.tolist(), plane.points.tolist(), strict=True)
    dots = [Dot(f"p{person}", outfit, x, y) for person, outfit, (x, y) in rows]
    return svg.scatter(f"t-SNE of {len(dots)} images of {len(chosen.names)} persons, {features.label}", dots)


def plane_legend(plane: Plane) -> Markup:
    persons = [(f"p{at}", 0, f"person {name}") for at, name in enumerate(plane.choice.names)]
    outfits = sorted(set(plane.choice.outfit.tolist()))[: len(svg.MARKS)]
    keys = [("any", outfit, outfit_name(outfit)) for outfit in outfits]
    return svg.dot_legend(persons) + Markup("<br>") + svg.dot_legend(keys)


def markdown(text: str, below: int = 2) -> Markup:
    """Markdown as HTML without raw HTML and images; headings are `below` levels lower than in the source."""
    reader = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
    tokens = reader.parse(text)
    for token in tokens:
        if token.type.startswith("heading_"):
            token.tag = f"h{min(6, int(token.tag[1:]) + below)}"
    return Markup(reader.renderer.render(tokens, reader.options, {}))
