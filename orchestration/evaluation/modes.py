"""The modes of a protocol, ranked from descriptors: the metrics of each mode, and the result of each query.

A mode of several draws is ranked against each random gallery, and its metrics are means. With re-ranking, every mode is
ranked a second time, by the same queries and gallery: for a subset of cameras within that subset, and for each single-shot
draw by itself, with one gallery image of each person.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from datasets.images.cues import CueName
from datasets.protocols import protocols
from datasets.protocols.protocols import Mode, Protocol
from datasets.shards.dataset import Manifest, SplitIndex
from methods.matches import Labels, valid_and_match
from methods.ranking import Ranking, rank
from methods.ranking_parts import mean_over_draws, rank_blocks
from methods.reranking import Reranking, rerank
from orchestration.config.settings import RerankSettings
from orchestration.evaluation.embed import Descriptors
from orchestration.measures import measured

CMC_RANKS = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50)
RERANKED = "-reranked"
SHOWN_QUERIES = 8
SHOWN_RANKS = 10


@dataclass(frozen=True)
class RankedList:
    """A query and its nearest valid gallery entries, for a picture."""

    query: int  # row of the query's split
    average_precision: float
    gallery: np.ndarray  # int64 [k], rows of the gallery's split, nearest first
    shown_value: np.ndarray  # float [k]: similarity, or distance after re-ranking
    is_match: np.ndarray  # bool [k]


@dataclass(frozen=True)
class Evaluation:
    """`metrics` are fractions by the protocol's names; `rankings` and `lists` have a key per mode and per re-ranked mode.

    lists: none for modes of several draws. pictures: PNG bytes by file name.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    rankings: dict[str, Ranking] = field(default_factory=dict)
    lists: dict[str, list[RankedList]] = field(default_factory=dict)
    pictures: dict[str, bytes] = field(default_factory=dict)

    def add(self, other: Evaluation) -> None:
        """Add the results of another evaluation, which have other names."""
        for name in ("metrics", "rankings", "lists", "pictures"):
            getattr(self, name).update(getattr(other, name))


@dataclass(frozen=True)
class RankingInput:
    """The queries or the gallery of a ranking: rows of a split, their features [N, D] and labels."""

    rows: np.ndarray
    features: Tensor
    labels: Labels


def names_of(mode: Mode, cues: Sequence[CueName] = ()) -> dict[str, CueName | None]:
    """The names of a mode's results, each with its cue (None: whole images), also re-ranked."""
    shown: tuple[CueName | None, ...] = (None, *cues)
    return {f"{mode.name}{cue_suffix(cue)}{suffix}": cue for cue in shown for suffix in ("", RERANKED)}


def cue_suffix(cue: CueName | None) -> str:
    """The suffix of a mode's name in the names of its results."""
    return f"-{cue}" if cue else ""


def rank_modes(
    protocol: Protocol,
    indexes: Mapping[str, SplitIndex],
    descriptors: Mapping[str, Descriptors],
    manifest: Manifest,
    *,
    reranking: RerankSettings | None = None,
    cue: CueName | None = None,
    progress: Callable[..., None] | None = None,
) -> Evaluation:
    """Every metric that the protocol lists, from the descriptors of its splits, and those after re-ranking if wanted.

    cue: the cue that the images were reduced to, part of the results' names. progress: during re-ranking, called with the
    number of entries whose neighbours are found, the number of all, and a note.
    """
    result = Evaluation()
    cached: tuple[tuple[str, str, tuple[str, ...] | None], Reranking] | None = (
        None  # consecutive modes share their entries
    )
    for mode in protocol.modes:
        query_rows = protocols.rows(protocol, mode, indexes[mode.query])
        drawn = protocols.galleries(protocol, mode, indexes[mode.gallery], manifest)
        query = ranking_input(protocol, indexes[mode.query], descriptors[mode.query], query_rows)
        galleries = [ranking_input(protocol, indexes[mode.gallery], descriptors[mode.gallery], rows) for rows in drawn]
        found = [
            rank(query.features, gallery.features, query.labels, gallery.labels, mode.rule, CMC_RANKS)
            for gallery in galleries
        ]
        lists = [] if mode.draws else ranked_lists(mode, query, galleries[0], found[0], None)
        record(result, f"{mode.name}{cue_suffix(cue)}", found, lists)
        if reranking is None:
            continue
        found, name = [], f"{mode.name}{cue_suffix(cue)}{RERANKED}"
        for gallery in galleries:
            entries = (mode.query, mode.gallery, mode.cameras)
            if mode.draws or cached is None or cached[0] != entries:
                cached = None  # free it before the next is computed
                cached = entries, start_reranking(query, gallery, reranking, name, progress)
            found.append(rank_blocks(cached[1].blocks(), query.labels, gallery.labels, mode.rule, CMC_RANKS))
        assert cached is not None
        lists = [] if mode.draws else ranked_lists(mode, query, galleries[0], found[0], cached[1])
        cached = None if mode.draws else cached
        record(result, name, found, lists)
    return result


