"""Cosine similarities, the logits of everything that compares directions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def cosines(features_AD: Tensor, proxies_GD: Tensor) -> Tensor:
    """Cosine of every feature with every proxy: [A, G], in float32 at least, also under autocast.

    A cosine of three digits (bfloat16) times 16 or 64 would be worthless as a logit.
    """
    dtype = torch.promote_types(features_AD.dtype, torch.float32)
    with torch.autocast(features_AD.device.type, enabled=False):
        return F.normalize(features_AD.to(dtype), dim=1) @ F.normalize(proxies_GD.to(dtype), dim=1).T
