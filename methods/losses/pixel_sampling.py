"""The feature consistency of pixel sampling: Shu et al., Semantic-guided Pixel Sampling, IEEE SPL 2021, Sec. II-B.

Letters: B images, D channels. The rest of Eq. 6 is `identity_loss` (Eq. 4) and `triplet_euclidean_loss` (Eq. 5).
"""

from __future__ import annotations

import torch
from torch import Tensor


def feature_consistency_loss(features_BD: Tensor, changed_BD: Tensor) -> Tensor:
    """L_mse, Eq. 3: mean over B of the L2 distance between an image's feature and the same in other clothes. Scalar.

    A distance of 0 has the gradient 0.
    """
    return torch.linalg.vector_norm(features_BD - changed_BD, dim=1).mean()


def saturating_consistency_loss(features_BD: Tensor, changed_BD: Tensor) -> Tensor:
    """The published code's replacement of Eq. 3: mean over B of sigmoid(‖f − f′‖²), from 0.5 to 1. Scalar.

    Its gradient vanishes where the features are more than a little apart.
    """
    return (features_BD - changed_BD).square().sum(1).sigmoid().mean()
