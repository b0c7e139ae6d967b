"""Circle loss over classes: Sun et al., Circle Loss, CVPR 2020."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def circle_loss(cosines_BP: Tensor, person_B: Tensor, scale: float, margin: float) -> Tensor:
    """Cross-entropy of self-paced cosines over P classes: scalar, mean over B. cosines_BP: float. person_B: int64."""
    own_BP, others_BP = circle_scores(cosines_BP, margin)
    is_own_BP = F.one_hot(person_B, cosines_BP.shape[1]).bool()
    return F.cross_entropy(scale * torch.where(is_own_BP, own_BP, others_BP), person_B)


def circle_scores(cosines: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    """(score as a positive, score as a negative), Eqs. 5-8: α⁺(s − 1 + m) and α⁻(s − m); no gradient in α."""
    similarity = cosines.detach()
    own = F.relu(1 + margin - similarity) * (cosines - (1 - margin))
    others = F.relu(similarity + margin) * (cosines - margin)
    return own, others
