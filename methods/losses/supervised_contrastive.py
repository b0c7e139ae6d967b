"""Supervised contrastive loss: Khosla et al., NeurIPS 2020.

Letters: A anchors, G gallery; anchor i is row `first` + i of the gallery.
"""

from __future__ import annotations

import torch
from torch import Tensor

from methods.losses.contrastive import mean_over_anchors, pairs


def supervised_contrastive_loss(
    logits_AG: Tensor, person_A: Tensor, person_G: Tensor, first: int = 0, count_all: bool = False
) -> Tensor:
    """L_out, Eq. 2: scalar, mean over anchors. Each denominator sums over all others of the gallery, positives included.

    logits_AG: cosines over τ (float). person: int64. Anchors without a positive, and workers: as in
    `clothing_contrastive_loss`.
    """
    _, positive_AG = pairs(person_A, person_G, first)
    itself_A = torch.arange(first, first + len(logits_AG), device=logits_AG.device)
    log_p_AG = logits_AG - logits_AG.scatter(1, itself_A[:, None], -torch.inf).logsumexp(1, keepdim=True)
    terms_A = -(log_p_AG * positive_AG.to(log_p_AG.dtype)).sum(1) / positive_AG.sum(1).clamp(min=1)
    return terms_A.mean() if count_all else mean_over_anchors(terms_A, person_G)
