"""Circle loss over classes: Sun et al., Circle Loss, CVPR 2020."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def circle_loss(cosines_BP: Tensor, person_B: Tensor, scale: float, margin: float) -> Tensor:
    """Cross-entropy of self-paced cosines over P classes: scalar, mean over B. cosines_BP: float. person_B: int64."""
    is_own_BP = person_B[:, None] == torch.arange(cosines_BP.shape[1], device=person_B.device)
    return F.cross_entropy(circle_logits(cosines_BP, is_own_BP, scale, margin), person_B)


def circle_logits(cosines_BP: Tensor, is_own_BP: Tensor, scale: float, margin: float) -> Tensor:
    """The logits of `circle_loss`: [B, P]. is_own_BP: bool, the sample's own class."""
    own_BP, others_BP = circle_scores(cosines_BP, margin)
    return scale * torch.where(is_own_BP, own_BP, others_BP)


def circle_scores(cosines: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    """(score as a positive, score as a negative), Eqs. 5-8: α⁺(s − 1 + m) and α⁻(s − m); no gradient in α."""
    similarity = cosines.detach()
    own = F.relu(1 + margin - similarity) * (cosines - (1 - margin))
    others = F.relu(similarity + margin) * (cosines - margin)
    return own, others
