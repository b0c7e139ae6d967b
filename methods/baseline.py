"""The plain re-identification baseline of CAL (Gu et al., CVPR 2022, Sec. 5.2 and 5.4): identification loss alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from methods.backbones.bodies import BodySettings, build_body
from methods.backbones.body import Body, Embeddings, Triplet, classify
from methods.distributed import gather
from methods.losses.identity import identity_loss
from methods.losses.triplet import triplet_cosine_loss, triplet_euclidean_loss
from methods.method import Batch, DataFacts, Method, Stage, Update, with_phases

DISTANCES = {"cosine": triplet_cosine_loss, "euclidean": triplet_euclidean_loss}


class BaselineSettings(BodySettings, extra="forbid", frozen=True):
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    part_losses: Literal["sum", "mean"] = "sum"  # over a body's embeddings, as the bodies' papers add them up
    # Where these are left out, they are as the body's paper has them: no triplet loss, but of MGN 1, 1.2, euclidean.
    triplet_weight: float | None = Field(None, ge=0)  # Tables 3 and 4, with triplet loss: 1
    triplet_margin: float | None = Field(None, ge=0)  # 0.3
    triplet_distance: Literal["cosine", "euclidean"] | None = None  # cosine, as CAL's code

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
        super().__init__(facts)
        self.settings = settings
        self.encoder = build_body(settings)
        self.classifier = identity_classifiers(self.encoder, facts.num_persons)

    def stages(self) -> tuple[Stage, ...]:
        return with_phases(super().stages(), self.encoder.phases())

    def updates(self, batch: Batch) -> Iterator[Update]:
        embeddings = self.encoder.embeddings(batch.images)
        loss, logs = identification(embeddings, self.classifier, batch.person, self.settings)
        yield Update("model", loss, logs)


def identity_classifiers(body: Body, num_persons: int, bias: bool = True) -> nn.Module:
    """What `classify` takes: a classifier for each of the body's embeddings that has one."""
    made = [identity_classifier(width, num_persons, bias) for width in body.widths]
    return made[0] if len(made) == 1 else nn.ModuleList(made)


def identity_classifier(dim: int, num_persons: int, bias: bool = True) -> nn.Linear:
    """Linear; weights start at N(0, 0.001), the bias, where there is one, at 0, as published."""
    classifier = nn.Linear(dim, num_persons, bias)
    nn.init.normal_(classifier.weight, std=0.001)
    if bias:
        nn.init.zeros_(classifier.bias)
    return classifier


def identification(
    embeddings: Embeddings, classifiers: nn.Module, person: Tensor, settings: BaselineSettings
) -> tuple[Tensor, dict[str, Tensor]]:
    """L_ID, plus the triplet loss over the global batch where the settings give it weight; and what to log of them.

    classifiers: as `identity_classifiers` makes them. person: int64 [B].
    """
    logits = classify(classifiers, embeddings)
    identity = together([identity_loss(one, person, settings.label_smoothing) for one in logits], settings)
    logs = {"loss/identity": identity.detach(), "accuracy/person": accuracy(sum_of_log_p(logits), person)}
    triplet = settings.triplet
    if triplet.weight == 0:
        return identity, logs
    distance, persons = DISTANCES[triplet.distance], gather(person)
    each = [distance(one, person, gather(one), persons, triplet.margin) for one in embeddings.compared]
    loss = together(each, settings)
    return identity + triplet.weight * loss, logs | {"loss/triplet": loss.detach()}


def together(losses: list[Tensor], settings: BaselineSettings) -> Tensor:
    """One loss of those of a body's embeddings: scalar."""
    total = torch.stack(losses).sum()
    return total if settings.part_losses == "sum" else total / len(losses)


def sum_of_log_p(logits: list[Tensor]) -> Tensor:
    """What all classifiers say together: [B, persons], highest at the likeliest person."""
    return torch.stack([one.detach().log_softmax(1) for one in logits]).sum(0)


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of the batch whose highest logit is its label's."""
    return (logits.detach().argmax(1) == labels).double().mean()
