"""The losses of IFD: Xu et al., Identity-aware Feature Decoupling Learning for Clothing-change Person Re-identification.

Letters: A anchors, G gallery, D channels; anchor i is row `first` + i of the gallery.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.losses.contrastive import mean_over_anchors, pairs


def clothing_contrastive_loss(
    logits_AG: Tensor,
    person_A: Tensor,
    clothes_A: Tensor,
    person_G: Tensor,
    clothes_G: Tensor,
    T: float,
    first: int = 0,
    count_all: bool = False,
    present_G: Tensor | None = None,
) -> Tensor:
    """L_CCL, Eqs. 4 and 5: scalar. Each positive stands in its denominator with the negatives alone.

    logits_AG: similarity of the clothing features over τ (float): cosines, for the paper's features must be normalised
    if τ is to mean anything, though it does not say so. person, clothes: int64. The gallery is the global batch.
    T: a positive in other clothes weighs 1/T, one in the same clothes 1. The stated purpose, "to focus more" on the
    former, needs 1/T > 1, so T < 1; T = 1 weighs them alike.

    An anchor is not its own positive. One without a positive contributes nothing and is not counted: the mean is over
    the others. count_all: N counts it, as Eq. 4 can be read. Either way workers' values average to that of the global
    batch. Finite for any finite logits; without negatives 0.

    present_G: bool, False for images that show no clothes; all show some by default. Such an image is no anchor, no
    positive and no negative. The paper does not speak of it: its clothing feature is that of an empty mask, the same for
    everybody.
    """
    present_G = torch.ones_like(person_G, dtype=torch.bool) if present_G is None else present_G
    same_AG, positive_AG = pairs(person_A, person_G, first)
    positive_AG = positive_AG & present_G & present_G[first : first + len(logits_AG), None]
    negatives_A1 = logits_AG.masked_fill(same_AG | ~present_G, -torch.inf).logsumexp(1, keepdim=True)
    log_p_AG = F.logsigmoid(logits_AG - negatives_A1)  # Eq. 4, divided through by its numerator
    one_AG = positive_AG.to(logits_AG.dtype)  # of two numbers torch.where makes float32, whatever the logits are
    w_AG = torch.where(clothes_A[:, None] == clothes_G, one_AG, one_AG / T)  # Eq. 5
    terms_A = -(w_AG * log_p_AG).sum(1) / positive_AG.sum(1).clamp(min=1)
    return mean_over_anchors(terms_A, person_G, present_G, count_all)
