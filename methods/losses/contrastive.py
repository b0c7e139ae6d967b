"""Supervised contrastive loss with one positive in each denominator, as in CAL's published code.

Letters: A anchors, G gallery, D channels; anchor i is row `first` + i of the gallery.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.losses.cosine import cosines


def contrastive_loss(
    anchors_AD: Tensor,
    anchor_labels_A: Tensor,
    gallery_GD: Tensor,
    gallery_labels_G: Tensor,
    scale: float,
    first: int = 0,
) -> Tensor:
    """Mean over A of the mean over positives p of −log(e^(s·cos_p) / (e^(s·cos_p) + Σ over negatives)). Scalar.

    An anchor is not its own positive; one without a positive adds 0 and counts, so that workers' means average.
    anchors_AD, gallery_GD: float, any length. Labels: int64. scale: the s, 1/temperature.
    """
    logits_AG = scale * cosines(anchors_AD, gallery_GD)
    same_AG, positive_AG = pairs(anchor_labels_A, gallery_labels_G, first)
    negatives_A1 = logits_AG.masked_fill(same_AG, -torch.inf).logsumexp(1, keepdim=True)
    log_p_AG = F.logsigmoid(logits_AG - negatives_A1)
    num_positives_A = positive_AG.sum(1).clamp(min=1)
    return -((log_p_AG * positive_AG.to(log_p_AG.dtype)).sum(1) / num_positives_A).mean()


def pairs(anchor_labels_A: Tensor, gallery_labels_G: Tensor, first: int) -> tuple[Tensor, Tensor]:
    """(same label, same label but another sample): bool [A, G] each."""
    same_AG = anchor_labels_A[:, None] == gallery_labels_G[None, :]
    itself_A = torch.arange(first, first + len(anchor_labels_A), device=same_AG.device)
    return same_AG, same_AG.scatter(1, itself_A[:, None], False)


def mean_over_anchors(terms_A: Tensor, labels_G: Tensor, present_G: Tensor, count_all: bool) -> Tensor:
    """Mean of the terms over the present anchors that have a positive; the others' must be 0. Scalar; 0 where none has one.

    present_G: bool, False for samples that are in no pair. count_all: all present anchors are counted.
    Under several workers, A being a worker's share of G, the mean of the workers' values is that of the global batch.
    """
    same_GG = (labels_G[:, None] == labels_G[None, :]) & present_G[:, None] & present_G[None, :]
    num_counted = (same_GG.sum(1) > (0 if count_all else 1)).sum()
    return terms_A.sum() / num_counted.clamp(min=1) * (len(labels_G) / len(terms_A))