def ranking_input(protocol: Protocol, index: SplitIndex, descriptors: Descriptors, rows: np.ndarray) -> RankingInput:
    read = protocols.labels(protocol, index).take(rows)
    return RankingInput(rows, descriptors.of(rows), Labels(read.person, read.camera, read.clothes))


def start_reranking(
    query: RankingInput,
    gallery: RankingInput,
    settings: RerankSettings,
    name: str,
    progress: Callable[..., None] | None,
) -> Reranking:
    def report(done: int, total: int) -> None:
        if progress:
            progress(done, total, note=name)

    return rerank(query.features, gallery.features, **settings.model_dump(), progress=report)


def record(result: Evaluation, name: str, found: list[Ranking], lists: list[RankedList]) -> None:
    """Add a mode's results under its name."""
    ranking = found[0] if len(found) == 1 else mean_over_draws(found)
    result.rankings[name] = ranking
    result.metrics.update({f"{name}/{measure}": value for measure, value in measured(ranking).items()})
    if lists:
        result.lists[name] = lists


def ranked_lists(
    mode: Mode, query: RankingInput, gallery: RankingInput, ranking: Ranking, reranking: Reranking | None
) -> list[RankedList]:
    """Queries spread evenly from the worst to the best average precision, each with its nearest valid gallery entries."""
    ap = ranking.per_query_ap
    valid = np.flatnonzero(~np.isnan(ap))
    by_ap = valid[np.argsort(ap[valid], kind="stable")]
    chosen = by_ap[np.linspace(0, len(by_ap) - 1, min(SHOWN_QUERIES, len(by_ap))).round().astype(int)]
    return nearest(mode, query, gallery, ranking, chosen, SHOWN_RANKS, reranking)


def nearest(
    mode: Mode,
    query: RankingInput,
    gallery: RankingInput,
    ranking: Ranking,
    chosen: np.ndarray,
    number: int,
    reranking: Reranking | None = None,
) -> list[RankedList]:
    """For each chosen query (int64 [n], positions in `query`) the nearest valid gallery entries, at most `number`."""
    valid, matches = valid_and_match(query.labels.take(chosen), gallery.labels, mode.rule)
    if reranking is None:
        values = (query.features[chosen] @ gallery.features.T).numpy()
        distance = -values
    else:
        distance = values = reranking.distances(chosen).numpy()
    distance = np.where(valid, distance, np.inf)
    order = np.argsort(distance, axis=1, kind="stable")[:, :number]
    lists = []
    for i, at in enumerate(chosen.tolist()):
        places = order[i][valid[i, order[i]]]
        ap = float(ranking.per_query_ap[at])
        lists.append(RankedList(int(query.rows[at]), ap, gallery.rows[places], values[i, places], matches[i, places]))
    return lists


def query_table(
    protocol: Protocol, indexes: Mapping[str, SplitIndex], rankings: Mapping[str, Ranking], cues: Sequence[CueName] = ()
) -> bytes:
    """Parquet: a row per mode (of cues and re-ranked, too) and query, with its key, average precision and first match.

    query: the key of an image, the sequence of a tracklet. average_precision: null where the query is not valid.
    first_match: its position from 1, -1 where there is none. Both are means where several galleries were drawn.
    """
    tables = []
    for mode in protocol.modes:
        index = indexes[mode.query]
        rows = protocols.rows(protocol, mode, index)
        if protocol.sample == "tracklet":
            keys = [index.sequence_names[sequence] for sequence in index.sequence[rows].tolist()]
        else:
            keys = index.keys(rows)
        for name in names_of(mode, cues):
            if name in rankings:
                ap = pa.array(rankings[name].per_query_ap, from_pandas=True)
                columns = [name] * len(rows), keys, ap, rankings[name].first_match
                tables.append(pa.table(list(columns), names=["mode", "query", "average_precision", "first_match"]))
    buffer = io.BytesIO()
    pq.write_table(pa.concat_tables(tables), buffer)
    return buffer.getvalue()
