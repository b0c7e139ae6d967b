"""CosFace: Wang et al., CosFace, CVPR 2018."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def cosface_loss(cosines_BP: Tensor, person_B: Tensor, scale: float, margin: float) -> Tensor:
    """Cross-entropy of scaled cosines, the own class's less `margin`: scalar, mean over B (Eq. 4).

    cosines_BP: float, in -1..1. person_B: int64. With margin 0 it is a scaled-cosine cross-entropy.
    """
    is_own_BP = person_B[:, None] == torch.arange(cosines_BP.shape[1], device=person_B.device)
    return F.cross_entropy(cosface_logits(cosines_BP, is_own_BP, scale, margin), person_B)


def cosface_logits(cosines_BP: Tensor, is_own_BP: Tensor, scale: float, margin: float) -> Tensor:
    """The logits of `cosface_loss`: [B, P]. is_own_BP: bool, the sample's own class."""
    return scale * (cosines_BP - margin * is_own_BP.to(cosines_BP.dtype))
