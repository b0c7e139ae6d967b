"""The plain re-identification baseline of CAL (Gu et al., CVPR 2022, Sec. 5.2 and 5.4): identification loss alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from methods.backbones.bodies import BodySettings, build_body
from methods.backbones.body import Body, Embeddings, Triplet, classify
from methods.classifiers import CosineClassifier, LinearClassifier
from methods.distributed import gather, rank
from methods.losses.arcface import arcface_logits, arcface_loss
from methods.losses.circle import circle_logits, circle_loss
from methods.losses.contrastive import contrastive_loss
from methods.losses.cosface import cosface_logits, cosface_loss
from methods.losses.identity import identity_loss
from methods.losses.pairwise import pairwise_circle_loss, pairwise_cosface_loss
from methods.losses.triplet import triplet_cosine_loss, triplet_euclidean_loss
from methods.method import Batch, DataFacts, Method, Stage, Update, with_phases
from methods.sharded import losses as sharded
from methods.sharded.classifiers import ShardedCosineClassifier, ShardedLinearClassifier
from methods.sharded.losses import ClassLogits

DISTANCES = {"cosine": triplet_cosine_loss, "euclidean": triplet_euclidean_loss}
COSINE_LOSSES: dict[str, Callable[[Tensor, Tensor, float, float], Tensor]] = {  # of a classifier of cosines
    "cosface": cosface_loss,
    "arcface": arcface_loss,
    "circle": circle_loss,
}
COSINE_LOGITS: dict[str, Callable[[Tensor, Tensor, float, float], Tensor]] = {  # whose cross-entropy each of these is
    "cosface": cosface_logits,
    "arcface": arcface_logits,
    "circle": circle_logits,
}
PAIR_LOSSES: dict[str, Callable[..., Tensor]] = {"cosface": pairwise_cosface_loss, "circle": pairwise_circle_loss}


class BaselineSettings(BodySettings, extra="forbid", frozen=True):
    identity_loss: Literal["cross-entropy", "cosface", "arcface", "circle"] = (
        "cross-entropy"  # CAL's code: LOSS.CLA_LOSS
    )
    identity_scale: float = Field(16.0, gt=0)  # LOSS.CLA_S; this and the margin are not of the cross-entropy
    identity_margin: float = Field(0.0, ge=0)  # LOSS.CLA_M
    identity_weight: float = Field(1.0, gt=0)  # of L_ID, beside the pair loss; CLIP-ReID's code: 0.25
    label_smoothing: float = Field(0.1, ge=0, lt=1)  # of the cross-entropy
    part_losses: Literal["sum", "mean"] = "sum"  # over a body's embeddings, as the bodies' papers add them up
    pair_loss: Literal["triplet", "contrastive", "cosface", "circle"] = (
        "triplet"  # LOSS.PAIR_LOSS; triplet_weight counts it
    )
    pair_scale: float = Field(16.0, gt=0)  # LOSS.PAIR_S; not of the triplet loss
    # Where these are left out, they are as the body's paper has them: no triplet loss, but of MGN 1, 1.2, euclidean.
    triplet_weight: float | None = Field(None, ge=0)  # Tables 3 and 4, with triplet loss: 1
    triplet_margin: float | None = Field(None, ge=0)  # 0.3
    triplet_distance: Literal["cosine", "euclidean"] | None = None  # cosine, as CAL's code

    shard_classes: bool = False  # each worker holds a part of the rows of classifiers
    partial_classes: float = Field(
        1.0, gt=0, le=1
    )  # of the other classes that a step counts: An et al., 2021; with shards

    @model_validator(mode="after")
    def partial_classes_are_sharded(self) -> BaselineSettings:
        if self.partial_classes < 1 and not self.shard_classes:
            raise ValueError(
                f"partial_classes {self.partial_classes} counts a part of the classes, which only sharded classifiers do: "
                "set shard_classes to true, or partial_classes to 1"
            )
        return self

    @property
    def triplet(self) -> Triplet:
        """The triplet loss as set, and for the rest as the body's own paper has it."""
        given = {name: getattr(self, f"triplet_{name}") for name in ("weight", "margin", "distance")}
        return replace(self.own_triplet, **{name: value for name, value in given.items() if value is not None})


class Baseline(Method):
    """ResNet, global max ++ average pooling, batch-norm neck, linear identity classifier behind the neck; or another body.

    Clips of video pass frame by frame; their frames' pooled features are averaged before the neck. Where a body has several
    embeddings, each has a classifier of its own, and L_ID is the sum of their losses (`part_losses` "mean": the mean).

    Where the paper and its published code differ, the default is the code, which made the published numbers:
    - label_smoothing 0.1 (code, image data sets); the paper's text says cross-entropy: 0.
    - neck_bias: trained (code; the paper says nothing); false keeps it at 0, as in the strong baseline of Luo et al.
    - the triplet loss is on cosine distance behind the neck (code). Its gallery is the global batch, with the gradient
      of every pair, part of which the code's own gathering loses.
    """

    Settings = BaselineSettings
    takes_clips = True

    def __init__(self, settings: BaselineSettings, facts: DataFacts) -> None:
        super().__init__(settings, facts)
        self.settings = settings
        self.encoder = build_body(settings)
        self.classifier = identity_classifiers(self.encoder, facts, settings)

    def stages(self) -> tuple[Stage, ...]:
        return with_phases(super().stages(), self.encoder.phases())

    def updates(self, batch: Batch) -> Iterator[Update]:
        embeddings = self.encoder.embeddings(batch.images)
        loss, logs = identification(embeddings, self.classifier, batch.person, self.settings)
        yield Update("model", loss, logs)


