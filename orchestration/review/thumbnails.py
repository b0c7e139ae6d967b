"""The pictures of a review page: thumbnails of the images in ranked lists, and Grad-CAM of both models for some queries."""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from datasets.images.decode import decode_image
from datasets.shards.dataset import Dataset, SplitIndex
from orchestration.engine.checkpoint import Checkpoint
from orchestration.evaluation import explain
from orchestration.evaluation.embed import GroupReader
from orchestration.evaluation.modes import RankedList
from orchestration.review.comparison import Changed, ModeComparison

HEIGHT = 224  # pixels: twice what the page shows, for dense screens
QUALITY = 80
EXPLAINED = 2  # queries ranked better, and as many ranked worse

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Picture:
    """source: a data URI. alt: what it shows, in words."""

    source: str
    alt: str


@dataclass(frozen=True)
class Entry:
    """One place of a ranked list."""

    picture: Picture
    is_match: bool
    similarity: float
    person: str
    wears: str


@dataclass(frozen=True)
class Case:
    """A query whose ranking changed, with both models' nearest gallery entries."""

    query: Picture
    person: str
    wears: str
    camera: str
    champion_ap: float
    candidate_ap: float
    champion: list[Entry]
    candidate: list[Entry]


@dataclass(frozen=True)
class ExplainedMatch:
    """A query and its nearest gallery entry as inputs of a network, each with its Grad-CAM."""

    of: str
    is_match: bool
    similarity: float
    query: tuple[Picture, Picture]
    nearest: tuple[Picture, Picture]


@dataclass(frozen=True)
class ExplainedQuery:
    """A query ranked better or worse, with the nearest entry of each model explained."""

    title: str
    matches: list[ExplainedMatch]


def render_cases(
    dataset: Dataset, indexes: Mapping[str, SplitIndex], comparisons: Sequence[ModeComparison]
) -> dict[str, tuple[list[Case], list[Case]]]:
    """By mode, the queries ranked better and worse. Each row group that has one of their images is read once."""
    wanted: dict[str, set[int]] = {}
    for one in comparisons:
        for change in (*one.better, *one.worse):
            wanted.setdefault(one.mode.query, set()).add(change.query)
            for listed in (change.champion, change.candidate):
                wanted.setdefault(one.mode.gallery, set()).update(listed.gallery.tolist())
    small = {split: thumbnails(dataset, indexes[split], rows) for split, rows in wanted.items()}
    return {
        one.mode.name: (
            [case(one, change, indexes, small) for change in one.better],
            [case(one, change, indexes, small) for change in one.worse],
        )
        for one in comparisons
    }


def case(
    comparison: ModeComparison,
    change: Changed,
    indexes: Mapping[str, SplitIndex],
    small: Mapping[str, Mapping[int, str]],
) -> Case:
    mode = comparison.mode
    index, at = indexes[mode.query], change.query
    person, wears, camera = person_of(index, at), clothes_of(index, at), camera_of(index, at)
    query = Picture(small[mode.query][at], f"query: person {person}{', ' if wears else ''}{wears}, camera {camera}")
    return Case(
        query=query,
        person=person,
        wears=wears,
        camera=camera,
        champion_ap=change.champion.average_precision,
        candidate_ap=change.candidate.average_precision,
        champion=entries(change.champion, indexes[mode.gallery], small[mode.gallery]),
        candidate=entries(change.candidate, indexes[mode.gallery], small[mode.gallery]),
    )


def entries(listed: RankedList, index: SplitIndex, small: Mapping[int, str]) -> list[Entry]:
    found = []
    for place, (row, similarity, is_match) in enumerate(
        zip(listed.gallery.tolist(), listed.shown_value.tolist(), listed.is_match.tolist(), strict=True), start=1
    ):
        person, wears = person_of(index, row), clothes_of(index, row)
        verdict = "right" if is_match else "wrong"
        alt = f"rank {place}, {verdict}: person {person}{', ' if wears else ''}{wears}, camera {camera_of(index, row)}"
        found.append(Entry(Picture(small[row], alt), is_match, similarity, person, wears))
    return found


def person_of(index: SplitIndex, row: int) -> str:
    return index.person_names[index.person[row]]


def clothes_of(index: SplitIndex, row: int) -> str:
    return f"outfit {index.clothes_names[index.clothes[row]][1]}" if index.clothes[row] >= 0 else ""


