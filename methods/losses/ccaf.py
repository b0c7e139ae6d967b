"""The losses of CCAF: Li et al., CLIP-Driven Cloth-Agnostic Feature Learning for Cloth-Changing Person Re-Identification,
ACM Multimedia 2024.

Letters: A anchors, G gallery of the global batch, B samples, C classes, D channels. s(·,·), which the paper leaves open, is
`similarities`. Eqs. 1 and 8 are `identity_loss`, Eq. 2 is `triplet_euclidean_loss`.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.losses.cosine import cosines
from methods.losses.identity import identity_loss

Disentanglement = Literal["away", "orthogonal", "printed"]


def similarities(features_AD: Tensor, others_GD: Tensor, scale: Tensor | float | None) -> Tensor:
    """s(·,·) of every feature with every other: [A, G], in float32 at least, also under autocast.

    scale: factor on the cosine, which CLIP learns. None: the dot product of features as they are, as CLIP-ReID's code.
    """
    if scale is not None:
        return scale * cosines(features_AD, others_GD)
    dtype = torch.promote_types(features_AD.dtype, torch.float32)
    with torch.autocast(features_AD.device.type, enabled=False):
        return features_AD.to(dtype) @ others_GD.to(dtype).T


def paired_contrast_loss(logits_AG: Tensor, first: int = 0) -> Tensor:
    """L_i2t of Eqs. 5 and 12 for images against texts, L_t2i of Eqs. 6 and 13 for texts against images. Scalar, mean over A.

    logits_AG: s of anchors with the other side's samples, one for each sample of the global batch: a class's text stands as
    often as the batch has its images. Anchor i belongs to column `first` + i.

    CLIP-ReID counts all of a class as positives. Texts are functions of the class, so that is the same number.
    """
    own_A = torch.arange(first, first + logits_AG.shape[0], device=logits_AG.device)
    return F.cross_entropy(logits_AG, own_A)


def text_alignment_loss(
    features_BD: Tensor, texts_CD: Tensor, labels_B: Tensor, scale: Tensor | float | None, label_smoothing: float = 0.0
) -> Tensor:
    """L_i2tce of Eqs. 7, 9 and 14: classification with the texts of all classes as weights. Scalar, mean over B.

    labels_B: int64, rows of texts_CD. label_smoothing: 0 as printed; CLIP-ReID's code has 0.1.
    """
    return identity_loss(similarities(features_BD, texts_CD, scale), labels_B, label_smoothing)


def centre_consistency_loss(features_GD: Tensor, shielding_GD: Tensor, person_G: Tensor) -> Tensor:
    """L_con, Eq. 10: mean over persons of ‖c − c^s‖², the squared distance of their two mean features. Scalar.

    The rows are those of the global batch, which workers gather: a person may be on several of them. person_G: int64; each
    person counts once, whatever the number of their images.
    """
    dtype = torch.promote_types(features_GD.dtype, torch.float32)
    persons, row_G = person_G.unique(return_inverse=True)
    difference_GD = features_GD.to(dtype) - shielding_GD.to(dtype)  # the difference of means is the mean of differences
    sums_PD = difference_GD.new_zeros(persons.shape[0], difference_GD.shape[1]).index_add(0, row_G, difference_GD)
    counts_P = row_G.bincount(minlength=persons.shape[0]).to(dtype)
    return (sums_PD / counts_P[:, None]).square().sum(1).mean()


def disentanglement_loss(features_BD: Tensor, clothes_BD: Tensor, reading: Disentanglement) -> Tensor:
    """L_dis, Eq. 15: mean over B of the cosine between a feature f and the clothes feature f^c taken from it. Scalar.

    reading: "printed" has the minus sign of Eq. 15, which pulls them together. "away" follows the text around it ("dissimilar")
    and pushes them apart, down to cos = −1. There f^c = −f still holds the clothes, so "orthogonal" minimises cos².
    """
    dtype = torch.promote_types(features_BD.dtype, torch.float32)
    cosine_B = (F.normalize(features_BD.to(dtype), dim=1) * F.normalize(clothes_BD.to(dtype), dim=1)).sum(1)
    if reading == "orthogonal":
        return cosine_B.square().mean()
    return cosine_B.mean() if reading == "away" else -cosine_B.mean()
