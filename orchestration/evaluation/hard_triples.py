"""Hard triples of an evaluation: a query, its person in a different outfit, another person in a similar one (IFD, Fig. 3).

No label says which outfits are similar. With parsing masks, the mean colours of top and bottom do. A triple then depends on
the data alone, so the pictures of two models show the same triples, as in Fig. 3. Without masks the model's similarities
select the farthest match and the nearest entry of another person.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from datasets.format.index import SplitIndex
from datasets.format.schema import Sample
from datasets.images.decode import decode_image, decode_parsing
from datasets.images.label_maps import LABEL_MAPS, LabelMap
from datasets.inspection.colour_baselines import clothes_colour
from datasets.protocols import protocols
from datasets.protocols.protocols import Labels, Rule
from datasets.shards.dataset import Dataset
from methods.matches import Labels as RankingLabels
from methods.matches import valid_and_match

SHOWN = 4
PEOPLE = 16  # people among whose triples the shown ones are chosen
OUTFITS = 128  # outfits of the gallery among which a similar one is chosen,
GROUPS = 16  # and the row groups that they are read from: a few hundred megabytes at most


@dataclass(frozen=True)
class ModeEntries:
    """The queries or the gallery of a mode, N entries.

    rows: int64 [N], the row of the index that shows an entry. labels: int64 [N] each. features: float32 [N, D],
    L2-normalised.
    """

    index: SplitIndex
    rows: np.ndarray
    labels: Labels
    features: Tensor

    @property
    def outfit(self) -> np.ndarray:
        """int64 [N]: the class of person and clothes; a class per person where clothes are not labelled."""
        clothes = self.labels.clothes
        return np.where(clothes >= 0, clothes, self.index.num_clothes + self.labels.person)


@dataclass(frozen=True)
class Triple:
    """anchor: an entry of the queries. positive, negative: entries of the gallery."""

    anchor: int
    positive: int
    negative: int


@dataclass(frozen=True)
class Candidates:
    """People to choose from. anchor: int64 [P], entries of the queries. match, other: bool [P, G], possible pairs."""

    anchor: np.ndarray
    match: np.ndarray
    other: np.ndarray


@dataclass(frozen=True)
class Chosen:
    """At most SHOWN triples of different people. changed: positives wear other clothes. by_clothes: chosen by masks."""

    triples: list[Triple]
    changed: bool
    by_clothes: bool


def choose(dataset: Dataset, query: ModeEntries, gallery: ModeEntries) -> Chosen:
    """Triples whose positives wear other clothes if clothes are labelled, else are from another camera. Not random."""
    rule = rule_of(query.labels, gallery.labels)
    found = candidates(query, gallery, rule)
    label_map = dataset.manifest.label_map
    triples = []
    if len(found.anchor) and label_map and query.index.has_parsing and gallery.index.has_parsing:
        triples = by_clothes(dataset, LABEL_MAPS[label_map], query, gallery, found)
    changed = rule == "clothes-changing"
    return Chosen(triples or by_similarity(query, gallery, found), changed, bool(triples))


def rule_of(query: Labels, gallery: Labels) -> Rule:
    """The rule "clothes-changing" where all clothes are labelled and a person changes them, else "general"."""
    is_labelled = bool((query.clothes >= 0).all() and (gallery.clothes >= 0).all())
    if is_labelled and protocols.valid_queries("clothes-changing", query, gallery).any():
        return "clothes-changing"
    return "general"


def candidates(query: ModeEntries, gallery: ModeEntries, rule: Rule) -> Candidates:
    """One query each of PEOPLE persons, spread evenly over those with a match."""
    valid = np.flatnonzero(protocols.valid_queries(rule, query.labels, gallery.labels))
    anchor = spread(valid[middle_of_each(query.labels.person[valid])], PEOPLE)
    asked, shown = (RankingLabels(x.person, x.camera, x.clothes) for x in (query.labels.take(anchor), gallery.labels))
    valid, match = valid_and_match(asked, shown, rule)
    has_both = match.any(1) & (valid & ~match).any(1)
    return Candidates(anchor[has_both], match[has_both], (valid & ~match)[has_both])


def by_clothes(
    dataset: Dataset, labels: LabelMap, query: ModeEntries, gallery: ModeEntries, found: Candidates
) -> list[Triple]:
    """Each person's outfit least similar to the query's, and of OUTFITS others the most similar; the best SHOWN triples."""
    outfit, pool = gallery.outfit, outfits(gallery)
    own = [matches[middle_of_each(outfit[matches])] for matches in map(np.flatnonzero, found.match)]
    asked = colours(dataset, labels, query, found.anchor)
    looked_at = np.unique(np.concatenate([pool, *own]))
    colour = np.full((len(outfit), 6), np.nan)
    colour[looked_at] = colours(dataset, labels, gallery, looked_at)
    triples = []
    for anchor, mine, positives, other in zip(found.anchor, asked, own, found.other, strict=True):
        negatives = pool[other[pool]]
        unlike, alike = apart(mine, colour[positives]), apart(mine, colour[negatives])
        if np.isnan(unlike).all() or np.isnan(alike).all():
            continue
        triple = Triple(int(anchor), int(positives[np.nanargmax(unlike)]), int(negatives[np.nanargmin(alike)]))
        triples.append((np.nanmin(alike), triple))
    return [triple for _, triple in sorted(triples, key=lambda pair: pair[0])[:SHOWN]]


def outfits(gallery: ModeEntries) -> np.ndarray:
    """int64: one entry each of OUTFITS outfits, from GROUPS row groups spread evenly over the gallery."""
    group = gallery.index.group[gallery.rows]
    within = np.flatnonzero(np.isin(group, spread(np.unique(group), GROUPS)))
    return spread(within[middle_of_each(gallery.outfit[within])], OUTFITS)


def by_similarity(query: ModeEntries, gallery: ModeEntries, found: Candidates) -> list[Triple]:
    """Each person's farthest match and nearest other, spread evenly over the margin from worst to best."""
    similarity = (query.features[found.anchor] @ gallery.features.T).numpy()
    matches, others = np.where(found.match, similarity, np.inf), np.where(found.other, similarity, -np.inf)
    margin = matches.min(1) - others.max(1)
    return [
        Triple(int(found.anchor[at]), int(matches[at].argmin()), int(others[at].argmax()))
        for at in spread(np.argsort(margin, kind="stable"), SHOWN)
    ]


