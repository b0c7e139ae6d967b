"""MGN, the multiple granularity network: Wang et al., Learning Discriminative Features with Multiple Granularities for
Person Re-Identification, ACM Multimedia 2018."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from itertools import chain
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.backbones.body import Embeddings, Reduction, Triplet
from methods.backbones.pooling import maximum, stripes
from methods.backbones.resnet import ResNet
from methods.backbones.resnet_body import ResNetBody
from methods.backbones.weights import load_weights

PARTS = (1, 2, 3)  # stripes of the branches Global, Part-2, Part-3
STRIDES = (2, 1, 1)  # of their last stage (Sec. 3.1, Table 1): only Global keeps the last down-sampling
REDUCED = 256


class MGN(ResNetBody):
    """Three branches, each a ResNet from its second block of stage 3 (res_conv4_2) on; what comes before is shared.

    Sec. 3.1: each branch's maps are pooled by their maximum, as a whole and, in Part-2 and Part-3, by two and three
    horizontal stripes. A 1 × 1 convolution with batch norm and ReLU reduces each of the eight vectors to 256 numbers, and
    these in a row are the descriptor (2,048 numbers). Nothing is shared by branches or stripes. Sec. 3.2: identities are
    learnt from the three whole vectors before they are reduced (2,048 numbers each) and from the five stripes after; the
    batch-hard triplet loss, with a margin of 1.2, is on the three whole ones after they are reduced.

    The maps are those of the three branches, one upon another. Global's, of half the height and width, are repeated to the
    size of the others: their maximum stays what it was.
    """

    triplet: ClassVar[Triplet] = Triplet(weight=1.0, margin=1.2, distance="euclidean")

    def __init__(self, backbone: str, *, width: float = 1.0) -> None:
        super().__init__(backbone, width)
        networks = [ResNet(backbone, width=width, last_stride=stride) for stride in STRIDES]
        self.trunk = trunk_of(networks[0])
        self.branches = nn.ModuleList(branch_of(network) for network in networks)
        each, reduced = networks[0].channels, round(REDUCED * width)
        self.channels = len(PARTS) * each
        num_stripes = sum(parts for parts in PARTS if parts > 1)
        self.reductions = nn.ModuleList(Reduction(each, reduced) for _ in range(len(PARTS) + num_stripes))
        self.widths = (each,) * len(PARTS) + (reduced,) * num_stripes
        self.dim = len(self.reductions) * reduced

    def maps(self, images: Tensor) -> Tensor:
        shared = self.trunk(images)
        found = [branch(shared) for branch in self.branches]
        size = found[-1].shape[2:]
        return torch.cat([maps if maps.shape[2:] == size else F.interpolate(maps, size) for maps in found], 1)

    def pooled(self, maps: Tensor) -> Tensor:
        """[B, 8, C]: the three whole ones, then the stripes of Part-2, then those of Part-3."""
        branches = maps.chunk(len(PARTS), 1)
        divided = [stripes(branch, parts) for branch, parts in zip(branches, PARTS, strict=True) if parts > 1]
        vectors = [maximum(one) for one in (*branches, *chain(*divided))]
        return torch.stack(vectors, 1).to(next(self.reductions.parameters()).dtype)

    def heads(self, pooled: Tensor) -> Embeddings:
        vectors = pooled.unbind(1)
        reduced = tuple(reduce(vector) for reduce, vector in zip(self.reductions, vectors, strict=True))
        whole = len(PARTS)
        features = torch.cat(reduced, 1)
        return Embeddings(features, features, (*vectors[:whole], *reduced[whole:]), reduced[:whole])

    def load(self, state: Mapping[str, Any]) -> None:
        """All branches start from the same weights (Sec. 4.1)."""
        network = ResNet(self.resnet, width=self.width)
        load_weights(network, state)
        for part, given in ((self.trunk, trunk_of(network)), *((one, branch_of(network)) for one in self.branches)):
            part.load_state_dict(given.state_dict())


def trunk_of(network: ResNet) -> nn.Sequential:
    """A ResNet up to the first block of its third stage (res_conv4_1), named as in it."""
    first = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2")
    return nn.Sequential(
        OrderedDict([*((name, getattr(network, name)) for name in first), ("layer3", network.layer3[:1])])
    )


def branch_of(network: ResNet) -> nn.Sequential:
    """The rest of it, named as in it."""
    return nn.Sequential(OrderedDict([("layer3", network.layer3[1:]), ("layer4", network.layer4)]))
