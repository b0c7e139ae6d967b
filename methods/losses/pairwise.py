"""Pairwise CosFace and circle loss: an anchor's positives against its negatives (Sun et al., CVPR 2020, Eqs. 1, 6).

Letters: A anchors, G gallery, D channels; anchor i is row `first` + i of the gallery and not its own positive.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.losses.circle import circle_scores
from methods.losses.contrastive import pairs
from methods.losses.cosine import cosines


def pairwise_cosface_loss(
    anchors_AD: Tensor,
    anchor_labels_A: Tensor,
    gallery_GD: Tensor,
    gallery_labels_G: Tensor,
    scale: float,
    margin: float,
    first: int = 0,
) -> Tensor:
    """Mean over A of log(1 + Σ_n e^(s(cos_n + m)) · Σ_p e^(−s·cos_p)). Scalar; 0 for an anchor without positives."""
    cosine_AG = cosines(anchors_AD, gallery_GD)
    same_AG, positive_AG = pairs(anchor_labels_A, gallery_labels_G, first)
    return pair_loss(-scale * cosine_AG, scale * (cosine_AG + margin), positive_AG, ~same_AG)


def pairwise_circle_loss(
    anchors_AD: Tensor,
    anchor_labels_A: Tensor,
    gallery_GD: Tensor,
    gallery_labels_G: Tensor,
    scale: float,
    margin: float,
    first: int = 0,
) -> Tensor:
    """As pairwise CosFace, with the self-paced weights of `circle_scores` (detached). Scalar."""
    same_AG, positive_AG = pairs(anchor_labels_A, gallery_labels_G, first)
    own_AG, others_AG = circle_scores(cosines(anchors_AD, gallery_GD), margin)
    return pair_loss(-scale * own_AG, scale * others_AG, positive_AG, ~same_AG)


def pair_loss(own_AG: Tensor, others_AG: Tensor, positive_AG: Tensor, negative_AG: Tensor) -> Tensor:
    positive_A = own_AG.masked_fill(~positive_AG, -torch.inf).logsumexp(1)
    negative_A = others_AG.masked_fill(~negative_AG, -torch.inf).logsumexp(1)
    return F.softplus(positive_A + negative_A).mean()
