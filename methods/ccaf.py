"""CCAF: Li et al., CLIP-Driven Cloth-Agnostic Feature Learning for Cloth-Changing Person Re-Identification, ACM MM 2024.

What is unusual: people and outfits are described by prompts that are learnt first, with CLIP's towers frozen, from images of
which the clothes, or everything else, are painted white. The texts of these prompts then say to the image tower what to keep
and what to forget.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import Parameter

from methods.backbones.bodies import build_body
from methods.backbones.body import Body, Embeddings
from methods.backbones.clip.prompts import CLOTHES, PERSON, VOCABULARY, Prompts
from methods.backbones.clip.sizes import CONTEXT, CLIPSize
from methods.backbones.clip.state import load_text_tower
from methods.backbones.clip.text_tower import TextTower
from methods.backbones.clip_cnn import CLIPCNN
from methods.backbones.clip_vit import CLIPViT
from methods.baseline import BaselineSettings, accuracy, identification, identity_classifiers
from methods.classifiers import LinearClassifier
from methods.distributed import gather, gather_uneven, rank
from methods.losses.ccaf import (
    Disentanglement,
    centre_consistency_loss,
    disentanglement_loss,
    paired_contrast_loss,
    similarities,
    text_alignment_loss,
)
from methods.losses.identity import identity_loss
from methods.masking import grown, label_table, masked_out
from methods.method import Batch, DataFacts, Method, MethodError, Needs, Stage, Survey, Update, trainable
from methods.separation import Separation, separation

MOST_CLASSES = 50_000  # a class costs 26 KB with Adam: 1.3 GB on every worker
MOST_TABLE_BYTES = 4 << 30
TEXTS_AT_ONCE = 256
VIEWS = {
    "shielding": "texts of persons with images without clothes",
    "clothes": "texts of persons with clothes alone",
    "whole": "texts of persons with whole images",
}
LONGEST = max(len(PERSON.ids(0)), len(CLOTHES.ids(0)))


class CCAFSettings(BaselineSettings, extra="forbid", frozen=True):
    body: Literal["clip-vit", "clip-cnn"] = "clip-vit"  # Sec. 4.2: CLIP's ViT-B-16; the others have no text tower
    neck_bias: bool = False  # CLIP-ReID's code
    label_smoothing: float = Field(0.1, ge=0, lt=1)  # of Eqs. 1, 7 and 9; CLIP-ReID's code; 0 as printed
    triplet_before_neck: bool = True  # CLIP-ReID's code
    triplet_weight: float | None = Field(1.0, ge=0)  # Eq. 3
    triplet_margin: float | None = Field(0.3, ge=0)  # m, Eq. 2
    triplet_distance: Literal["cosine", "euclidean"] | None = "euclidean"  # Eq. 2
    prompt_tokens: int = Field(4, ge=1, le=CONTEXT - LONGEST)  # M: no number given; CLIP-ReID's
    encoder_from_epoch: int = Field(120, ge=1)  # Sec. 4.2: prompts learn in the epochs before
    prompt_batch: int = Field(64, ge=1)  # Sec. 4.2
    shown_to_prompts: Literal["shielding", "raw"] = "shielding"  # of people; "raw" is CLIP-ReID: Figs. 2, 5
    similarity: Literal["cosine", "dot"] = "cosine"  # s(·,·) is not given; CLIP-ReID's code: dot
    similarity_scale: float | None = Field(None, gt=0)  # of cosines; none: the one that CLIP learnt
    text_alignment: bool = True  # L_i2tce, Eq. 7; Tables 3 (I2T) and 4
    image_alignment: bool = True  # the shielding stream and L_con, Eqs. 8 to 10; Table 3 (I2I)
    shielding_text_alignment: bool = True  # L_i2tce^s, Eq. 9, where there is that stream; Table 4
    clothes_minimisation: bool = True  # CFM, Eqs. 14 and 15; Table 3
    clothes_targets: Literal["prompts", "one-hot"] = "prompts"  # of Eq. 14; Table 4
    lambda_con: float = Field(0.1, ge=0)  # λ1, Sec. 4.2
    lambda_dis: float = Field(1.0, ge=0)  # λ2, Sec. 4.2
    disentangle: Disentanglement = "away"  # Eq. 15
    mask_margin: int = Field(1, ge=0)  # pixels around clothes that are painted over with them, Eq. 4

    @model_validator(mode="after")
    def classes_are_whole(self) -> CCAFSettings:
        if self.shard_classes:
            raise ValueError(
                f"CCAF holds prompts and texts of all classes on every worker and takes at most {MOST_CLASSES} classes; "
                "with its classifiers alone in parts it would take no more: leave shard_classes out"
            )
        return self

    @property
    def aligns_shielding(self) -> bool:
        return self.image_alignment and self.shielding_text_alignment

    @property
    def describes_persons(self) -> bool:
        return self.text_alignment or self.aligns_shielding

    @property
    def describes_clothes(self) -> bool:
        return self.clothes_minimisation and self.clothes_targets == "prompts"

    @property
    def has_text(self) -> bool:
        return self.describes_persons or self.describes_clothes

    @property
    def paints_images(self) -> bool:
        shields_prompts = self.describes_persons and self.shown_to_prompts == "shielding"
        return self.image_alignment or self.describes_clothes or shields_prompts


class CCAF(Method):
    """CLIP's image tower E_v, trained with the texts that its text tower E_t makes of learnt prompts. E_v alone is the
    descriptor: the feature f before its batch-norm neck.

    Stage "prompts" (IFP and CFM, first stage): both towers are frozen and every image is encoded once, so that a step only
    looks its features up. A prompt for each person learns from shielding images (Eqs. 4 to 6), one for each outfit from
    clothes images (Eqs. 11 to 13). Stage "fine-tuning": E_v learns identities (Eqs. 1 to 3), the texts of its persons
    (Eq. 7), and to agree with a second tower E_v^s that sees shielding images (Eqs. 8 to 10). A projection learns to find the
    outfit in f (Eq. 14), then E_v to keep f apart from what it finds (Eq. 15): two updates of one step.

    The paper has no published code and builds on CLIP-ReID's. What it leaves open, and which setting gives the other:
    - s(·,·): cosine times the scale that CLIP learnt. CLIP-ReID's code has raw dot products: similarity "dot".
    - f_i: the projected class token, the only one that Eq. 7 can compare with texts. clip_features "both" has CLIP-ReID's
      descriptor (768 ++ 512) and its three triplets; texts, Eqs. 10, 14 and 15 then have the projected part.
    - Eq. 15 has a minus sign, which pulls f towards the clothes feature; the text says the opposite. disentangle "away" is the
      text, "printed" the formula, "orthogonal" cos², since cos = −1 holds as much of the clothes as cos = 1. Its gradient
      reaches f also through the clothes feature, whose projection is held fixed.
    - W_id: a batch-norm neck and a linear classifier without bias, as CLIP-ReID; triplets are before the neck.
    - the projection starts at the identity. E_v^s starts from CLIP, as E_v, with a neck and classifier of its own.
    - clothes: those of the data set's label map. Eq. 4 also paints over mask_margin pixels around them, into which their colour
      blurs; in Eq. 11 these would show the person's skin and hair.
    - Eqs. 5 and 6 count an image's own text alone; CLIP-ReID's code counts all of its class. The numbers are the same.
    - random erasing comes before painting, so both streams see the same erased box.

    Table 3: "B" has text_alignment, image_alignment and clothes_minimisation false. Table 4: clothes_targets "one-hot";
    shielding_text_alignment false; text_alignment false. CLIP-ReID is shown_to_prompts "raw", image_alignment and
    clothes_minimisation false; training then needs neither masks nor clothes labels.
    """

    Settings = CCAFSettings
    is_clothing: Tensor  # bool [256], by label

    def __init__(self, settings: CCAFSettings, facts: DataFacts) -> None:
        super().__init__(settings, facts)
        refuse_many_classes(settings, facts)
        self.settings = settings
        self.encoder, self.classifier = stream(settings, facts)  # E_v, W_id
        size = size_of(self.encoder)
        self.dim = size.dim
        refuse_large_table(settings, facts.num_images, self.dim)
        if settings.image_alignment:
            self.shielding, self.shielding_classifier = stream(settings, facts)  # E_v^s
        if settings.clothes_minimisation:
            self.projection = Parameter(torch.zeros(size.dim, size.dim).fill_diagonal_(1.0))  # Proj_c
            if settings.clothes_targets == "one-hot":
                self.clothes_classifier = LinearClassifier(size.dim, facts.num_clothes, bias=False)
        if settings.has_text:
            self.text = TextTower(size, VOCABULARY).requires_grad_(False)  # E_t
        self.prompts = nn.ModuleDict()
        if settings.describes_persons:
            self.prompts["persons"] = Prompts(PERSON, facts.num_persons, settings.prompt_tokens, size.text.width)
        if settings.describes_clothes:
            self.prompts["outfits"] = Prompts(CLOTHES, facts.num_clothes, settings.prompt_tokens, size.text.width)
        self.register_buffer("is_clothing", label_table(facts.clothing_labels), persistent=False)
        self.white = facts.white
        self.tables: dict[str, Tensor] = {}  # by prompts: features of images [rows, dim], later of texts [classes, dim]

    @classmethod
    def needs(cls, settings: CCAFSettings) -> Needs:
        return Needs(clothes=settings.clothes_minimisation, parsing=settings.paints_images)

    def stages(self) -> tuple[Stage, ...]:
        """Prompts, where a loss reads one, then everything else."""
        settings = self.settings
        others = tuple(name for name in self.parameters_of() if name != "prompts")
        if not settings.has_text:
            return (Stage("fine-tuning", 0, others),)
        return (
            Stage("prompts", 0, ("prompts",), samples=settings.prompt_batch, changes_embedding=False),
            Stage("fine-tuning", settings.encoder_from_epoch, others),
        )

    def parameters_of(self) -> dict[str, list[tuple[str, Parameter]]]:
        owners = {"prompts": "prompts", "projection": "projection", "clothes_classifier": "projection"}
        owned: dict[str, list[tuple[str, Parameter]]] = {}
        for name, parameter in trainable(self):
            owned.setdefault(owners.get(name.partition(".")[0], "model"), []).append((name, parameter))
        return owned

    @torch.no_grad()
    def begin_stage(self, stage: Stage, survey: Survey) -> None:
        """Encode every image once, or every text once."""
        if stage.name == "prompts":
            self.tables = self.encoded(survey)
        else:
            self.tables = {name: self.texts(prompts) for name, prompts in self.prompts.items()}

    def updates(self, batch: Batch) -> Iterator[Update]:
        yield from self.prompt_updates(batch) if self.stage.name == "prompts" else self.encoder_updates(batch)

    # The first stage

    def encoded(self, survey: Survey) -> dict[str, Tensor]:
        """The features that prompts learn from, by prompts: [rows, dim] in the order of the index."""
        none = self.text.logit_scale.new_empty(0, self.dim)
        found: dict[str, list[Tensor]] = {name: [none] for name in self.prompts}
        rows = [torch.empty(0, dtype=torch.int64, device=none.device)]
        for batch in survey:
            rows.append(batch.rows)
            for name, images in self.shown(batch).items():
                found[name].append(self.projected(self.encoder.embeddings(images)))
        order = gather_uneven(torch.cat(rows))
        return {name: in_order(gather_uneven(torch.cat(features)), order) for name, features in found.items()}

    def shown(self, batch: Batch) -> dict[str, Tensor]:
        """The images [B, 3, H, W] that prompts describe, by prompts."""
        images: dict[str, Tensor] = {}
        if "persons" in self.prompts:
            images["persons"] = batch.images if self.settings.shown_to_prompts == "raw" else self.shielded(batch)
        if "outfits" in self.prompts:
            images["outfits"] = self.only_clothes(batch)
        return images

    def only_clothes(self, batch: Batch) -> Tensor:
        """Eq. 11: the images [B, 3, H, W] with all but their clothes painted white."""
        return masked_out(batch.images, ~self.clothing(batch), "white", self.white)

    def shielded(self, batch: Batch) -> Tensor:
        """x^s, Eq. 4: the images [B, 3, H, W] with their clothes, and the margin around them, painted white."""
        return masked_out(batch.images, grown(self.clothing(batch), self.settings.mask_margin), "white", self.white)

    def clothing(self, batch: Batch) -> Tensor:
        """1 − M^p: bool [B, H, W], without a margin. Raises: MethodError where there is no parsing."""
        if batch.parsing is None:
            raise MethodError("CCAF needs each image's parsing map in training: give it beside the images")
        return self.is_clothing[batch.parsing.long()]

    def prompt_updates(self, batch: Batch) -> Iterator[Update]:
        """Eq. 16."""
        labels = {"persons": batch.person, "outfits": batch.clothes}
        losses = {
            name: self.contrast(self.tables[name][batch.rows], prompts, labels[name])
            for name, prompts in self.prompts.items()
        }
        loss = torch.stack(list(losses.values())).sum()
        yield Update("prompts", loss, {f"loss/prompts-{name}": one.detach() for name, one in losses.items()})

    def contrast(self, features: Tensor, prompts: nn.Module, labels: Tensor) -> Tensor:
        """Eqs. 5 + 6, or 12 + 13, of this worker's features [B, dim] and texts with those of the global batch: scalar."""
        classes, row = labels.unique(return_inverse=True)
        texts, first, scale = prompts(classes, self.text)[row], rank() * labels.shape[0], self.scale()
        to_text = paired_contrast_loss(similarities(features, gather(texts), scale), first)
        return to_text + paired_contrast_loss(similarities(texts, gather(features), scale), first)

    @torch.no_grad()
    def end_stage(self, stage: Stage, survey: Survey) -> Mapping[str, Separation]:
        """Fig. 5: texts of persons with their own and with others' images: these as they are, and where there are masks
        also without clothes and the clothes alone."""
        if stage.name != "prompts" or "persons" not in self.prompts:
            return {}
        texts = self.texts(self.prompts["persons"])
        found: dict[str, list[Tensor]] = {name: [texts[:0]] for name in VIEWS}
        person = {name: [torch.empty(0, dtype=torch.int64, device=texts.device)] for name in VIEWS}
        for batch in survey:
            for name, images in self.views_of(batch).items():
                found[name].append(self.projected(self.encoder.embeddings(images)))
                person[name].append(batch.person)
        is_cosine = self.settings.similarity == "cosine"
        compared = {
            f"persons-{name}": separation(
                title, torch.cat(found[name]), torch.cat(person[name]), texts, cosine=is_cosine
            )
            for name, title in VIEWS.items()
        }
        return {name: one for name, one in compared.items() if one is not None}

    def views_of(self, batch: Batch) -> dict[str, Tensor]:
        """The images [B, 3, H, W] that the texts of persons are compared with, by names of VIEWS."""
        images = {"whole": batch.images}
        if batch.parsing is not None:
            images["shielding"] = self.shielded(batch)
            images["clothes"] = self.only_clothes(batch)
        return images

    # The second stage

    def texts(self, prompts: nn.Module) -> Tensor:
        """The text features of all classes: [classes, dim]."""
        assert isinstance(prompts, Prompts)
        classes = torch.arange(prompts.tokens.shape[0], device=prompts.tokens.device)
        return torch.cat([prompts(some, self.text) for some in classes.split(TEXTS_AT_ONCE)])

    def encoder_updates(self, batch: Batch) -> Iterator[Update]:
        """Eq. 17."""
        settings = self.settings
        embeddings = self.encoder.embeddings(batch.images)
        f = self.projected(embeddings)  # [B, dim]
        loss, logs = identification(embeddings, self.classifier, batch.person, settings)  # L_id, Eq. 3
        terms: dict[str, tuple[float, Tensor]] = {}
        if settings.text_alignment:
            terms["text"] = 1.0, self.aligned(f, "persons", batch.person)  # Eq. 7
        if settings.image_alignment:
            shielding, of_shielding = self.shielding_terms(f, batch)
            terms, logs = terms | shielding, logs | of_shielding
        if settings.clothes_minimisation:
            yield self.examination(f.detach(), batch)
            clothes = f @ self.projection.detach()
            terms["disentangle"] = settings.lambda_dis, disentanglement_loss(f, clothes, settings.disentangle)  # Eq. 15
        for weight, term in terms.values():
            loss = loss + weight * term
        yield Update("model", loss, logs | {f"loss/{name}": term.detach() for name, (_, term) in terms.items()})

    def shielding_terms(self, f: Tensor, batch: Batch) -> tuple[dict[str, tuple[float, Tensor]], dict[str, Tensor]]:
        """(weights and losses by name, logs) of the shielding stream, and of its agreement with f [B, dim]."""
        embeddings = self.shielding.embeddings(self.shielded(batch))
        f_s = self.projected(embeddings)
        identity, logs = identification(embeddings, self.shielding_classifier, batch.person, self.settings)  # Eq. 8
        terms = {"shielding": (1.0, identity)}
        if self.settings.aligns_shielding:
            terms["shielding-text"] = 1.0, self.aligned(f_s, "persons", batch.person)  # Eq. 9
        consistency = centre_consistency_loss(gather(f), gather(f_s), gather(batch.person))  # Eq. 10
        terms["consistency"] = self.settings.lambda_con, consistency
        return terms, {"accuracy/shielding-person": logs["accuracy/person"]}

    def examination(self, f: Tensor, batch: Batch) -> Update:
        """Eq. 14, of features that are held fixed: what the projection finds of the clothes in them."""
        clothes = f @ self.projection
        if self.settings.clothes_targets == "one-hot":
            logits = self.clothes_classifier(clothes)
        else:
            logits = similarities(clothes, self.tables["outfits"], self.scale())
        loss = identity_loss(logits, batch.clothes)
        return Update("projection", loss, {"accuracy/clothes": accuracy(logits, batch.clothes)})

    def aligned(self, features: Tensor, name: str, labels: Tensor) -> Tensor:
        return text_alignment_loss(features, self.tables[name], labels, self.scale(), self.settings.label_smoothing)

    def scale(self) -> Tensor | float | None:
        """The factor on cosines; None for dot products."""
        if self.settings.similarity == "dot":
            return None
        given = self.settings.similarity_scale
        return self.text.scale if given is None else given

    def projected(self, embeddings: Embeddings) -> Tensor:
        """f [B, dim], in the space of the texts."""
        return embeddings.before_neck[:, -self.dim :]

    # At test time

    def embed(self, images: Tensor) -> Tensor:
        return self.encoder.embeddings(images).before_neck

    forward = embed

    def describe(self, maps: Tensor) -> Tensor:
        return self.encoder.embeddings_of(maps).before_neck

    def load_backbone(self, state: Mapping[str, Any]) -> None:
        """Both image towers start from the same weights, the text tower from those that go with them."""
        self.encoder.load(state)
        if self.settings.image_alignment:
            self.shielding.load(state)
        if self.settings.has_text:
            load_text_tower(self.text, state)


