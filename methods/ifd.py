"""IFD: Xu et al., Identity-aware Feature Decoupling Learning for Clothing-change Person Re-identification.

What is unusual: a second network sees the person without clothes, and weighs the places of the first network's maps, which
sees everything. A contrastive loss pulls together the first network's features of all outfits of a person.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from methods.backbones.bodies import build_body
from methods.baseline import BaselineSettings, classification, identification, identity_classifiers
from methods.distributed import gather, rank
from methods.losses.cosine import cosines
from methods.losses.ifd import clothing_contrastive_loss
from methods.losses.supervised_contrastive import supervised_contrastive_loss
from methods.masking import Fill, grown, label_table, masked_out
from methods.method import Batch, DataFacts, Method, MethodError, Needs, Stage, Update

Resize = Literal["nearest", "bilinear", "area"]


class IFDSettings(BaselineSettings, extra="forbid", frozen=True):
    joint_from_epoch: int = Field(20, ge=0)  # Sec. II-C: before it the attention stream trains alone; no number given
    knowledge_transfer: bool = True  # IKT, Sec. II-A; Table II
    clothing_loss: Literal["clothing", "supervised", "none"] = "clothing"  # CBD, Sec. II-B; Table II
    clothing_weight: float = Field(1.0, ge=0)  # λ, Eq. 6
    tau: float = Field(0.1, gt=0)  # Eq. 4; no number given: that of Khosla et al., whose loss Eq. 4 varies
    T: float = Field(0.5, gt=0)  # Eq. 5; no number given; 1/T > 1 serves the stated purpose
    count_anchors_without_positives: bool = False  # in the N of Eq. 4
    kernel: int = Field(7, ge=1)  # Eq. 1; no number given: that of the spatial attention of Woo et al. (CBAM)
    main_trains_attention: bool = True  # the gradient of the main stream's losses through W_I
    mask_fill: Fill = "zero"  # what the attention stream sees instead of clothes
    mask_margin: int = Field(1, ge=0)  # pixels around them that it does not see either
    mask_resize: Resize = "nearest"  # of ψ to the maps' size, before Eq. 3 is applied to them

    @field_validator("kernel")
    @classmethod
    def kernel_has_a_centre(cls, kernel: int) -> int:
        if kernel % 2 == 0:
            raise ValueError(
                f"a kernel of {kernel} has no centre, and would shift the attention: set it to {kernel + 1}"
            )
        return kernel

    @model_validator(mode="after")
    def body_has_no_phases(self) -> IFDSettings:
        if self.refine_from_epoch is not None:
            raise ValueError(
                "refined part pooling holds a whole network fixed while its part classifier learns, and IFD trains two of "
                "them in stages of its own: leave refine_from_epoch and finetune_from_epoch out"
            )
        return self


class IFD(Method):
    """Two of the baseline's networks, without shared weights: the attention stream on images whose clothes are masked out,
    the main stream on the images as they are, which alone is the descriptor.

    The paper has no published code and leaves much open. What is done here, and which setting gives the other:
    - Eq. 6 is one loss, "mutual learning", and no stopped gradient is mentioned: the main stream's losses train the
      attention stream as well, through W_I. main_trains_attention false cuts that, so that what sees no clothes never
      learns from what does; the convolution of Eq. 1 has no other loss than the main stream's in either case.
    - L_ID is the baseline's, on a batch-norm neck, in both streams; neither is said.
    - f_c are normalised in L_CCL, whose τ means nothing otherwise. T: see `clothing_contrastive_loss`.
    - "IFD w/ CL" has the supervised contrastive loss that the paper cites, on the same f_c: clothing_loss "supervised".
    - C, the clothes: the data set's label map says which labels those are.
    - an image whose W_c is empty (its parser found no clothes, or so few that none are left at the maps' size) is in no
      pair of L_CCL. share/without-clothes is logged.
    - clothes are masked out last, by the mask that was moved with the image, and random erasing leaves masks alone: it
      reveals nothing. mask_margin: resizing and JPEG blur a garment's colour over its edge.
    - on a body of tokens, W_I weighs the patches before the last block and leaves the class token as it is, and f_c is of
      the patches.

    Table II: "baseline" has knowledge_transfer false and clothing_loss "none"; "w/ IKT" clothing_loss "none" alone;
    "w/ CBD" knowledge_transfer false alone. Without knowledge transfer there is no attention stream, so no stage for it,
    and no parsing at test time.
    """

    Settings = IFDSettings
    is_clothing: Tensor  # bool [256], by label: the paper's C

    def __init__(self, settings: IFDSettings, facts: DataFacts) -> None:
        super().__init__(settings, facts)
        self.settings = settings
        self.main = build_body(settings)
        self.classifier = identity_classifiers(self.main, facts, settings)
        if settings.knowledge_transfer:
            self.inputs = ("images", "parsing")
            self.attention = build_body(settings)
            self.attention_classifier = identity_classifiers(self.attention, facts, settings)
            self.knowledge_transfer = KnowledgeTransfer(settings.kernel)
        if settings.clothing_loss != "none":
            self.bias_diminishing = BiasDiminishing(self.main.channels, settings.mask_resize)
        self.register_buffer("is_clothing", label_table(facts.clothing_labels), persistent=False)
        self.white = facts.white

    @classmethod
    def needs(cls, settings: IFDSettings) -> Needs:
        return Needs(clothes=True, parsing=True)

    def stages(self) -> tuple[Stage, ...]:
        """The attention stream alone, then both, Sec. II-C."""
        joint = Stage("joint", self.settings.joint_from_epoch if self.settings.knowledge_transfer else 0, ("model",))
        return (joint,) if joint.first_epoch == 0 else (Stage("attention", 0, ("model",)), joint)

    def updates(self, batch: Batch) -> Iterator[Update]:
        settings, clothing = self.settings, self.clothing(batch.parsing)
        loss: Tensor | float = 0.0
        logs: dict[str, Tensor] = {}
        attention_maps = None
        if settings.knowledge_transfer:
            attention_maps = self.attention_maps(batch.images, clothing)
            loss, logs = self.attention_identification(attention_maps, batch.person)  # L_ID of the attention stream
            if self.stage.name == "attention":
                yield Update("model", loss, logs)
                return
            if not settings.main_trains_attention:
                attention_maps = attention_maps.detach()
        maps = self.refined(batch.images, attention_maps)
        embeddings = self.main.embeddings_of(maps)
        identity, of_main = identification(embeddings, self.classifier, batch.person, settings)
        loss, logs = identity + loss, of_main | logs
        if settings.clothing_loss != "none":
            places = self.main.over_places(maps, batch.images.shape[2:])
            shows = self.bias_diminishing.shows(places, clothing)
            contrastive = self.clothing_loss(self.bias_diminishing(places, clothing), shows, batch)
            loss = loss + settings.clothing_weight * contrastive  # Eq. 6
            logs |= {"loss/clothing": contrastive.detach(), "share/without-clothes": (~shows).double().mean()}
        yield Update("model", loss, logs)

    def clothing(self, parsing: Tensor | None) -> Tensor:
        """ψ of Eq. 3: bool [B, H, W], where the images show clothes. Raises: MethodError where there is no parsing."""
        if parsing is None:
            raise MethodError(
                "IFD needs each image's parsing map: give it beside the images, or set knowledge_transfer=false"
            )
        return self.is_clothing[parsing.long()]

    def attention_maps(self, images: Tensor, clothing: Tensor) -> Tensor:
        """F_a: the attention stream's maps [B, C, h, w] of the images without their clothes."""
        return self.attention.maps(self.without_clothes(images, clothing))

    def without_clothes(self, images: Tensor, clothing: Tensor) -> Tensor:
        """The images [B, 3, H, W] as the attention stream sees them."""
        return masked_out(images, grown(clothing, self.settings.mask_margin), self.settings.mask_fill, self.white)

    def attention_identification(self, maps: Tensor, person: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        embeddings = self.attention.embeddings_of(maps)
        loss, found = classification(embeddings, self.attention_classifier, person, self.settings)
        return loss, {"loss/attention-identity": loss.detach(), "accuracy/attention-person": found}

    def refined(self, images: Tensor, attention_maps: Tensor | None) -> Tensor:
        """F_rg [B, C, h, w]; without knowledge transfer F_g, the main stream's own maps."""
        maps = self.main.maps(images)
        if attention_maps is None:
            return maps
        return self.main.weighed(maps, self.attention_weights(attention_maps, images))  # Eq. 2

    def attention_weights(self, attention_maps: Tensor, images: Tensor) -> Tensor:
        """W_I, Eq. 1: [B, 1, h, w], of the attention stream's maps of the images."""
        return self.knowledge_transfer(self.attention.over_places(attention_maps, images.shape[2:]))

    def clothing_loss(self, features: Tensor, shows: Tensor, batch: Batch) -> Tensor:
        """L_CCL, or the supervised contrastive loss, of this worker's f_c [B, C] against those of the global batch.

        shows: bool [B], whether the image shows clothes.
        """
        settings, first = self.settings, rank() * len(features)
        logits = cosines(features, gather(features)) / settings.tau
        count_all = settings.count_anchors_without_positives
        persons, present = gather(batch.person), gather(shows)
        if settings.clothing_loss == "supervised":
            return supervised_contrastive_loss(logits, batch.person, persons, first, count_all, present)
        clothes = gather(batch.clothes)
        return clothing_contrastive_loss(
            logits, batch.person, batch.clothes, persons, clothes, settings.T, first, count_all, present
        )

    def maps(self, images: Tensor, parsing: Tensor | None = None) -> Tensor:
        """The maps that are pooled into the descriptor: F_rg [B, C, h, w]."""
        if not self.settings.knowledge_transfer:
            return self.refined(images, None)
        return self.refined(images, self.attention_maps(images, self.clothing(parsing)))

    def views(self, images: Tensor, parsing: Tensor | None = None) -> dict[str, Tensor]:
        """The attention, and what the attention stream sees; nothing without knowledge transfer."""
        if not self.settings.knowledge_transfer:
            return {}
        clothing = self.clothing(parsing)
        attention = self.attention_weights(self.attention_maps(images, clothing), images)[:, 0]
        return {"attention W_I": attention, "without clothes": self.without_clothes(images, clothing)}

    def describe(self, maps: Tensor) -> Tensor:
        return self.main.describe(maps)

    def heat(self, cam: Tensor, images: Tensor) -> Tensor:
        return self.main.heat(cam, images.shape[2:])

    def embed(self, images: Tensor, parsing: Tensor | None = None) -> Tensor:
        """images [B, 3, H, W], and with knowledge transfer their parsing, uint8 [B, H, W] → descriptor [B, D]."""
        return self.describe(self.maps(images, parsing))

    forward = embed

    def weights_address(self) -> str | None:
        return self.main.weights_address()

    def load_backbone(self, state: Mapping[str, Any]) -> None:
        """Both streams start from the same weights."""
        self.main.load(state)
        if self.settings.knowledge_transfer:
            self.attention.load(state)


class KnowledgeTransfer(nn.Module):
    """The attention W_I of IKT, Eq. 1: maps F_a [B, C, h, w] → [B, 1, h, w], 0…1. The paper's formula has no bias."""

    def __init__(self, kernel: int, bias: bool = False) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(2, 1, kernel, padding=kernel // 2, bias=bias)

    def forward(self, maps: Tensor) -> Tensor:
        pooled = torch.cat([maps.amax(1, keepdim=True), maps.mean(1, keepdim=True)], 1)
        return self.convolution(pooled).sigmoid()


class BiasDiminishing(nn.Module):
    """The clothing features f_c of CBD: maps F_rg [B, C, h, w], clothing ψ (bool [B, H, W]) → [B, C].

    Batch norm, then the mean over all positions, in the order of the text.
    """

    def __init__(self, channels: int, resize: Resize) -> None:
        super().__init__()
        self.resize = resize
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, maps: Tensor, clothing: Tensor) -> Tensor:
        maps = maps.to(self.norm.weight.dtype)  # maps are half as precise under autocast
        return self.norm(resized(clothing, maps, self.resize) * maps).mean((2, 3))

    def shows(self, maps: Tensor, clothing: Tensor) -> Tensor:
        """Whether the images show clothes at the maps' size: bool [B]."""
        return (resized(clothing, maps, self.resize) > 0).flatten(1).any(1)


def resized(mask: Tensor, maps: Tensor, resize: Resize) -> Tensor:
    """The mask (bool [B, H, W]) at the size and in the dtype of maps [B, C, h, w]: W_c [B, 1, h, w], 0…1."""
    return F.interpolate(mask[:, None].to(maps.dtype), maps.shape[2:], mode=resize)
