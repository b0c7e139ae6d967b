"""Losses over classes that are divided over workers: pure functions of this worker's logits and labels.

Each equals the loss of `methods.losses` of the same name on all classes, of this worker's samples, and so do gradients: those
are of Σ L_r, as everywhere (`methods.distributed`). All workers call them together.

Letters: B samples of this worker, G of all workers together, R classes that this worker holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.distributed import all_reduce_max, all_reduce_sum, gather, own_part


class ClassLogits(NamedTuple):
    """Logits of the samples of all workers, in rank order, for the classes that this worker holds.

    values: float. classes: int64, the numbers of the classes, ascending; a worker's are all below the next worker's.
    total: how many classes all workers hold, as a number or an int64 scalar.
    """

    values: Tensor  # [G, R]
    classes: Tensor  # [R]
    total: int | Tensor


def is_own(logits: ClassLogits, labels_B: Tensor) -> Tensor:
    """bool [G, R]: whether the class is the sample's own. labels_B: int64."""
    return gather(labels_B)[:, None] == logits.classes


def cross_entropy(logits: ClassLogits, labels_B: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """`identity_loss` and `clothes_classification_loss` (Eq. 2 of CAL): scalar, mean over B. labels_B: int64.

    The target is (1 − ε) on the label plus ε/C on every one of the C classes; ε: label_smoothing.
    """
    values_GR = precise(logits.values)
    top_G = largest(values_GR)
    parts = [(values_GR - top_G[:, None]).exp().sum(1), of_labels(values_GR, logits.classes, gather(labels_B))]
    if label_smoothing:
        parts.append(values_GR.sum(1))
    sums = all_reduce_sum(torch.stack(parts))
    loss_G = sums[0].log() + top_G - (1 - label_smoothing) * sums[1]
    if label_smoothing:
        loss_G = loss_G - label_smoothing * sums[2] / logits.total  # in this order: a number over integers is float32
    return own_part(loss_G).mean()


def clothes_adversarial_loss(
    logits: ClassLogits, clothes_B: Tensor, own_GR: Tensor, epsilon: float, initialised_R: Tensor | None = None
) -> Tensor:
    """L_CA of CAL, Eqs. 3 and 5: scalar, mean over B.

    clothes_B: int64. own_GR: True where the clothes belong to the sample's person, S⁺ (bool). initialised_R: False for classes
    that S⁺ and S⁻ both leave out (bool).
    """
    absent_GR = own_GR
    if initialised_R is not None:
        own_GR, absent_GR = own_GR & initialised_R, own_GR | ~initialised_R
    values_GR = precise(logits.values)
    others_G1 = log_sum_exp(values_GR.masked_fill(absent_GR, -torch.inf))[:, None]
    log_p_GR = F.logsigmoid(values_GR - others_G1)  # Eq. 3
    number_G = all_reduce_sum(own_GR.sum(1))  # K
    of_own_G = torch.where(own_GR, log_p_GR, 0).sum(1) * epsilon / number_G  # Eq. 5: ε/K on S⁺ …
    of_label_G = (1 - epsilon) * of_labels(log_p_GR, logits.classes, gather(clothes_B))  # … 1 − ε more on y^C
    return -own_part(all_reduce_sum(of_own_G + of_label_G)).mean()


def log_sum_exp(values_GR: Tensor) -> Tensor:
    """[G], over the classes of all workers: −inf, without a gradient, where all values are −inf."""
    top_G = largest(values_GR)
    top_G = top_G.masked_fill(top_G.isinf(), 0)
    sums_G = all_reduce_sum((values_GR - top_G[:, None]).exp().sum(1))
    is_none_G = sums_G == 0
    return torch.where(is_none_G, -torch.inf, sums_G.masked_fill(is_none_G, 1).log() + top_G)


def accuracy(logits: Sequence[ClassLogits], labels_B: Tensor) -> Tensor:
    """Share of this worker's samples whose likeliest class is their label: float64 scalar, without a gradient.

    logits: of one classifier, or of several of the same classes, whose log-probabilities are added up.
    """
    with torch.no_grad():
        values_GR, classes_R = sum_of_log_p(logits), logits[0].classes
        if classes_R.numel():
            best_G, at_G = values_GR.max(1)
            class_G = classes_R[at_G]
        else:
            best_G, class_G = (
                values_GR.new_full(values_GR.shape[:1], -torch.inf),
                labels_B.new_full((len(values_GR),), -1),
            )
        bests_WG, classes_WG = gather(best_G[None]), gather(class_G[None])
        found_G = classes_WG.gather(0, bests_WG.argmax(0)[None])[0]  # the first of equals, as argmax over all classes
        return (own_part(found_G) == labels_B).double().mean()


def sum_of_log_p(logits: Sequence[ClassLogits]) -> Tensor:
    """[G, R]: highest at the likeliest class. Of a single classifier these are the logits: they have the same order."""
    if len(logits) == 1:
        return logits[0].values
    every = [precise(one.values) for one in logits]
    return torch.stack([values_GR - log_sum_exp(values_GR)[:, None] for values_GR in every]).sum(0)


def precise(values: Tensor) -> Tensor:
    """In float32 at least, as cross-entropy is under autocast."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def largest(values_GR: Tensor) -> Tensor:
    """[G]: the largest value of each sample over the classes of all workers, without a gradient."""
    values_GR = values_GR.detach()
    own_G = values_GR.amax(1) if values_GR.shape[1] else values_GR.new_full(values_GR.shape[:1], -torch.inf)
    return all_reduce_max(own_G)


def of_labels(values_GR: Tensor, classes_R: Tensor, labels_G: Tensor) -> Tensor:
    """[G]: each sample's value at its label where this worker holds that class, else 0."""
    if not classes_R.numel():
        return values_GR.sum(1)
    at_G = torch.searchsorted(classes_R, labels_G).clamp(max=len(classes_R) - 1)
    found_G = values_GR.gather(1, at_G[:, None])[:, 0]
    return torch.where(classes_R[at_G] == labels_G, found_G, 0)
