"""Two models on the same queries: differences with intervals, by camera and change of clothes, and the queries that changed.

`champion` and `candidate` are descriptors of one data set, of any dimension each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from datasets.protocols import protocols
from datasets.protocols.protocols import Mode, Protocol
from datasets.shards.dataset import Manifest, SplitIndex
from methods.matches import Labels, valid_and_match
from methods.ranking import Ranking, rank_by_rules
from methods.ranking_parts import mean_over_draws
from orchestration.evaluation.embed import Descriptors
from orchestration.evaluation.modes import CMC_RANKS, RankedList, RankingInput, nearest, ranking_input
from orchestration.measures import MEASURES, compared
from orchestration.review.bootstrap import mean_intervals

CHANGED_SHOWN = 6
LIST_LENGTH = 5
SEED = 0

Entries = tuple[str, str, tuple[str, ...] | None, int]


@dataclass(frozen=True)
class Difference:
    """A measure of both models as fractions, and the ends of the interval of candidate − champion.

    by_person: the interval of a bootstrap over whole persons instead of queries.
    """

    champion: float
    candidate: float
    low: float
    high: float
    by_person: tuple[float, float]

    @property
    def delta(self) -> float:
        return self.candidate - self.champion


@dataclass(frozen=True)
class Group:
    """Queries of one camera or one change of clothes, with their differences by measure."""

    name: str
    num_queries: int
    differences: dict[str, Difference]


@dataclass(frozen=True)
class Changed:
    """A query that one model ranks better than the other, with the nearest gallery entries of both."""

    query: int  # row of the query's split
    champion: RankedList
    candidate: RankedList

    @property
    def delta(self) -> float:
        return self.candidate.average_precision - self.champion.average_precision


@dataclass(frozen=True)
class ModeComparison:
    """One mode. rankings: of champion and candidate. better, worse: the queries that changed most; empty for several draws."""

    mode: Mode
    differences: dict[str, Difference]
    rankings: tuple[Ranking, Ranking]
    num_better: int
    num_worse: int
    cameras: list[Group]
    clothes: list[Group]
    better: list[Changed]
    worse: list[Changed]

    @property
    def num_queries(self) -> int:
        return self.rankings[0].num_valid


def compare(
    protocol: Protocol,
    indexes: Mapping[str, SplitIndex],
    champion: Mapping[str, Descriptors],
    candidate: Mapping[str, Descriptors],
    manifest: Manifest,
    *,
    confidence: float,
) -> list[ModeComparison]:
    """Compare in every mode of the protocol. confidence: of the intervals, such as 0.95."""
    ranked: dict[Entries, Ranked] = {}
    for mode in protocol.modes:
        if entries_of(mode) not in ranked:
            alike = [other for other in protocol.modes if entries_of(other) == entries_of(mode)]
            ranked[entries_of(mode)] = rank_both(protocol, alike, indexes, (champion, candidate), manifest)
    return [compare_mode(mode, indexes[mode.query], ranked[entries_of(mode)], confidence) for mode in protocol.modes]


def entries_of(mode: Mode) -> Entries:
    """The queries and gallery of a mode. Modes of equal entries differ only in their rule, and are ranked together."""
    return mode.query, mode.gallery, mode.cameras, mode.draws


@dataclass(frozen=True)
class Ranked:
    """Queries ranked by both models.

    rows: of the query's split. queries: an input per model. galleries: an input per model and draw. found: rankings per
    model, draw and rule.
    """

    rows: np.ndarray
    queries: list[RankingInput]
    galleries: list[list[RankingInput]]
    found: list[list[dict[str, Ranking]]]


def rank_both(
    protocol: Protocol,
    modes: Sequence[Mode],
    indexes: Mapping[str, SplitIndex],
    models: tuple[Mapping[str, Descriptors], Mapping[str, Descriptors]],
    manifest: Manifest,
) -> Ranked:
    """Rank the queries by both models. modes: of equal entries."""
    of_query, of_gallery = indexes[modes[0].query], indexes[modes[0].gallery]
    rows = protocols.rows(protocol, modes[0], of_query)
    drawn = protocols.galleries(protocol, modes[0], of_gallery, manifest)
    rules = [mode.rule for mode in modes]
    queries = [ranking_input(protocol, of_query, model[of_query.split], rows) for model in models]
    galleries = [
        [ranking_input(protocol, of_gallery, model[of_gallery.split], some) for some in drawn] for model in models
    ]
    found = [
        [rank_by_rules(query.features, one.features, query.labels, one.labels, rules, CMC_RANKS) for one in of_model]
        for query, of_model in zip(queries, galleries, strict=True)
    ]
    return Ranked(rows, queries, galleries, found)


def compare_mode(mode: Mode, index: SplitIndex, ranked: Ranked, confidence: float) -> ModeComparison:
    """index: of the queries' split."""
    rows, queries, galleries = ranked.rows, ranked.queries, ranked.galleries
    found = [[draw[mode.rule] for draw in of_model] for of_model in ranked.found]
    rankings = [mean_over_draws(of_model) if mode.draws else of_model[0] for of_model in found]
    valid = np.flatnonzero(~np.isnan(rankings[0].per_query_ap))
    values = np.stack([per_query(of_model) for of_model in found])
    values = values[:, :, valid]  # [models, measures, valid queries]
    labels = queries[0].labels.take(valid)
    change = values[1, 0] - values[0, 0]  # of the average precision
    order = np.argsort(change, kind="stable")
    shown = [] if mode.draws else [order[::-1][:CHANGED_SHOWN], order[:CHANGED_SHOWN]]
    better, worse = (
        changed(mode, queries, [g[0] for g in galleries], rankings, valid[some[change[some] != 0]], sign)
        for some, sign in zip(shown or [order[:0]] * 2, (1, -1), strict=True)
    )
    cameras = [index.camera_names[at] if at >= 0 else "unknown" for at in index.camera[rows[valid]].tolist()]
    return ModeComparison(
        mode=mode,
        differences=differences(values, labels.person, confidence),
        rankings=(rankings[0], rankings[1]),
        num_better=int((change > 0).sum()),
        num_worse=int((change < 0).sum()),
        cameras=groups(cameras, values, labels.person, confidence),
        clothes=groups(clothes_changes(labels, galleries[0][0].labels, mode), values, labels.person, confidence),
        better=better,
        worse=worse,
    )


