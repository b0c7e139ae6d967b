"""CLIP's image tower as a body: the class token of a vision transformer is the descriptor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.backbones.body import Body, Embeddings
from methods.backbones.clip.image_tower import ImageTower
from methods.backbones.clip.necks import Necks
from methods.backbones.clip.sizes import TOWERS
from methods.backbones.clip.state import load_image_tower

CLIPFeatures = Literal["projected", "both"]


class CLIPViT(Body):
    """CLIP's ViT-B/16 or ViT-L/14, and a batch-norm neck behind each of its features.

    features: "projected", the class token in the space that images and texts share (512 numbers for a ViT-B/16); or "both",
    as CLIP-ReID: the class token behind the last block, then the projected one (768 ++ 512), each with a neck and a
    classifier of its own. Before the necks a pair loss then also compares the class token before the last block.

    Its maps are all tokens before the last block, [B, channels, 1 + h·w, 1]: the class token, then the patches row by row.
    No place has the class token's share of them: it is in no heat map, and `weighed` leaves it as it is.

    patch_stride: see `ImageTower`. width: factor on channels, heads and `dim`. Necks start as torch's batch norms, as in
    CLIP-ReID's code.
    """

    is_per_image = True

    def __init__(
        self,
        *,
        tower: str = "vit-b16",
        width: float = 1.0,
        patch_stride: int | None = None,
        clip_features: CLIPFeatures = "projected",
        neck_bias: bool = True,
        triplet_before_neck: bool = False,
    ) -> None:
        super().__init__()
        self.size = size = TOWERS[tower].scaled(width)
        self.tower = ImageTower(size, patch_stride)
        self.channels = size.image.width
        self.has_both = clip_features == "both"
        self.widths = (self.channels, size.dim) if self.has_both else (size.dim,)
        self.dim = sum(self.widths)
        self.necks = Necks(self.widths, neck_bias)
        self.triplet_before_neck = triplet_before_neck

    def maps(self, images: Tensor) -> Tensor:
        return self.tower.before_last(images).mT[..., None]

    def pooled(self, maps: Tensor) -> Tensor:
        """[B, dim], and with "both" the class token before the last block in front of it: [B, channels + dim]."""
        before = maps[..., 0].mT
        after, projected = self.tower.last(before)
        found = (before, after, projected) if self.has_both else (projected,)
        return torch.cat([tokens[:, 0].to(self.tower.proj.dtype) for tokens in found], 1)

    def heads(self, pooled: Tensor) -> Embeddings:
        tokens = pooled.split((self.channels, *self.widths) if self.has_both else self.widths, 1)
        raw = tokens[-len(self.widths) :]
        classified = self.necks(raw)
        compared = tokens if self.triplet_before_neck else classified
        return Embeddings(torch.cat(classified, 1), torch.cat(raw, 1), classified, compared)

    def over_places(self, maps: Tensor, size: Sequence[int]) -> Tensor:
        return maps[:, :, 1:, 0].unflatten(2, self.tower.grid(*size))

    def weighed(self, maps: Tensor, weights: Tensor) -> Tensor:
        return F.pad(weights.flatten(2)[..., None], (0, 0, 1, 0), value=1.0) * maps

    def weights_address(self) -> str | None:
        return self.size.weights

    def load(self, state: Mapping[str, Any]) -> None:
        """CLIP's weights, in one of the layouts of `methods.backbones.clip.state`."""
        load_image_tower(self.tower, state)
