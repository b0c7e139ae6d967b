"""PCB, the part-based convolutional baseline, with refined part pooling: Sun et al., Beyond Part Models, ECCV 2018."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.backbones.body import Embeddings, Phase, Reduction, held_fixed
from methods.backbones.pooling import average, bounds, stripes
from methods.backbones.resnet import ResNet
from methods.backbones.resnet_body import ResNetBody
from methods.backbones.weights import load_weights

PCBDescriptor = Literal["normalised-G", "normalised-H", "G", "H"]
PARTS = 6  # p, Sec. 3.1: of 24 rows
REDUCED = 256  # Sec. 3.1


class PCB(ResNetBody):
    """One embedding for each of six horizontal stripes of a ResNet's maps (24 × 8 of an image of 384 × 128).

    Sec. 3.1: each stripe's average is a vector g, a 1 × 1 convolution reduces it to h with 256 numbers, and a classifier of
    its own for each part learns identities from h, on the sum of their cross-entropies. The published code has that
    convolution once for all parts, with batch norm and ReLU behind it; so it is here. Its dropout, of which the paper says
    nothing, is not. descriptor: all g in a row (12,288 numbers), slightly more accurate (Sec. 3.1), or all h
    (1,536). "normalised-G", "normalised-H": each part has length 1, as where published code ranks (PCB's and pixel
    sampling's) and compares triplets (pixel sampling's); "G", "H": as they are, so that long parts count more.

    Refined part pooling (Sec. 3.3) replaces the stripes by a classifier of the places of the maps: its softmax over the
    parts (Eq. 4) is a place's weight in each part's average. It is trained by induction (Algorithm 1): PCB first; from
    `refine_from_epoch` on the part classifier alone, with everything else held fixed; from `finetune_from_epoch` on
    everything. Batch norms keep updating their statistics while they are held fixed. As in the code, the average is
    over all places times the number of parts, which is a stripe's own average where the classifier says just the stripes.
    The code gives the part classifier centred means of eight channels each, with a bias; here it has the vectors f of
    Eq. 4. At test time the pooling is that of the last training step.
    """

    is_refined: Tensor  # bool [], in the state: what is pooled at test time depends on it

    def __init__(
        self,
        backbone: str,
        *,
        width: float = 1.0,
        last_stride: int = 1,
        descriptor: PCBDescriptor = "normalised-G",
        refine_from_epoch: int | None = None,
        finetune_from_epoch: int | None = None,
    ) -> None:
        super().__init__(backbone, width)
        self.backbone = ResNet(backbone, width=width, last_stride=last_stride)
        self.channels = self.backbone.channels
        reduced = round(REDUCED * width)
        self.reduction = Reduction(self.channels, reduced)
        self.widths = (reduced,) * PARTS
        self.descriptor = descriptor
        self.dim = PARTS * (self.channels if descriptor.endswith("G") else reduced)
        self.refine_from_epoch, self.finetune_from_epoch = refine_from_epoch, finetune_from_epoch
        if refine_from_epoch is not None:
            self.part_classifier = nn.Conv2d(self.channels, PARTS, 1, bias=False)
            nn.init.kaiming_normal_(self.part_classifier.weight, mode="fan_out")
            self.register_buffer("is_refined", torch.tensor(False))

    def phases(self) -> tuple[Phase, ...]:
        """Algorithm 1."""
        if self.refine_from_epoch is None or self.finetune_from_epoch is None:
            return ()
        return (
            Phase("stripes", 0),
            Phase("part classifier", self.refine_from_epoch, is_alone=True),
            Phase("refined parts", self.finetune_from_epoch),
        )

    @property
    def refines(self) -> bool:
        """True from `refine_from_epoch` on."""
        return self.refine_from_epoch is not None and self.epoch >= self.refine_from_epoch

    @property
    def induces(self) -> bool:
        """True in training while the part classifier trains alone."""
        return self.training and self.refines and self.epoch < (self.finetune_from_epoch or 0)

    def maps(self, images: Tensor) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.induces):
            return self.backbone(images)

    def pooled(self, maps: Tensor) -> Tensor:
        """[B, parts, C]: g of each part."""
        dtype = self.reduction.norm.weight.dtype
        if self.refine_from_epoch is None or (self.training and not self.refines):
            return torch.stack([average(stripe) for stripe in stripes(maps, PARTS)], 1).to(dtype)
        weights = self.part_classifier(maps).softmax(1)  # Eq. 4: [B, parts, h, w]
        if self.training:
            self.is_refined.fill_(True)
        else:
            weights = torch.where(self.is_refined, weights, stripe_weights(maps))
        return (weights.flatten(2) @ maps.flatten(2).mT).to(dtype) * (PARTS / maps[0, 0].numel())

    def heads(self, pooled: Tensor) -> Embeddings:
        reduced = held_fixed(self.reduction, pooled) if self.induces else self.reduction(pooled)
        parts = pooled if self.descriptor.endswith("G") else reduced
        features = (F.normalize(parts, dim=2) if self.descriptor.startswith("normalised") else parts).flatten(1)
        return Embeddings(features, features, reduced.unbind(1), (features,), trains_classifiers=not self.induces)

    def load(self, state: Mapping[str, Any]) -> None:
        load_weights(self.backbone, state)


def stripe_weights(maps: Tensor) -> Tensor:
    """The stripes as weights of places, [parts, h, w], by which all places times PARTS average to the stripes' averages."""
    height, width = maps.shape[2:]
    weights = maps.new_zeros(PARTS, height, width)
    for part, (top, bottom) in enumerate(bounds(height, PARTS)):
        weights[part, top:bottom] = height / (bottom - top) / PARTS
    return weights