def stream(settings: CCAFSettings, facts: DataFacts) -> tuple[Body, nn.Module]:
    """An image tower with its neck, and its identity classifier."""
    body = build_body(settings)
    return body, identity_classifiers(body, facts, settings, bias=False)


def size_of(body: Body) -> CLIPSize:
    assert isinstance(body, CLIPViT | CLIPCNN)
    return body.size


def in_order(features: Tensor, rows: Tensor) -> Tensor:
    """features [N, D] of these rows → of the rows 0 to N − 1. Raises: MethodError where a row is missing or there twice."""
    order = rows.argsort()
    if not torch.equal(rows[order], torch.arange(rows.shape[0], device=rows.device)):
        raise MethodError("the survey of the training set does not have each row once, so features cannot be looked up")
    return features[order]


def refuse_many_classes(settings: CCAFSettings, facts: DataFacts) -> None:
    number = facts.num_persons * settings.describes_persons + facts.num_clothes * settings.describes_clothes
    if number > MOST_CLASSES:
        what = "persons and outfits" if settings.describes_clothes else "persons"
        raise MethodError(
            f"{number:,} {what} need a prompt each, and CCAF holds at most {MOST_CLASSES:,} on every worker. "
            f"{fix(settings, 'people')}"
        )


def refuse_large_table(settings: CCAFSettings, images: int, dim: int) -> None:
    views = settings.describes_persons + settings.describes_clothes
    if (size := 4 * images * dim * views) > MOST_TABLE_BYTES:
        raise MethodError(
            f"features of {images:,} images, {views} × {dim} numbers each, take {size >> 20:,} MiB on every worker, and CCAF "
            f"holds at most {MOST_TABLE_BYTES >> 20:,}. {fix(settings, 'images')}"
        )


def fix(settings: CCAFSettings, what: str) -> str:
    one_hot = (
        ", or set method.clothes_targets=one-hot, which describes no outfits" if settings.describes_clothes else ""
    )
    return f"Train on fewer {what}{one_hot}"
