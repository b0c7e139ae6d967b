"""How well an order of batches mixes people: with how many others a person is put together.

A window (`plan`) puts people together with those whose row groups are open beside theirs. How far that is from the full
sampler, which may put anybody beside anybody, is measured by the entropy of who meets whom in batches. Take a person, two
of the batches that show them, and from each one of the others in it: q is the probability that both are the same person.
Were the others drawn evenly out of N people, q would be 1 / N; so 1 / q is the number of partners that a person
effectively has, and log(1 / q) is the entropy of order 2 of their distribution (Rényi; unlike Shannon's it can be
estimated without bias from as few meetings as an epoch has).

within   both batches are of one epoch: who is around, as long as a person's own row group is open.
between  they are of two epochs: who comes back. Row groups are dealt afresh in each epoch, so that people meet others then,
         but neighbours in a row group stay neighbours.

Mixing is log(1 + partners) / log(1 + partners of the full sampler), oneself counted: 1 where all are mixed, and
log m / log n where n people stand in groups of m that never meet.
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
    """How many others a person effectively meets in batches of one epoch, and of two; nan where nothing tells."""

    within: float
    between: float


def people_of(index: SplitIndex, plan: Plan) -> np.ndarray:
    """The people of each batch, one for each chunk: int [batches, people]."""
    return index.person[plan.rows[:, :: plan.images * (plan.clip or 1)]]


def effective_partners(epochs: Sequence[np.ndarray]) -> Partners:
    """Over all people, each weighing as much as they have pairs of batches. epochs: int [batches, people] of each."""
    num = 1 + max(int(people.max()) for people in epochs)
    met = [_Meetings.of(people, num) for people in epochs]
    all_ = _Meetings.together(met)
    within = sum(m.pairs for m in met), sum(m.same for m in met)
    between = all_.squares - sum(m.squares for m in met), all_.same_squares - sum(m.same_squares for m in met)
    return Partners(*(math.nan if not same else pairs / same for pairs, same in (within, between)))


def mixing(partners: float, of_full: float) -> float:
    """1: as mixed as by the full sampler."""
    return math.log1p(partners) / math.log1p(of_full)


@dataclass(frozen=True)
class _Meetings:
    """who: int64 [M], the pairs (person, other) that met, as person × num + other; times: how often. of_person: meetings
    of each. pairs: pairs of meetings of a person in different batches; same: those that are with the same other."""

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
        # Of meetings in one batch no two are with the same other, but where a sampler shows people twice.
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
