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
from methods.sharded import losses as sharded
from methods.sharded.classifiers import ShardedCosineClassifier
from methods.sharded.losses import ClassLogits
from methods.sharded.memory import update_shard
from methods.sharded.share import WHOLE, HoldsRows


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


class CAL(Method, HoldsRows):
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
    clothes_classifier: CosineClassifier | ShardedCosineClassifier
    memory: Tensor  # float [C, D]; sharded, the rows of this worker
    seen: Tensor  # bool [C], the initialised classes; checkpoints hold it by this name. Sharded as the memory

    def __init__(self, settings: CALSettings, facts: DataFacts) -> None:
        super().__init__(settings, facts)
        self.settings = settings
        self.encoder = build_body(settings)
        self.classifier = identity_classifiers(self.encoder, facts, settings)
        dim = self.encoder.dim
        self.clothes_rows = (facts.share if settings.shard_classes else WHOLE).of(facts.num_clothes)
        if settings.proxies == "memory":
            self.register_buffer("memory", torch.zeros(self.clothes_rows.count, dim))
            self.register_buffer("seen", torch.zeros(self.clothes_rows.count, dtype=torch.bool))
            self.held_rows = {"memory": self.clothes_rows, "seen": self.clothes_rows} if settings.shard_classes else {}
        elif settings.shard_classes:
            self.clothes_classifier = ShardedCosineClassifier(dim, self.clothes_rows, settings.partial_classes)
        else:
            self.clothes_classifier = CosineClassifier(dim, facts.num_clothes)
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
        if self.settings.shard_classes:
            scores = self.over_tau(self.clothes_classifier(features.detach(), batch.clothes))
            loss = sharded.cross_entropy(scores, batch.clothes)  # Eq. 2
            return Update("clothes_classifier", loss, {"accuracy/clothes": sharded.accuracy([scores], batch.clothes)})
        logits = self.clothes_classifier(features.detach()) / self.settings.tau
        loss = clothes_classification_loss(logits, batch.clothes)  # Eq. 2
        return Update("clothes_classifier", loss, {"accuracy/clothes": accuracy(logits, batch.clothes)})

    def adversarial_loss(self, features: Tensor, batch: Batch) -> Tensor:
        """The loss of the features against the clothes proxies, which are held fixed: scalar."""
        if self.settings.shard_classes:
            return self.sharded_adversarial_loss(features, batch)
        own = self.clothes_owner == batch.person[:, None]  # [B, C]
        if self.settings.proxies == "memory":
            self.update_memory(features, batch.clothes)
            logits = cosines(features, self.memory) / self.settings.tau
            return clothes_adversarial_loss(logits, batch.clothes, own, self.settings.epsilon, self.seen)
        assert isinstance(self.clothes_classifier, CosineClassifier)
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

    def sharded_adversarial_loss(self, features: Tensor, batch: Batch) -> Tensor:
        """`adversarial_loss` with the classes divided over the workers. S⁺ is whole where a step counts a part of S⁻."""
        scores, initialised = self.sharded_proxies(features, batch)
        if self.settings.objective == "clothes-classifier":
            return sharded.cross_entropy(scores, batch.clothes)
        if self.settings.objective == "negative":
            return -sharded.cross_entropy(scores, batch.clothes)
        own = gather(batch.person)[:, None] == self.clothes_owner[scores.classes]  # [workers × B, classes here]
        return sharded.clothes_adversarial_loss(scores, batch.clothes, own, self.settings.epsilon, initialised)

    def sharded_proxies(self, features: Tensor, batch: Batch) -> tuple[ClassLogits, Tensor | None]:
        """Cosines with this worker's clothes proxies, over τ, and which of them are initialised: None for all."""
        rows = self.clothes_rows
        if self.settings.proxies == "memory":
            self.memory, self.seen = update_shard(
                self.memory,
                self.seen,
                rows,
                gather(features.detach()),
                gather(batch.clothes),
                self.settings.memory_momentum,
            )
            values = cosines(gather(features), self.memory)
            return self.over_tau(ClassLogits(values, rows.numbers(values.device), rows.total)), self.seen
        assert isinstance(self.clothes_classifier, ShardedCosineClassifier)
        owner = self.clothes_owner[rows.first : rows.end]
        return self.over_tau(self.clothes_classifier.held_fixed(features, batch.person, owner)), None

    def over_tau(self, scores: ClassLogits) -> ClassLogits:
        return scores._replace(values=scores.values / self.settings.tau)