def camera_of(index: SplitIndex, row: int) -> str:
    return index.camera_names[index.camera[row]] if index.camera[row] >= 0 else "unknown"


def thumbnails(dataset: Dataset, index: SplitIndex, rows: Iterable[int]) -> dict[int, str]:
    """Row → data URI of a small JPEG."""
    there = np.array(sorted(rows), dtype=np.int64)
    read = GroupReader(dataset, index, ("image",))
    found: dict[int, str] = {}
    for group in np.unique(index.group[there]).tolist():
        inside = there[index.group[there] == group]
        for row, encoded in zip(inside.tolist(), read(inside), strict=True):
            found[row] = jpeg(decode_image(encoded["image"]).permute(1, 2, 0).numpy())
    return found


def jpeg(image: np.ndarray) -> str:
    """uint8 [h, w, 3] as a data URI, at most HEIGHT high."""
    rendered = Image.fromarray(image)
    if rendered.height > HEIGHT:
        rendered = rendered.resize(
            (max(1, round(rendered.width * HEIGHT / rendered.height)), HEIGHT), Image.Resampling.LANCZOS
        )
    out = io.BytesIO()
    rendered.save(out, "JPEG", quality=QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"


def render_explanations(
    models: Mapping[str, Checkpoint], dataset: Dataset, indexes: Mapping[str, SplitIndex], comparison: ModeComparison
) -> list[ExplainedQuery] | str:
    """Grad-CAM of each model for the queries that changed most and their nearest entries.

    models: by label; the champion, where there is one, and the candidate last. A failure returns a sentence instead of
    pictures: it does not fail the comparison.
    """
    chosen = [("better", one) for one in comparison.better[:EXPLAINED]]
    chosen += [("worse", one) for one in comparison.worse[:EXPLAINED]]
    if not chosen:
        return "Both models rank every query alike."
    mode = comparison.mode
    try:
        queries = samples(dataset, indexes[mode.query], [one.query for _, one in chosen])
        found: list[ExplainedQuery] = []
        for _, one in chosen:
            person = person_of(indexes[mode.query], one.query)
            change = f"AP {100 * one.champion.average_precision:.0f} % → {100 * one.candidate.average_precision:.0f} %"
            found.append(ExplainedQuery(f"Person {person}, {change}", []))
        for name, model in models.items():
            lists = [one.candidate if name == list(models)[-1] else one.champion for _, one in chosen]
            nearest = samples(dataset, indexes[mode.gallery], [int(listed.gallery[0]) for listed in lists])
            explained_queries, explained_nearest = explain.explain_samples(model, [queries, nearest])
            for at, listed in enumerate(lists):
                found[at].matches.append(explained_match(name, listed, explained_queries[at], explained_nearest[at]))
    except Exception as error:  # of any kind: the results are worth more than a picture
        log.warning("no Grad-CAM on the review page: %s: %s", type(error).__name__, error)
        log.debug("rendering Grad-CAM", exc_info=True)
        return f"Grad-CAM could not be rendered: {type(error).__name__}: {error}"
    return found


def explained_match(
    of: str, listed: RankedList, query: explain.Explanation, nearest: explain.Explanation
) -> ExplainedMatch:
    is_match = bool(listed.is_match[0])
    what = f"nearest entry of {of}, {'right' if is_match else 'wrong'}"
    return ExplainedMatch(
        of=of,
        is_match=is_match,
        similarity=float(listed.shown_value[0]),
        query=pair(query, f"query as input of {of}", "regions of the query's descriptor"),
        nearest=pair(nearest, what, "regions that make it similar to the query"),
    )


def pair(explanation: explain.Explanation, alt: str, heat: str) -> tuple[Picture, Picture]:
    return Picture(jpeg(explanation.image), alt), Picture(
        jpeg(explanation.heatmaps["Grad-CAM"].picture), f"Grad-CAM: {heat}, brighter is more"
    )


def samples(dataset: Dataset, index: SplitIndex, rows: Sequence[int]) -> list:
    """The samples of the given rows, in their order."""
    wanted, place = np.unique(np.array(rows, dtype=np.int64), return_inverse=True)
    read = list(dataset.samples(index.split, wanted))
    return [read[at] for at in place.tolist()]
