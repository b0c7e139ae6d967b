"""Supervised contrastive loss: Khosla et al., NeurIPS 2020.

Letters: A anchors, G gallery; anchor i is row `first` + i of the gallery.
"""

from __future__ import annotations

import torch
from torch import Tensor

from methods.losses.contrastive import mean_over_anchors, pairs


def supervised_contrastive_loss(
    logits_AG: Tensor,
    person_A: Tensor,
    person_G: Tensor,
    first: int = 0,
    count_all: bool = False,
    present_G: Tensor | None = None,
) -> Tensor:
    """L_out, Eq. 2: scalar, mean over anchors. Each denominator sums over all others of the gallery, positives included.

    logits_AG: cosines over τ (float). person: int64. Anchors without a positive, present_G,
    and workers: as in `clothing_contrastive_loss`.
    """
    present_G = torch.ones_like(person_G, dtype=torch.bool) if present_G is None else present_G
    _, positive_AG = pairs(person_A, person_G, first)
    positive_AG = positive_AG & present_G & present_G[first : first + len(logits_AG), None]
    itself_A = torch.arange(first, first + len(logits_AG), device=logits_AG.device)
    others_AG = logits_AG.scatter(1, itself_A[:, None], -torch.inf).masked_fill(~present_G, -torch.inf)
    log_p_AG = (logits_AG - others_AG.logsumexp(1, keepdim=True)).masked_fill(~positive_AG, 0)
    terms_A = -(log_p_AG * positive_AG.to(log_p_AG.dtype)).sum(1) / positive_AG.sum(1).clamp(min=1)
    return mean_over_anchors(terms_A, person_G, present_G, count_all)