def apart(colour: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Root mean square difference of [6] to each of [N, 6], over the finite values of both; nan where there are none."""
    squares = (colours - colour) ** 2
    seen = (~np.isnan(squares)).sum(1)
    return np.sqrt(np.nansum(squares, axis=1) / np.where(seen == 0, np.nan, seen))


def colours(dataset: Dataset, labels: LabelMap, part: ModeEntries, entries: np.ndarray) -> np.ndarray:
    """Mean colours of the clothes of some entries: float64 [n, 6], nan where clothes are not visible."""
    return np.stack([colour_of(sample, labels) for sample in read_samples(dataset, part, entries)])


def colour_of(sample: Sample, labels: LabelMap) -> np.ndarray:
    assert sample.parsing is not None, "the index says that every row has a mask"
    image = decode_image(sample.image, sample.key).permute(1, 2, 0).numpy()
    return clothes_colour(image, decode_parsing(sample.parsing, sample.key).numpy(), labels)


def read_samples(dataset: Dataset, part: ModeEntries, entries: Iterable[int]) -> list[Sample]:
    """The samples of the entries, in their order; each row group is read once."""
    wanted = part.rows[np.asarray(list(entries), dtype=np.int64)]
    rows, place = np.unique(wanted, return_inverse=True)
    samples = list(dataset.samples(part.index.split, rows))
    return [samples[at] for at in place]


def middle_of_each(classes: np.ndarray) -> np.ndarray:
    """int64: for each class that occurs, the position of its middle entry."""
    order = np.argsort(classes, kind="stable")
    _, first, number = np.unique(classes[order], return_index=True, return_counts=True)
    return order[first + number // 2]


def spread(values: np.ndarray, number: int) -> np.ndarray:
    """At most `number` of the values at even distances, including the first and the last."""
    return values[np.linspace(0, len(values) - 1, min(number, len(values))).round().astype(int)]
