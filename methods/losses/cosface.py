"""CosFace: Wang et al., CosFace, CVPR 2018."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def cosface_loss(cosines_BP: Tensor, person_B: Tensor, scale: float, margin: float) -> Tensor:
    """Cross-entropy of scaled cosines, the own class's less `margin`: scalar, mean over B (Eq. 4).

    cosines_BP: float, in -1..1. person_B: int64. With margin 0 it is a scaled-cosine cross-entropy.
    """
    own_BP = F.one_hot(person_B, cosines_BP.shape[1]).to(cosines_BP.dtype)
    return F.cross_entropy(scale * (cosines_BP - margin * own_BP), person_B)
