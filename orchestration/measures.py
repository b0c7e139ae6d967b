"""The measures of an evaluation: how each is read off a ranking, and where it is shown.

Everything that computes, compares, lists or shows measures reads MEASURES, so that a new measure is one line there. The
module imports nothing heavy: commands that only list numbers read it too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from methods.ranking import Ranking


@dataclass(frozen=True)
class Measure:
    """A fraction between 0 and 1; higher is better, because selection, sweeps and the gate maximise it.

    read: its value; None where the gallery is too small for one.
    per_query: float64 [Q], the queries' own values, whose mean it is: NaN where a query has no match. Two models are
    compared by the measures that have it.
    min_gallery: entries that a gallery must have for a value.
    in_tables: whether the tables of the command line have a column for it; the model card has all measures.
    """

    read: Callable[[Ranking], float | None]
    per_query: Callable[[Ranking], np.ndarray] | None = None
    min_gallery: int = 1
    in_tables: bool = True


# Prefixes of the metrics in MLflow that are of a training and not of its model: on the validation set, on the test set.
DURING_TRAINING = ("validation/", "selection/")
# Metrics of an evaluation that are no measures: mean cosine distances of pairs and the paper's δ, between 0 and 2. Whether a
# small one is good depends on the others, so nothing selects by them.
DISTANCES = tuple(
    f"distance/{name}" for name in ("same-clothes", "other-clothes", "same-person", "other-persons", "delta")
)
# In the order in which they are shown. The rank of a rank-k must be one of `evaluation.modes.CMC_RANKS`.
MEASURES: dict[str, Measure] = {
    "rank-1": Measure(lambda found: found.cmc[1], per_query=lambda found: (found.first_match == 1).astype(float)),
    "rank-5": Measure(lambda found: found.cmc[5], min_gallery=5),
    "rank-10": Measure(lambda found: found.cmc[10], min_gallery=10),
    "rank-20": Measure(lambda found: found.cmc[20], min_gallery=20, in_tables=False),
    "mAP": Measure(lambda found: found.mAP, per_query=lambda found: found.per_query_ap),
    "mINP": Measure(lambda found: found.mINP),
}


def modes_of(metrics: Iterable[str]) -> list[str]:
    """The modes in metrics' names `<mode>/<measure>`, in their order; other metrics have none."""
    return list(dict.fromkeys(name.rpartition("/")[0] for name in metrics if name.rpartition("/")[2] in MEASURES))


def measured(ranking: Ranking) -> dict[str, float]:
    """The value of each measure that the ranking has, by name."""
    values = {name: measure.read(ranking) for name, measure in MEASURES.items()}
    return {name: value for name, value in values.items() if value is not None}


def compared() -> list[str]:
    """The measures by which two models are compared, mAP first: the queries that changed are those of its values."""
    return sorted((name for name, measure in MEASURES.items() if measure.per_query), key=lambda name: name != "mAP")
