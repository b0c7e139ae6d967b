"""The memory bank that can stand in for CAL's clothes classifier: one averaged feature per clothes class.

It is in the published code (Simple-CCReID), not in the paper. Letters: B samples, C clothes classes, D channels.
"""

from __future__ import annotations

import torch
from torch import Tensor


def update_memory(
    bank_CD: Tensor, initialised_C: Tensor, features_BD: Tensor, clothes_B: Tensor, momentum: float | Tensor
) -> tuple[Tensor, Tensor]:
    """The bank and its initialised classes after a batch; the arguments are left unchanged.

    A class in the batch takes the mean of its samples. Once every class is initialised, `momentum` of the old entry is
    kept. The published code averages too, but keys its dictionary by tensors, which are never equal, so that the last
    sample of a class wins.

    bank_CD: float, one feature per class. initialised_C: bool, True where the bank has a feature. features_BD: float, of the
    whole global batch. clothes_B: int64. Returns new tensors, in the dtypes of bank_CD and initialised_C.
    """
    features_BD = features_BD.detach().to(bank_CD.dtype)
    counts_C1 = torch.zeros_like(bank_CD[:, :1]).index_add(0, clothes_B, torch.ones_like(features_BD[:, :1]))
    means_CD = torch.zeros_like(bank_CD).index_add(0, clothes_B, features_BD) / counts_C1.clamp(min=1)
    kept = momentum * initialised_C.all().to(bank_CD.dtype)
    present_C1 = counts_C1 > 0
    return torch.where(present_C1, kept * bank_CD + (1 - kept) * means_CD, bank_CD), initialised_C | present_C1[:, 0]
