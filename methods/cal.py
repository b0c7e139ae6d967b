"""CAL: Gu et al., Clothes-Changing Person Re-identification with RGB Modality Only, CVPR 2022.

What is unusual: clothes classes are fine-grained identities (no two persons share one), and the adversarial loss counts
all clothes of a person as positives, so that fooling the clothes classifier does not cost identity.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import Parameter

from methods.backbones.bodies import build_body
from methods.baseline import BaselineSettings, accuracy, identification, identity_classifiers
from methods.classifiers import CosineClassifier
from methods.distributed import gather
from methods.losses.cal import clothes_adversarial_loss, clothes_classification_loss
from methods.losses.clothes_memory import update_memory
from methods.losses.cosine import cosines
from methods.method import Batch, DataFacts, Method, Needs, Stage, Update, trainable, with_phases


class CALSettings(BaselineSettings, extra="forbid", frozen=True):
    tau: float = Field(1 / 16, gt=0)  # Eq. 2; Sec. 5.2
    epsilon: float = Field(0.1, ge=0, le=1)  # Eq. 5 asks for ε > 0; Fig. 4 sweeps from 0
    adversarial_from_epoch: int = Field(25, ge=0)  # Sec. 5.2
    clothes_classifier_from_epoch: int | None = Field(None, ge=0)  # None: with the adversarial loss
    objective: Literal["cal", "clothes-classifier", "negative"] = "cal"  # Table 3
    proxies: Literal["classifier", "memory"] = "classifier"
    memory_momentum: float = Field(0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def combinations_make_sense(self) -> CALSettings:
        if self.proxies == "memory" and self.objective != "cal":
            raise ValueError(
                f'objective "{self.objective}" needs a clothes classifier, and proxies "memory" has none: '
                'set proxies to "classifier" or objective to "cal"'
            )
        if self.proxies == "memory" and self.clothes_classifier_from_epoch is not None:
            raise ValueError('proxies "memory" has no clothes classifier: leave clothes_classifier_from_epoch out')
        if self.clothes_from_epoch > self.adversarial_from_epoch:
            raise ValueError(
                f"clothes_classifier_from_epoch ({self.clothes_from_epoch}) is after adversarial_from_epoch "
                f"({self.adversarial_from_epoch}), which needs a trained clothes classifier: set it to at most that"
            )
        return self

    @property
    def clothes_from_epoch(self) -> int:
        earlier = self.clothes_classifier_from_epoch
        return self.adversarial_from_epoch if earlier is None else earlier


class CAL(Method):
    """The baseline's network, trained to be unable to tell one person's clothes apart.

    Where the paper and its published code differ, the default is the code, which made the published numbers:
    - label_smoothing 0.1 (code, image data sets); the paper's text says cross-entropy: 0.
    - adversarial_from_epoch 25 (code; the paper's "after the 25th epoch"); the paper also says "after the first
      reduction of the learning rate": 20.
    - the clothes classifier is trained from the same epoch on (code); the paper can be read as training it from the
      beginning: clothes_classifier_from_epoch 0.
    - neck_bias: trained (code; the paper says nothing).
    - the clothes classifier's learning rate is a setting of its optimizer, in the experiment.
    Losses are batch means, as in the code; the paper writes sums.

    objective: "cal" is Eqs. 2-6. "clothes-classifier" is Table 3's "w/ clothes classifier": the clothes loss trains the
    backbone as well, in turns as in CAL. "negative" is Table 3's CAL (−L_C).
    proxies: "memory" replaces the classifier by a memory bank of each clothes class's mean feature, updated with
    memory_momentum (published code, not in the paper). Then there is no clothes classifier and no optimizer for one.
    While PCB's part classifier trains alone, it learns identities only: the clothes classifier takes no step, there is no
    adversarial loss, and the memory bank is not updated.
    """

    Settings = CALSettings
    takes_clips = True
    clothes_owner: Tensor  # int64 [C], who wears each class: S⁺ of a person is where they stand
    memory: Tensor  # float [C, D]
    seen: Tensor  # bool [C], the initialised classes; checkpoints hold it by this name

    def __init__(self, settings: CALSettings, facts: DataFacts) -> None:
        super().__init__(settings, facts)
        self.settings = settings
        self.encoder = build_body(settings)
        self.classifier = identity_classifiers(self.encoder, facts.num_persons, settings)
        if settings.proxies == "classifier":
            self.clothes_classifier = CosineClassifier(self.encoder.dim, facts.num_clothes)
        else:
            self.register_buffer("memory", torch.zeros(facts.num_clothes, self.encoder.dim))
            self.register_buffer("seen", torch.zeros(facts.num_clothes, dtype=torch.bool))
        self.register_buffer("clothes_owner", facts.clothes_owner.clone(), persistent=False)

    @classmethod
    def needs(cls, settings: CALSettings) -> Needs:
        return Needs(clothes=True)

    def stages(self) -> tuple[Stage, ...]:
        """Identity alone; with the clothes classifier, where that begins earlier; adversarial."""
        every_optimizer = tuple(self.parameters_of())
        stages = (
            Stage("identity", 0, ("model",)),
            Stage("clothes-classifier", self.settings.clothes_from_epoch, every_optimizer),
            Stage("adversarial", self.settings.adversarial_from_epoch, every_optimizer),
        )
        lasting = (stage for stage, after in pairwise(stages) if stage.first_epoch < after.first_epoch)
        return with_phases((*lasting, stages[-1]), self.encoder.phases())

    def parameters_of(self) -> dict[str, list[tuple[str, Parameter]]]:
        model: list[tuple[str, Parameter]] = []
        clothes: list[tuple[str, Parameter]] = []
        for name, parameter in trainable(self):
            (clothes if name.startswith("clothes_classifier.") else model).append((name, parameter))
        return {"model": model, "clothes_classifier": clothes} if clothes else {"model": model}

    def updates(self, batch: Batch) -> Iterator[Update]:
        embeddings = self.encoder.embeddings(batch.images)
        features = embeddings.features  # [B, D]
        loss, logs = identification(embeddings, self.classifier, batch.person, self.settings)  # L_ID
        if "clothes_classifier" in self.stage.optimizers:
            yield self.clothes_update(features, batch)  # Eq. 1
        if self.stage.name == "adversarial" and embeddings.trains_classifiers:
            adversarial = self.adversarial_loss(features, batch)
            loss = loss + adversarial  # Eq. 6
            logs["loss/adversarial"] = adversarial.detach()
        yield Update("model", loss, logs)

    def clothes_update(self, features: Tensor, batch: Batch) -> Update:
        logits = self.clothes_classifier(features.detach()) / self.settings.tau
        loss = clothes_classification_loss(logits, batch.clothes)  # Eq. 2
        return Update("clothes_classifier", loss, {"accuracy/clothes": accuracy(logits, batch.clothes)})

    def adversarial_loss(self, features: Tensor, batch: Batch) -> Tensor:
        """The loss of the features against the clothes proxies, which are held fixed: scalar."""
        own = self.clothes_owner == batch.person[:, None]  # [B, C]
        if self.settings.proxies == "memory":
            self.update_memory(features, batch.clothes)
            logits = cosines(features, self.memory) / self.settings.tau
            return clothes_adversarial_loss(logits, batch.clothes, own, self.settings.epsilon, self.seen)
        logits = self.clothes_classifier.held_fixed(features) / self.settings.tau
        if self.settings.objective == "clothes-classifier":
            return clothes_classification_loss(logits, batch.clothes)
        if self.settings.objective == "negative":
            return -clothes_classification_loss(logits, batch.clothes)
        return clothes_adversarial_loss(logits, batch.clothes, own, self.settings.epsilon)  # Eqs. 3, 5

    def update_memory(self, features: Tensor, clothes: Tensor) -> None:
        """Every worker adds the whole global batch, so that all banks are equal."""
        self.memory, self.seen = update_memory(
            self.memory, self.seen, gather(features.detach()), gather(clothes), self.settings.memory_momentum
        )
