"""The losses of CAL: Gu et al., Clothes-Changing Person Re-identification with RGB Modality Only, CVPR 2022.

Letters: B samples, C clothes classes, D channels. Logits are cosines over τ.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def clothes_classification_loss(logits_BC: Tensor, clothes_B: Tensor) -> Tensor:
    """L_C, Eq. 2: scalar, mean over B as in the published code (the paper sums).

    logits_BC: cosine similarity to each clothes class, over τ (float). clothes_B: each sample's clothes (int64).
    """
    return F.cross_entropy(logits_BC, clothes_B)


def clothes_adversarial_loss(
    logits_BC: Tensor, clothes_B: Tensor, own_BC: Tensor, epsilon: float, initialised_C: Tensor | None = None
) -> Tensor:
    """L_CA, Eqs. 3 and 5: scalar, mean over B as in the published code (the paper sums).

    logits_BC: cosine similarity to each clothes class, over τ (float). clothes_B: each sample's clothes (int64).
    own_BC: True where the clothes belong to the sample's person, the paper's S⁺ (bool).
    initialised_C: False for classes that S⁺ and S⁻ both leave out (bool): those without a proxy in a memory bank.
    Finite for any finite logits. ε = 1 is Eq. 4.
    """
    absent_BC = own_BC
    if initialised_C is not None:
        own_BC, absent_BC = own_BC & initialised_C, own_BC | ~initialised_C
    others_B1 = logits_BC.masked_fill(absent_BC, -torch.inf).logsumexp(1, keepdim=True)
    log_p_BC = F.logsigmoid(logits_BC - others_B1)  # Eq. 3, divided through by its numerator
    own_BC = own_BC.to(logits_BC.dtype)  # bool × float would be float32 whatever the logits are
    q_BC = epsilon * own_BC / own_BC.sum(1, keepdim=True)  # Eq. 5: ε/K on S⁺ …
    q_BC = q_BC.scatter_add(1, clothes_B[:, None], torch.full_like(q_BC[:, :1], 1 - epsilon))  # … 1 − ε more on y^C
    return -(q_BC * log_p_BC).sum(1).mean()