def identity_classifiers(body: Body, facts: DataFacts, settings: BaselineSettings, bias: bool = True) -> nn.Module:
    """A classifier for each of the body's embeddings that has one: linear, or of cosines, as the identity loss needs.

    bias: whether linear classifiers have one; classifiers of cosines have none. Returns what `classify` takes.
    """
    is_linear = settings.identity_loss == "cross-entropy"
    if settings.shard_classes:
        rows, counted = facts.share.of(facts.num_persons), settings.partial_classes
        made: list[nn.Module] = [
            ShardedLinearClassifier(width, rows, bias, counted)
            if is_linear
            else ShardedCosineClassifier(width, rows, counted)
            for width in body.widths
        ]
    elif is_linear:
        made = [LinearClassifier(width, facts.num_persons, bias) for width in body.widths]
    else:
        made = [CosineClassifier(width, facts.num_persons) for width in body.widths]
    return made[0] if len(made) == 1 else nn.ModuleList(made)


def identification(
    embeddings: Embeddings, classifiers: nn.Module, person: Tensor, settings: BaselineSettings
) -> tuple[Tensor, dict[str, Tensor]]:
    """(loss, logs): L_ID, plus the pair loss over the global batch where its weight is not 0, each weighted. A scalar.

    classifiers: as `identity_classifiers` makes them. person: int64 [B].
    """
    identity, found = classification(embeddings, classifiers, person, settings)
    logs = {"loss/identity": identity.detach(), "accuracy/person": found}
    identity = settings.identity_weight * identity
    triplet = settings.triplet
    if triplet.weight == 0:
        return identity, logs
    persons = gather(person)
    loss = together([compared_loss(one, person, persons, settings) for one in embeddings.compared], settings)
    return identity + triplet.weight * loss, logs | {f"loss/{settings.pair_loss}": loss.detach()}


def classification(
    embeddings: Embeddings, classifiers: nn.Module, person: Tensor, settings: BaselineSettings
) -> tuple[Tensor, Tensor]:
    """(L_ID, accuracy): scalars, means over B. classifiers: as `identity_classifiers` makes them. person: int64 [B]."""
    if settings.shard_classes:
        scores: list[ClassLogits] = classify(classifiers, embeddings, person)
        losses = [sharded_classification_loss(one, person, settings) for one in scores]
        return together(losses, settings), sharded.accuracy(scores, person)
    logits: list[Tensor] = classify(classifiers, embeddings)
    losses = [classification_loss(one, person, settings) for one in logits]
    return together(losses, settings), accuracy(sum_of_log_p(logits), person)


def classification_loss(logits: Tensor, person: Tensor, settings: BaselineSettings) -> Tensor:
    """L_ID of one classifier: scalar, mean over B. logits: [B, persons], cosines for COSINE_LOSSES. person: int64 [B]."""
    if settings.identity_loss == "cross-entropy":
        return identity_loss(logits, person, settings.label_smoothing)
    return COSINE_LOSSES[settings.identity_loss](logits, person, settings.identity_scale, settings.identity_margin)


def sharded_classification_loss(logits: ClassLogits, person: Tensor, settings: BaselineSettings) -> Tensor:
    """`classification_loss` of a sharded classifier."""
    if settings.identity_loss == "cross-entropy":
        return sharded.cross_entropy(logits, person, settings.label_smoothing)
    own, scores = sharded.is_own(logits, person), COSINE_LOGITS[settings.identity_loss]
    values = scores(logits.values, own, settings.identity_scale, settings.identity_margin)
    return sharded.cross_entropy(logits._replace(values=values), person)


def compared_loss(features: Tensor, person: Tensor, persons: Tensor, settings: BaselineSettings) -> Tensor:
    """The pair loss of this worker's features [B, D] against those of the global batch: scalar, mean over B.

    person: int64 [B]. persons: int64 [workers × B], of the global batch.
    """
    triplet, first = settings.triplet, rank() * len(features)
    pairs = features, person, gather(features), persons
    if settings.pair_loss == "triplet":
        return DISTANCES[triplet.distance](*pairs, triplet.margin)
    if settings.pair_loss == "contrastive":
        return contrastive_loss(*pairs, settings.pair_scale, first)
    return PAIR_LOSSES[settings.pair_loss](*pairs, settings.pair_scale, triplet.margin, first)


def together(losses: list[Tensor], settings: BaselineSettings) -> Tensor:
    """Sum or mean of the losses of a body's embeddings, as `part_losses` says: scalar."""
    total = torch.stack(losses).sum()
    return total if settings.part_losses == "sum" else total / len(losses)


def sum_of_log_p(logits: list[Tensor]) -> Tensor:
    """Sum of the classifiers' log-probabilities: [B, persons], highest at the likeliest person."""
    return torch.stack([one.detach().log_softmax(1) for one in logits]).sum(0)


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of the batch whose highest logit is that of its label: float64 scalar."""
    return (logits.detach().argmax(1) == labels).double().mean()
