"""Pixel sampling: Shu et al., Semantic-guided Pixel Sampling for Cloth-Changing Person Re-identification, IEEE SPL 2021.

What is unusual: there is nothing new in the network. Each image comes a second time, in clothes made of other people's
pixels (`methods.clothes_sampling`, the augmentation), and its feature has to stay where it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field
from torch import Tensor

from methods.backbones.bodies import Pooling, build_body
from methods.baseline import BaselineSettings, identification, identity_classifiers
from methods.losses.pixel_sampling import feature_consistency_loss, saturating_consistency_loss
from methods.method import Batch, DataFacts, Method, MethodError, Stage, Update, with_phases

CONSISTENCIES = {"norm": feature_consistency_loss, "sigmoid": saturating_consistency_loss}


class PixelSamplingSettings(BaselineSettings, extra="forbid", frozen=True):
    pooling: Pooling = "average"  # the strong baseline of Luo et al. (BoT)
    neck_bias: bool = False  # BoT
    triplet_before_neck: bool = True  # BoT
    label_smoothing: float = Field(0.0, ge=0, lt=1)  # Eq. 4; the published code has 0.1
    triplet_weight: float | None = Field(1.0, ge=0)  # Eq. 6
    triplet_margin: float | None = Field(0.3, ge=0)  # m, Eq. 5
    triplet_distance: Literal["cosine", "euclidean"] | None = "euclidean"  # BoT; Eq. 5 does not say
    consistency: Literal["norm", "sigmoid"] = "norm"  # Eq. 3; the published code: "sigmoid"
    consistency_weight: float = Field(1.0, ge=0)  # Eq. 6; Table II, without MSE: 0


class PixelSampling(Method):
    """The strong baseline of Luo et al. (BoT): ResNet, global average, batch-norm neck without bias, linear classifier
    without bias; identity loss behind the neck, triplet and consistency loss before it, each over all 2B images. On a body
    of several embeddings consistency is of the whole descriptor.

    Where paper and published code differ, the default is the paper. Here: label smoothing (0.1 in the code) and the
    consistency loss, which in the code is a sigmoid that saturates. In the recipe: the learning rate, and flip instead of
    colour jitter. Corrected in both: masks are cropped with their images.

    The other clothes come with the batch (experiment setting augment.clothes_sampling). Table II: "baseline" has none of
    them and consistency_weight 0; "PS" consistency_weight 0; "PS + MSE" the defaults; "RE" is augment.erase.
    """

    Settings = PixelSamplingSettings
    takes_clips = True

    def __init__(self, settings: PixelSamplingSettings, facts: DataFacts) -> None:
        super().__init__(settings, facts)
        self.settings = settings
        self.pairs_for = "consistency_weight" if settings.consistency_weight > 0 else ""
        self.encoder = build_body(settings)
        self.classifier = identity_classifiers(self.encoder, facts, settings, bias=False)

    def stages(self) -> tuple[Stage, ...]:
        return with_phases(super().stages(), self.encoder.phases())

    def updates(self, batch: Batch) -> Iterator[Update]:
        embeddings = self.encoder.embeddings(batch.images)  # of 2B images: f, then f′
        loss, logs = identification(embeddings, self.classifier, batch.person, self.settings)  # Eqs. 4, 5
        if self.pairs_for:
            consistency = CONSISTENCIES[self.settings.consistency](*self.pairs(embeddings.before_neck, batch))  # Eq. 3
            loss = loss + self.settings.consistency_weight * consistency  # Eq. 6
            logs["loss/consistency"] = consistency.detach()
        yield Update("model", loss, logs)

    def pairs(self, features: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """f and f′ [B, D]. Raises: MethodError where images come alone."""
        if not batch.is_paired:
            raise MethodError(
                "pixel sampling compares each image with the same in other clothes, and this batch has none: set "
                "augment.clothes_sampling={}, or method.consistency_weight=0"
            )
        first, second = features.chunk(2)
        return first, second
