"""The plain re-identification baseline of CAL (Gu et al., CVPR 2022, Sec. 5.2 and 5.4): identification loss alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import BaseModel, Field
from torch import Tensor, nn

from methods.backbones.image_encoder import ImageEncoder
from methods.backbones.resnet import weights_address
from methods.backbones.weights import load_weights
from methods.distributed import gather
from methods.losses.identity import identity_loss
from methods.losses.triplet import triplet_cosine_loss
from methods.method import Batch, DataFacts, Method, Update


class BaselineSettings(BaseModel, extra="forbid", frozen=True):
    backbone: Literal["resnet18", "resnet34", "resnet50", "resnet101"] = "resnet50"
    width: float = Field(1.0, ge=1 / 16, le=4)  # factor on every layer's channels; pre-trained weights need 1
    last_stride: Literal[1, 2] = 1  # Sec. 5.2: the last down-sampling is removed
    pooling: Literal["max-average", "max", "average"] = (
        "max-average"  # Sec. 5.2; the published code has "max" for video
    )
    neck_bias: bool = True
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    triplet_weight: float = Field(0.0, ge=0)  # Tables 3 and 4, with triplet loss: 1
    triplet_margin: float = Field(0.3, ge=0)


class Baseline(Method):
    """ResNet, global max ++ average pooling, batch-norm neck, linear identity classifier behind the neck.

    Clips of video pass frame by frame; their frames' pooled features are averaged before the neck.

    Where the paper and its published code differ, the default is the code, which made the published numbers:
    - label_smoothing 0.1 (code, image data sets); the paper's text says cross-entropy: 0.
    - neck_bias: trained (code; the paper says nothing); false keeps it at 0, as in the strong baseline of Luo et al.
    - the triplet loss is on cosine distance behind the neck (code). Its gallery is the global batch, with the gradient
      of every pair, part of which the code's own gathering loses.
    """

    Settings = BaselineSettings
    takes_clips = True

    def __init__(self, settings: BaselineSettings, facts: DataFacts) -> None:
        super().__init__(facts)
        self.settings = settings
        self.encoder = image_encoder(settings)
        self.classifier = identity_classifier(self.encoder.dim, facts.num_persons)

    def updates(self, batch: Batch) -> Iterator[Update]:
        features = self.encoder(batch.images)  # [B, D]
        loss, logs = identification(features, self.classifier(features), batch.person, self.settings)
        yield Update("model", loss, logs)

    def embed(self, images: Tensor) -> Tensor:
        return self.encoder(images)

    forward = embed

    def maps(self, images: Tensor) -> Tensor:
        return self.encoder.backbone(images)

    def describe(self, maps: Tensor) -> Tensor:
        return self.encoder.describe(maps)

    def weights_address(self) -> str | None:
        return weights_address(self.settings.backbone) if self.settings.width == 1 else None

    def load_backbone(self, state: Mapping[str, Any]) -> None:
        load_weights(self.encoder.backbone, state)


def image_encoder(settings: BaselineSettings) -> ImageEncoder:
    return ImageEncoder(
        settings.backbone,
        width=settings.width,
        last_stride=settings.last_stride,
        neck_bias=settings.neck_bias,
        pooling=settings.pooling,
    )


def identity_classifier(dim: int, num_persons: int, bias: bool = True) -> nn.Linear:
    """Linear; weights start at N(0, 0.001), the bias, where there is one, at 0, as published."""
    classifier = nn.Linear(dim, num_persons, bias)
    nn.init.normal_(classifier.weight, std=0.001)
    if bias:
        nn.init.zeros_(classifier.bias)
    return classifier


def identification(
    features: Tensor, logits: Tensor, person: Tensor, settings: BaselineSettings
) -> tuple[Tensor, dict[str, Tensor]]:
    """L_ID, plus the triplet loss over the global batch where the settings give it weight; and what to log of them.

    features: float [B, D]. logits: float [B, persons]. person: int64 [B].
    """
    identity = identity_loss(logits, person, settings.label_smoothing)
    logs = {"loss/identity": identity.detach(), "accuracy/person": accuracy(logits, person)}
    if settings.triplet_weight == 0:
        return identity, logs
    triplet = triplet_cosine_loss(features, person, gather(features), gather(person), settings.triplet_margin)
    return identity + settings.triplet_weight * triplet, logs | {"loss/triplet": triplet.detach()}


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of the batch whose highest logit is its label's."""
    return (logits.detach().argmax(1) == labels).double().mean()