def per_query(draws: Sequence[Ranking]) -> np.ndarray:
    """float64 [measures, Q], in the order of `compared`: each query's mean over the draws in which it has a value."""
    reads = [read for name in compared() if (read := MEASURES[name].per_query)]
    values = np.stack([[read(draw) for draw in draws] for read in reads])  # [measures, draws, Q]
    is_valued = ~np.isnan(values)
    with np.errstate(invalid="ignore"):  # NaN where a query has no value in any draw
        return np.where(is_valued, values, 0).sum(1) / is_valued.sum(1)


def differences(values: np.ndarray, person: np.ndarray, confidence: float) -> dict[str, Difference]:
    """values: [models, measures, queries]. person: int64 [queries]."""
    delta = values[1] - values[0]
    ends = mean_intervals(delta, confidence=confidence, seed=SEED)
    by_person = mean_intervals(delta, confidence=confidence, seed=SEED, groups=person)
    return {
        measure: Difference(
            champion=float(values[0, at].mean()),
            candidate=float(values[1, at].mean()),
            low=float(ends[0][at]),
            high=float(ends[1][at]),
            by_person=(float(by_person[0][at]), float(by_person[1][at])),
        )
        for at, measure in enumerate(compared())
    }


def groups(names: list[str], values: np.ndarray, person: np.ndarray, confidence: float) -> list[Group]:
    """The differences of the queries of each name, in the order of the names."""
    of_query = np.array(names)
    found = []
    for name in np.unique(of_query):
        inside = of_query == name
        there = differences(values[:, :, inside], person[inside], confidence)
        found.append(Group(str(name), int(inside.sum()), there))
    return found


def clothes_changes(query: Labels, gallery: Labels, mode: Mode) -> list[str]:
    """For each query, whether its matches wear the same clothes, and how many other outfits; "unknown" without labels."""
    kinds = np.unique(np.stack([gallery.person, gallery.camera, gallery.clothes]), axis=1)
    _, matches = valid_and_match(query, Labels(*kinds), mode.rule)
    at, kind = np.nonzero(matches)
    worn = np.unique(np.stack([at, kinds[2, kind]]), axis=1)
    is_same = worn[1] == query.clothes[worn[0]]
    others = np.bincount(worn[0][~is_same], minlength=len(query))
    same = np.bincount(worn[0][is_same], minlength=len(query)) > 0
    labelled = (query.clothes >= 0) & (np.bincount(worn[0][worn[1] < 0], minlength=len(query)) == 0)
    return [clothes_change(*facts) for facts in zip(labelled.tolist(), same.tolist(), others.tolist(), strict=True)]


def clothes_change(is_labelled: bool, is_same: bool, others: int) -> str:
    if not is_labelled:
        return "unknown"
    if not others:
        return "same clothes only"
    outfits = f"{others} other outfit{'' if others == 1 else 's'}" if others < 3 else "3 or more other outfits"
    return f"same clothes and {outfits}" if is_same else outfits


def changed(
    mode: Mode,
    queries: list[RankingInput],
    galleries: list[RankingInput],
    rankings: list[Ranking],
    chosen: np.ndarray,
    sign: int,
) -> list[Changed]:
    """The chosen queries that changed for the better (sign 1) or the worse (-1), with both models' lists."""
    lists = [
        nearest(mode, query, gallery, ranking, chosen, LIST_LENGTH) if len(chosen) else []
        for query, gallery, ranking in zip(queries, galleries, rankings, strict=True)
    ]
    found = [Changed(one.query, one, other) for one, other in zip(*lists, strict=True)]
    return [one for one in found if sign * one.delta > 0]
