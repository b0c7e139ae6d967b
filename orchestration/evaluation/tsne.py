"""Test descriptors in the plane by t-SNE (van der Maaten and Hinton, JMLR 2008), as CCAF's Fig. 7, for any method.

Colours are persons and markers their outfits: where a person's outfits fall apart, the model goes by clothes. The choice of
images depends on the labels alone, so two models are shown on the same ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.lines import Line2D

from datasets.protocols import protocols
from datasets.protocols.protocols import Protocol
from datasets.shards.dataset import SplitIndex
from orchestration.evaluation.embed import Descriptors
from orchestration.evaluation.hard_triples import spread
from orchestration.figures import plt, to_png

PICTURE = "t-sne.png"
PEOPLE, IMAGES = 10, 24  # shown at most, and of each person; 400 images in all would take twice as long
ITERATIONS = 500  # 0.4 CPU s for 240 images; scikit-learn's 1,000 take 0.7
SEED = 0
PERPLEXITY = 30.0  # scikit-learn's, and near the number of a person's images
COLOURS = [f"C{number}" for number in range(PEOPLE)]  # matplotlib's own ten
MARKERS = "os^DPXv*<>"


@dataclass(frozen=True)
class Choice:
    """N images of some persons. names: of the persons. at: int64 [N], ascending positions in the splits one after the other.
    person: int64 [N], positions in `names`. outfit: int64 [N], from 0 for each person by itself, -1 where it is unknown.
    """

    names: list[str]
    at: np.ndarray
    person: np.ndarray
    outfit: np.ndarray


@dataclass(frozen=True)
class Plane:
    """The chosen images at points, float64 [N, 2], around 0. The points have no unit: near ones were neighbours before."""

    choice: Choice
    points: np.ndarray


def plane_of(
    protocol: Protocol, indexes: Mapping[str, SplitIndex], descriptors: Mapping[str, Descriptors]
) -> Plane | str:
    """Some persons' queries and gallery images in the plane, or a sentence on why they cannot be drawn."""
    chosen = choose(protocol, indexes)
    if len(chosen.names) < 2:
        return f"t-SNE needs two test persons with two images each, and there {count(len(chosen.names))}."
    features = pooled(descriptors, chosen.at)
    if bool((features == features[0]).all()):
        return "the model gives all images that t-SNE would show the same descriptor."
    try:
        return Plane(chosen, place(features))
    except Exception as error:  # of any kind: an evaluation is worth more than its picture
        return f"t-SNE failed: {type(error).__name__}: {error}"


def count(number: int) -> str:
    return "is one" if number == 1 else "is none"


def choose(protocol: Protocol, indexes: Mapping[str, SplitIndex]) -> Choice:
    """At most PEOPLE persons, drawn by SEED, those with several outfits first; of each at most IMAGES, spread over outfits."""
    rows = {split: protocols.samples(protocol, indexes[split]) for split in sorted(indexes)}
    person = np.concatenate([indexes[split].person[some] for split, some in rows.items()])
    clothes = np.concatenate([indexes[split].clothes[some] for split, some in rows.items()])
    clothes = np.where(person >= 0, clothes, -1)
    worn, first = np.unique(clothes, return_index=True)  # an image of each outfit
    outfits = np.bincount(person[first[worn >= 0]], minlength=person.max(initial=0) + 1)
    several = np.flatnonzero(np.bincount(person[person >= 0]) >= 2)
    drawn = np.random.default_rng(SEED).permutation(several)
    shown = np.sort(drawn[np.argsort(outfits[drawn] < 2, kind="stable")][:PEOPLE])
    own = [np.flatnonzero(person == one) for one in shown.tolist()]
    at = [spread(some, IMAGES) for some in own]  # rows are stored by outfit, so each has its share
    return numbered(np.sort(np.concatenate([np.empty(0, np.int64), *at])), shown, person, clothes, indexes)


def numbered(
    at: np.ndarray, shown: np.ndarray, person: np.ndarray, clothes: np.ndarray, indexes: Mapping[str, SplitIndex]
) -> Choice:
    """The choice of the positions `at`. shown: the persons in it. person, clothes: of all positions."""
    outfit = np.full(len(at), -1)
    for one in shown.tolist():
        known = (person[at] == one) & (clothes[at] >= 0)
        outfit[known] = np.unique(clothes[at[known]], return_inverse=True)[1]
    names = next(iter(indexes.values())).person_names  # one numbering for all splits
    return Choice([names[one] for one in shown.tolist()], at, np.searchsorted(shown, person[at]), outfit)


def pooled(descriptors: Mapping[str, Descriptors], at: np.ndarray) -> np.ndarray:
    """float32 [n, D]: the features at some positions, ascending, of all splits one after the other."""
    found, start = [], 0
    for split in sorted(descriptors):
        features = descriptors[split].features
        inside = at[(at >= start) & (at < start + len(features))] - start
        found.append(features[torch.from_numpy(inside)].numpy())
        start += len(features)
    return np.concatenate(found)


def place(features: np.ndarray) -> np.ndarray:
    """float64 [N, 2], centred, of float32 [N, D], N ≥ 4. The same features have the same points at every call."""
    from sklearn.manifold import TSNE  # here: its import takes a second
    from threadpoolctl import threadpool_limits

    perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
    solver = TSNE(perplexity=perplexity, init="pca", max_iter=ITERATIONS, random_state=SEED)
    with threadpool_limits(1):  # two threads that wait for each other on busy cores took 30 s instead of 1
        points = solver.fit_transform(features).astype(np.float64)
    return points - points.mean(0)


def draw(plane: Plane) -> bytes:
    """PNG: a colour for each person and a marker for each of its outfits."""
    figure, axes = plt.subplots(figsize=(8, 5.4))
    chosen = plane.choice
    for person, outfit in sorted(set(zip(chosen.person.tolist(), chosen.outfit.tolist(), strict=True))):
        some = plane.points[(chosen.person == person) & (chosen.outfit == outfit)]
        style = {"color": COLOURS[person], "marker": marker(outfit), "edgecolor": "white", "linewidth": 0.4}
        axes.scatter(some[:, 0], some[:, 1], s=26, **style)
    axes.set_title(f"t-SNE of {len(chosen.at)} test images of {len(chosen.names)} persons", fontsize=11)
    axes.set_xlabel("near points are similar images; the axes have no unit", fontsize=8)
    axes.set(xticks=[], yticks=[], aspect="equal")
    axes.set_adjustable("datalim")
    persons = [Line2D([], [], linestyle="", marker="o", color=colour) for colour in COLOURS[: len(chosen.names)]]
    outfits = sorted(set(chosen.outfit.tolist()))[: len(MARKERS)]
    markers = [Line2D([], [], linestyle="", marker=marker(outfit), color="black") for outfit in outfits]
    names = [*(f"person {name}" for name in chosen.names), *map(outfit_name, outfits)]
    axes.legend([*persons, *markers], names, fontsize=8, loc="upper left", bbox_to_anchor=(1.02, 1))
    return to_png(figure)


def marker(outfit: int) -> str:
    """Outfits beyond the last marker begin again with the first."""
    return "h" if outfit < 0 else MARKERS[outfit % len(MARKERS)]


def outfit_name(outfit: int) -> str:
    """Of the person's own, so the first outfits of two persons have nothing in common."""
    return "clothes unknown" if outfit < 0 else f"the person's outfit {outfit + 1}"
