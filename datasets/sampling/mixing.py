"""How well a plan mixes persons: the effective number of others with which a person shares batches.

A window (`plan`) combines persons with those whose row groups are open at the same time. The full sampler may combine any
persons. The difference is measured by the entropy of the co-occurrence in batches. Take a person, two of the batches that
contain them, and from each batch one of the others: q is the probability that both are the same person.
If the others were drawn uniformly from N persons, q would be 1 / N. So 1 / q is the effective number of partners of a person,
and log(1 / q) is the entropy of order 2 of their distribution (Rényi; unlike Shannon's it has an
unbiased estimate from as few co-occurrences as an epoch has).

* within: both batches are of one epoch. It counts the persons around while a person's own row group is open.
* between: the batches are of two epochs. It counts the persons that recur. Row groups are dealt again in each epoch, so
  other persons co-occur then, but neighbours in a row group stay neighbours.

Mixing is log(1 + partners) / log(1 + partners of the full sampler), where 1 counts the person: 1 where all are mixed, and
log m / log n where n persons form groups of m that never share a batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from datasets.format.index import SplitIndex
from datasets.sampling.plan import Plan


@dataclass(frozen=True)
class Partners:
    """The effective number of a person's partners in batches of one epoch, and of two; nan where it is undefined."""

    within: float
    between: float


def people_of(index: SplitIndex, plan: Plan) -> np.ndarray:
    """The persons of each batch, one for each chunk: int [num_batches, people]."""
    return index.person[plan.rows[:, :: plan.images * (plan.clip or 1)]]


def effective_partners(epochs: Sequence[np.ndarray]) -> Partners:
    """The mean over all persons, weighted by their pairs of batches. epochs: `people_of` each epoch."""
    num = 1 + max(int(people.max()) for people in epochs)
    met = [_Meetings.of(people, num) for people in epochs]
    all_ = _Meetings.together(met)
    within = sum(m.pairs for m in met), sum(m.same for m in met)
    between = all_.squares - sum(m.squares for m in met), all_.same_squares - sum(m.same_squares for m in met)
    return Partners(*(math.nan if not same else pairs / same for pairs, same in (within, between)))


def mixing(partners: float, of_full: float) -> float:
    """The mixing of `partners`, relative to the full sampler's partners `of_full`: 1 where they are equal."""
    return math.log1p(partners) / math.log1p(of_full)


@dataclass(frozen=True)
class _Meetings:
    """Co-occurrences ("meetings") in batches.

    who: int64 [M], the pairs (person, other) that met, as person × num + other. times: int64 [M], how often. of_person: int64
    [num], each person's meetings. pairs: the pairs of a person's meetings in different batches. same: the pairs that have
    the same other.
    """

    who: np.ndarray
    times: np.ndarray
    of_person: np.ndarray
    pairs: int = 0
    same: int = 0

    @classmethod
    def of(cls, people: np.ndarray, num: int) -> _Meetings:
        people = people.astype(np.int64)
        one, other = (
            np.broadcast_to(x, (*people.shape, people.shape[1])) for x in (people[..., None], people[:, None])
        )
        who, times = np.unique((one * num + other)[one != other], return_counts=True)
        met = cls(who, times, np.bincount(who // num, times, num).astype(np.int64))
        # Two meetings in one batch have the same other only where a sampler shows a person twice.
        batch, shown = np.unique(np.arange(len(people))[:, None] * num + people, return_counts=True)
        batch, in_all = batch // num, people.shape[1]
        squares, fourths = (np.bincount(batch, shown**power, len(people)) for power in (2, 4))
        pairs_in_batch = int(((shown * (in_all - shown)) ** 2).sum())
        same_in_batch = int((squares**2 - fourths).sum())
        return cls(who, times, met.of_person, met.squares - pairs_in_batch, met.same_squares - same_in_batch)

    @classmethod
    def together(cls, several: Sequence[_Meetings]) -> _Meetings:
        who, at = np.unique(np.concatenate([met.who for met in several]), return_inverse=True)
        times = np.bincount(at, np.concatenate([met.times for met in several])).astype(np.int64)
        return cls(who, times, np.sum([met.of_person for met in several], axis=0))

    @property
    def squares(self) -> int:
        return int((self.of_person**2).sum())

    @property
    def same_squares(self) -> int:
        return int((self.times**2).sum())
