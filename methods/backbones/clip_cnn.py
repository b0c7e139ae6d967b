"""A small convolutional network in the place of CLIP's image tower, for machines without a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from methods.backbones.body import Body, Embeddings
from methods.backbones.clip.necks import Necks
from methods.backbones.clip.sizes import TINY
from methods.backbones.clip_vit import CLIPFeatures
from methods.backbones.weights import load_weights
from methods.method import MethodError

CHANNELS = (24, 48, 96, 96)
STRIPES = 6
VISUAL = "visual."
OF_TOWER = ("convolutions.", "projection.")


class CLIPCNN(Body):
    """Four convolutions of stride 2, the mean of each of six stripes in a row, a linear projection, batch-norm necks.

    `redress clip train-tiny` trains it with a text tower: rendered people have no published weights. features: as those of
    `CLIPViT`: "projected", or "both" (stripes 576 ++ 96). Projection and stripes take the places of the tokens that CLIP's
    image tower gives. width: factor on channels.
    """

    def __init__(
        self,
        *,
        width: float = 1.0,
        clip_features: CLIPFeatures = "projected",
        neck_bias: bool = True,
        triplet_before_neck: bool = False,
    ) -> None:
        super().__init__()
        channels = [max(1, round(width * number)) for number in CHANNELS]
        self.convolutions = nn.Sequential()
        for number, (before, after) in enumerate(zip([3, *channels], channels, strict=False)):
            self.convolutions.append(nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False))
            self.convolutions.append(nn.BatchNorm2d(after))
            self.convolutions.append(nn.ReLU(inplace=number > 0))
        self.channels = channels[-1]
        self.stripes = STRIPES * self.channels
        self.size = TINY
        self.projection = nn.Linear(self.stripes, TINY.dim, bias=False)
        self.has_both = clip_features == "both"
        self.widths = (self.stripes, TINY.dim) if self.has_both else (TINY.dim,)
        self.dim = sum(self.widths)
        self.necks = Necks(self.widths, neck_bias)
        self.triplet_before_neck = triplet_before_neck

    def maps(self, images: Tensor) -> Tensor:
        return self.convolutions(images)

    def striped(self, maps: Tensor) -> Tensor:
        """maps [B, channels, h, w] → the means of the stripes in a row [B, 6 · channels]."""
        return nn.functional.adaptive_avg_pool2d(maps, (STRIPES, 1)).flatten(1)

    def pooled(self, maps: Tensor) -> Tensor:
        """[B, dim]: the projected stripes, and with "both" the stripes in front of them."""
        striped = self.striped(maps).to(self.projection.weight.dtype)
        projected = self.projection(striped).to(striped.dtype)
        return torch.cat([striped, projected], 1) if self.has_both else projected

    def heads(self, pooled: Tensor) -> Embeddings:
        raw = pooled.split(self.widths, 1)
        classified = self.necks(raw)
        compared = raw if self.triplet_before_neck else classified
        return Embeddings(torch.cat(classified, 1), pooled, classified, compared)

    def load(self, state: Mapping[str, Any]) -> None:
        """What `redress clip train-tiny` wrote. Raises: MethodError naming the keys that are missing or do not fit."""
        own = {key.removeprefix(VISUAL): value for key, value in state.items() if key.startswith(VISUAL)}
        if not any(key.startswith(OF_TOWER) for key in own):
            raise MethodError(
                "these weights are not of the small image tower: no key begins with visual.convolutions. Make some with "
                "`redress clip train-tiny`, or set body to the network that the weights are of"
            )
        necks = {key: value for key, value in self.state_dict().items() if key.startswith("necks.")}
        load_weights(self, own | necks)

    def tower_state(self) -> dict[str, Tensor]:
        """The weights that `load` takes."""
        return {f"{VISUAL}{key}": value for key, value in self.state_dict().items() if key.startswith(OF_TOWER)}
