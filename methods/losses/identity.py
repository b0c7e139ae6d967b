"""Cross-entropy over identities, plain or with smoothed labels."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def identity_loss(logits_BP: Tensor, person_B: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """L_ID: scalar, mean over B. The target is (1 − ε) on the person plus ε/P on every one of the P persons.

    logits_BP: float. person_B: int64. label_smoothing: the ε of Szegedy et al., CVPR 2016, Sec. 7.
    """
    return F.cross_entropy(logits_BP, person_B, label_smoothing=label_smoothing)
