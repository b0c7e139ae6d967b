"""Early stopping of trials: asynchronous successive halving and the median rule, as functions of curves.

A curve holds the scores of a trial so far: epoch → score, higher is better. Ray's own schedulers keep curves in memory and
pickle them; these rules take them as arguments, so that a resumed sweep can pass the curves that MLflow has.

Only the first seed of a configuration may be stopped; its other seeds then never start. If every seed could be stopped, a
configuration's mean would cover only the seeds that did well, and more variance between seeds would look like a better score.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping

import numpy as np

Curve = Mapping[int, float]
Rule = Callable[[str, int, Mapping[str, Curve]], bool]


def asha(grace: int, max_epochs: int, unscored: int = 0, eta: float = 3) -> Rule:
    """Li et al., A System for Massively Parallel Hyperparameter Tuning (MLSys 2020), Alg. 2, in the form that stops trials.

    At grace × eta^k epochs a trial continues if it is in the best 1/eta of the trials that reached them before. unscored: the
    epochs before the first that changes a score; they do not count.
    """
    rungs = []
    rung = float(grace)
    while unscored + rung < max_epochs:
        rungs.append(unscored + rung)
        rung *= eta

    def stops(trial: str, epoch: int, curves: Mapping[str, Curve]) -> bool:
        reached = [rung for rung in rungs if rung <= epoch]
        if not reached or epoch >= max_epochs:
            return False
        rung = reached[-1]
        own = at_rung(curves[trial], rung)
        if own is None or first_at(curves[trial], rung) != epoch:
            return False  # was judged at this rung before
        others = [at_rung(curve, rung) for name, curve in curves.items() if name != trial]
        known = [score for score in others if score is not None]
        return bool(known) and own < float(np.percentile(known, (1 - 1 / eta) * 100))

    return stops


def median(grace: int, max_epochs: int, unscored: int = 0, min_others: int = 3) -> Rule:
    """Golovin et al., Google Vizier (KDD 2017), Sec. 3.2.2: a trial stops where its best score so far is below the median
    of the others' running averages up to the same epoch. unscored: as for `asha`."""

    def stops(trial: str, epoch: int, curves: Mapping[str, Curve]) -> bool:
        if epoch < unscored + grace or epoch >= max_epochs:
            return False
        averages = [average_to(curve, epoch) for name, curve in curves.items() if name != trial]
        known = [average for average in averages if average is not None]
        best = max(score for at, score in curves[trial].items() if at <= epoch)
        return len(known) >= min_others and best < statistics.median(known)

    return stops


RULES: dict[str, Callable[[int, int, int], Rule]] = {"asha": asha, "median": median}


def first_at(curve: Curve, rung: float) -> int | None:
    """The first validated epoch at or after a rung."""
    return min((epoch for epoch in curve if epoch >= rung), default=None)


def at_rung(curve: Curve, rung: float) -> float | None:
    epoch = first_at(curve, rung)
    return None if epoch is None else curve[epoch]


def average_to(curve: Curve, epoch: int) -> float | None:
    """The mean of a trial's scores up to an epoch; None if it has not reached the epoch."""
    if not curve or max(curve) < epoch:
        return None
    return statistics.fmean(score for at, score in curve.items() if at <= epoch)
