"""The memory bank that can stand in for CAL's clothes classifier: one averaged feature per clothes class.

It is in the published code (Simple-CCReID), not in the paper. Letters: B samples, C clothes classes, D channels.
"""

from __future__ import annotations

import torch
from torch import Tensor


def remember(
    bank_CD: Tensor, seen_C: Tensor, features_BD: Tensor, clothes_B: Tensor, momentum: float
) -> tuple[Tensor, Tensor]:
    """The bank and the record of seen classes after a batch; the arguments stay as they are.

    A class in the batch takes the mean of its samples; once every class has been seen, `momentum` of the old entry is
    kept. The published code means to average too, but its dictionary is keyed by tensors, never equal as keys, so there
    the last sample of a class wins.

    bank_CD: float. seen_C: bool. features_BD: float, of the whole global batch. clothes_B: int64.
    """
    features_BD = features_BD.detach().to(bank_CD.dtype)
    counts_C1 = torch.zeros_like(bank_CD[:, :1]).index_add(0, clothes_B, torch.ones_like(features_BD[:, :1]))
    means_CD = torch.zeros_like(bank_CD).index_add(0, clothes_B, features_BD) / counts_C1.clamp(min=1)
    kept = momentum * seen_C.all().to(bank_CD.dtype)
    present_C1 = counts_C1 > 0
    return torch.where(present_C1, kept * bank_CD + (1 - kept) * means_CD, bank_CD), seen_C | present_C1[:, 0]
