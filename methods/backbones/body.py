"""The base of all bodies: the networks between an image and its descriptor, and the embeddings they offer to losses.

Some bodies have one embedding, others one for each part of a person. Methods use nothing else of a body than what is
defined here, so any method takes any body.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor, nn
from torch.func import functional_call


@dataclass(frozen=True)
class Embeddings:
    """The embeddings of B images.

    features: [B, dim], the descriptor. before_neck: [B, dim], the descriptor before its batch-norm neck; the features where
    the body has no neck. classified: the embeddings that identities are learned from, each [B, width] with a classifier of
    its own. compared: those that a pair loss compares, each [B, width]. trains_classifiers: False where the classifiers are
    held fixed.
    """

    features: Tensor
    before_neck: Tensor
    classified: tuple[Tensor, ...]
    compared: tuple[Tensor, ...]
    trains_classifiers: bool = True


@dataclass(frozen=True)
class Triplet:
    """The triplet loss of a body's paper; weight 0 where the paper has none."""

    weight: float = 0.0
    margin: float = 0.3
    distance: Literal["cosine", "euclidean"] = "cosine"


@dataclass(frozen=True)
class Phase:
    """A phase of a body's training, from `first_epoch` until the next one. is_alone: everything behind the body is held
    fixed."""

    name: str
    first_epoch: int
    is_alone: bool = False


class Body(nn.Module, ABC):
    """images [B, 3, H, W], or clips [B, T, 3, H, W] of T frames → descriptor [B, dim].

    The frames of a clip pass the network one by one, are pooled over space, then averaged over time: CAL's C2D.

    dim: width of the descriptor. channels: of the maps. widths: of the embeddings that have a classifier.
    epoch: the current epoch; the method sets it before the epoch's first update.
    is_per_image: whether `maps` and `pooled` compute each image by itself in training, as without batch norm.

    Maps are a grid of places over the image, [B, channels, h, w]. A body whose maps are not, such as tokens, overrides
    `over_places` and `weighed`, and nothing else needs to know.
    """

    dim: int
    channels: int
    widths: tuple[int, ...]
    triplet: ClassVar[Triplet] = Triplet()
    is_per_image: ClassVar[bool] = False
    epoch: int = 0

    @abstractmethod
    def maps(self, images: Tensor) -> Tensor:
        """The maps that are pooled: images [B, 3, H, W] → maps [B, channels, h, w], or as the body says."""

    @abstractmethod
    def pooled(self, maps: Tensor) -> Tensor:
        """maps [B, channels, h, w] → pooled over space [B, …], in the dtype of the weights."""

    @abstractmethod
    def heads(self, pooled: Tensor) -> Embeddings:
        """Everything behind the pooling: pooled [B, …] → embeddings."""

    @abstractmethod
    def load(self, state: Mapping[str, Any]) -> None:
        """Load published weights of the network that the body is made of, under their published names.

        Raises: MethodError naming the keys that are missing or do not fit.
        """

    def weights_address(self) -> str | None:
        """Address of published weights that fit the body; None where there are none."""
        return None

    def over_places(self, maps: Tensor, size: Sequence[int]) -> Tensor:
        """What the maps of images of `size` (H, W) hold about each place: maps → [B, channels, h, w]."""
        return maps

    def weighed(self, maps: Tensor, weights: Tensor) -> Tensor:
        """The maps with each place multiplied by its weight [B, 1, h, w], of the size that `over_places` gives."""
        return weights * maps

    def heat(self, cam: Tensor, size: Sequence[int]) -> Tensor:
        """One number for each element of the maps, without their channels → [B, h, w], over the images of `size` (H, W)."""
        return self.over_places(cam[:, None], size)[:, 0]

    def phases(self) -> tuple[Phase, ...]:
        """The phases in the order of their epochs, the first at epoch 0; none where the body trains alike throughout."""
        return ()

    def embeddings(self, images: Tensor) -> Embeddings:
        """images [B, 3, H, W], or clips [B, T, 3, H, W] → embeddings of B images or clips."""
        if images.ndim == 4:
            return self.embeddings_of(self.maps(images))
        pooled = self.pooled(self.maps(images.flatten(0, 1)))
        return self.heads(pooled.unflatten(0, images.shape[:2]).mean(1))

    def embeddings_of(self, maps: Tensor) -> Embeddings:
        """maps of images [B, channels, h, w] → embeddings."""
        return self.heads(self.pooled(maps))

    def forward(self, images: Tensor) -> Tensor:
        return self.embeddings(images).features

    def describe(self, maps: Tensor) -> Tensor:
        """maps of images [B, channels, h, w] → descriptor [B, dim]."""
        return self.embeddings_of(maps).features


class Reduction(nn.Module):
    """A 1 × 1 convolution on pooled vectors, batch norm, ReLU: [B, channels] or [B, parts, channels] → [B, (parts,) width].

    Parts share weights and statistics. The convolution starts as He et al. (fan out), as in the bodies' published code.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.convolution = nn.Linear(channels, width, bias=False)
        self.norm = nn.BatchNorm1d(width)
        nn.init.kaiming_normal_(self.convolution.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, pooled: Tensor) -> Tensor:
        reduced = self.convolution(pooled).to(self.norm.weight.dtype)  # half as precise under autocast
        return self.norm(reduced.flatten(0, -2)).relu().view_as(reduced)


def classify(classifiers: nn.Module, embeddings: Embeddings, *labels: Tensor) -> list[Any]:
    """Logits [B, persons] of each classified embedding, by its own classifier; `ClassLogits` of sharded ones.

    classifiers: one of `methods.classifiers` or `methods.sharded.classifiers`, or a `ModuleList` of as many as there are
    embeddings. labels: the persons, which sharded ones ask for.
    """
    each: Sequence[Any] = list(classifiers) if isinstance(classifiers, nn.ModuleList) else [classifiers]
    pairs = zip(each, embeddings.classified, strict=True)
    trains = embeddings.trains_classifiers
    return [one(vectors, *labels) if trains else one.held_fixed(vectors, *labels) for one, vectors in pairs]


def held_fixed(module: nn.Module, inputs: Tensor) -> Tensor:
    """module(inputs), where gradients reach the inputs and none of the module's parameters."""
    result: Tensor = functional_call(module, {name: p.detach() for name, p in module.named_parameters()}, (inputs,))
    return result
