"""ArcFace: Deng et al., ArcFace, CVPR 2019."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def arcface_loss(cosines_BP: Tensor, person_B: Tensor, scale: float, margin: float) -> Tensor:
    """Cross-entropy of scaled cosines, `margin` (radians) added to the own angle t: scalar, mean over B (Eq. 3).

    Where t + m would pass π, cos t − m·sin(π − m) stands in, as in published code, so that the score keeps falling.
    cosines_BP: float, in -1..1. person_B: int64. The gradient is finite at cosines of ±1, too.
    """
    is_own_BP = person_B[:, None] == torch.arange(cosines_BP.shape[1], device=person_B.device)
    return F.cross_entropy(arcface_logits(cosines_BP, is_own_BP, scale, margin), person_B)


def arcface_logits(cosines_BP: Tensor, is_own_BP: Tensor, scale: float, margin: float) -> Tensor:
    """The logits of `arcface_loss`: [B, P]. is_own_BP: bool, the sample's own class."""
    sines_BP = (1 - cosines_BP**2).clamp(min=1e-12).rsqrt().reciprocal()  # numerics.py says why not by sqrt
    shifted_BP = cosines_BP * math.cos(margin) - sines_BP * math.sin(margin)  # cos(t + m)
    past_BP = cosines_BP - margin * math.sin(math.pi - margin)
    shifted_BP = torch.where(cosines_BP > math.cos(math.pi - margin), shifted_BP, past_BP)
    return scale * torch.where(is_own_BP, shifted_BP, cosines_BP)
