"""Grad-CAM (Selvaraju et al., ICCV 2017) for descriptors: the places of an image that make it similar to another one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.method import Method


def gradcam(method: Method, inputs: Sequence[Tensor], partner: Tensor) -> Tensor:
    """Maps [B, h, w] of the places that make each image similar to its partner: at least 0, over the places of `method.maps`.

    inputs: what `method.embed` takes, of B images. partner: int64 [B], the image that each is compared with; an image
    compared with itself shows what its descriptor is made of. The method must be in eval mode; its gradients stay as they
    are.

    Sec. 3: the gradient of a score with respect to each channel of the last maps, averaged over places (Eq. 1), weighs
    the channels, and of their sum what is positive stays (Eq. 2). The score may be anything that is differentiable. People
    at test time are no classes of the network, so here it is the similarity by which a gallery is ranked: s = f·g / (|f||g|)
    of the image's descriptor f and its partner's g, with g and the length |f| held fixed. Were the length not fixed, the
    gradient would be at right angles to f, and an image compared with itself would have none. As it is, s is linear in f,
    and where f is an average of the maps, Eq. 2 shares out the similarity itself over the places (Stylianou et al.,
    Visualizing Deep Similarity Networks, WACV 2019). Of tokens, the class token is among what Eq. 1 averages over, and has
    no place in the map.

    Raises: ValueError where the method is in training mode, in which an image's descriptor depends on the others.
    """
    if method.training:
        raise ValueError("Grad-CAM needs the method as it is at test time: call eval() first")
    with torch.no_grad():
        maps = method.maps(*inputs)
    with torch.enable_grad():
        features = method.describe(maps.requires_grad_())  # [B, D]
        fixed = features.detach()
        similarity = (features * F.normalize(fixed, dim=1)[partner]).sum(1) / fixed.norm(dim=1)
        (gradient,) = torch.autograd.grad(similarity.sum(), maps)
    weights = gradient.mean((2, 3), keepdim=True)  # Eq. 1
    return method.heat((weights * maps.detach()).sum(1).relu(), inputs[0])  # Eq. 2
