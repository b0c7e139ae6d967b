"""How far the vectors of classes tell images of their own class from those of others: exact AUC, and both histograms."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.distributed import gather_uneven

BINS = 2000  # of a histogram; a picture joins some
PAIRS_AT_ONCE = 1 << 22  # similarities that are held at one time


@dataclass(frozen=True)
class Separation:
    """Similarities of images with the vector of their own class, and with those of all others.

    title: what is compared with what. auc: the probability that an own similarity is above another one, each drawn at
    random from all of its kind; equal ones count half. own, other: int64 [BINS] on the CPU, counts of the similarities in
    equal bins from −bound to bound.
    """

    title: str
    auc: float
    own: Tensor
    other: Tensor
    bound: float


@torch.no_grad()
def separation(
    title: str, features: Tensor, labels: Tensor, vectors: Tensor, *, cosine: bool = True
) -> Separation | None:
    """Similarities of features [n, D] with the vectors [C, D] of all classes. labels: int64 [n], each feature's class.

    Each worker gives its share of the features, which may be empty, and the same vectors; all get the same result. None
    where no worker has a feature, or where there is one class. Products are of float64 and rounded to float32, so that the
    order of sums does not tell equal similarities apart. The AUC is exact: each other similarity finds its place among the
    sorted own ones. Memory is that of the shares and of PAIRS_AT_ONCE.
    """
    features, vectors = features.double(), vectors.double()
    if cosine:
        features, vectors = F.normalize(features, dim=1), F.normalize(vectors, dim=1)
    own = gather_uneven((features * vectors[labels]).sum(1).float()).sort().values
    if not len(own) or len(vectors) < 2:
        return None
    longest = gather_uneven(features.norm(dim=1)).max() * vectors.norm(dim=1).max()
    bound = max(float(longest), torch.finfo(torch.float32).tiny)
    wins, counts = own.new_zeros(1, dtype=torch.int64), own.new_zeros(1, BINS, dtype=torch.int64)
    for rows in torch.arange(len(labels), device=labels.device).split(max(1, PAIRS_AT_ONCE // len(vectors))):
        similar = (features[rows] @ vectors.T).float()
        others = similar[torch.ones_like(similar, dtype=torch.bool).scatter(1, labels[rows, None], False)]
        # Own ones that are no smaller, and those that are larger: an equal one is counted once, a larger one twice.
        wins += sum((len(own) - torch.searchsorted(own, others, right=right)).sum() for right in (False, True))
        counts += histogram(others, bound)
    wins, counts = gather_uneven(wins).sum(), gather_uneven(counts).sum(0)
    auc = int(wins) / (2 * len(own) * int(counts.sum()))
    return Separation(title, auc, histogram(own, bound).cpu(), counts.cpu(), bound)


def histogram(values: Tensor, bound: float) -> Tensor:
    """int64 [BINS]: how many values lie in each of the equal bins from −bound to bound."""
    places = ((values.double() / bound + 1) * (BINS / 2)).long().clamp(0, BINS - 1)
    return places.bincount(minlength=BINS)
