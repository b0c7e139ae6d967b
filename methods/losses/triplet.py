"""Batch-hard triplet loss (Hermans et al., In Defense of the Triplet Loss, 2017), on cosine or Euclidean distance.

Letters: A anchors, G gallery, D channels. The gallery holds the anchors themselves, and under several workers the other
workers' samples (the caller gathers them). An anchor is among its own positives, at distance 0.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.losses.cosine import cosines


def triplet_cosine_loss(
    anchors_AD: Tensor, anchor_labels_A: Tensor, gallery_GD: Tensor, gallery_labels_G: Tensor, margin: float
) -> Tensor:
    """Mean over A of max(0, d⁺ − d⁻ + margin) with d = 1 − cosine, as in CAL's published code. Scalar.

    anchors_AD, gallery_GD: float, any length. Labels: int64. Without negatives the loss is 0.
    """
    return batch_hard(1 - cosines(anchors_AD, gallery_GD), anchor_labels_A, gallery_labels_G, margin)


def triplet_euclidean_loss(
    anchors_AD: Tensor, anchor_labels_A: Tensor, gallery_GD: Tensor, gallery_labels_G: Tensor, margin: float | None
) -> Tensor:
    """Mean over A of max(0, d⁺ − d⁻ + margin), or of log(1 + e^(d⁺ − d⁻)) where the margin is None. Scalar.

    d is the Euclidean distance (SPS Eq. 5, CCAF Eq. 2); its gradient is 0 between equal features. Without negatives
    the loss is 0. anchors_AD, gallery_GD: float32 or float64. Labels: int64.
    """
    # The expanded form a² + b² − 2ab loses a small distance between long features to cancellation.
    distance_AG = torch.cdist(anchors_AD, gallery_GD, compute_mode="donot_use_mm_for_euclid_dist")
    return batch_hard(distance_AG, anchor_labels_A, gallery_labels_G, margin)


def batch_hard(distance_AG: Tensor, anchor_labels_A: Tensor, gallery_labels_G: Tensor, margin: float | None) -> Tensor:
    """Each anchor's farthest positive against its nearest negative; the mean over A."""
    same_AG = anchor_labels_A[:, None] == gallery_labels_G[None, :]
    positive_A = distance_AG.masked_fill(~same_AG, -torch.inf).max(1).values
    negative_A = distance_AG.masked_fill(same_AG, torch.inf).min(1).values
    excess_A = positive_A - negative_A
    return (F.softplus(excess_A) if margin is None else F.relu(excess_A + margin)).mean()
