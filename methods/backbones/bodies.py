"""The bodies that a method can take, by name, and the settings that choose and shape one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, Field, model_validator

from methods.backbones.body import Body, Triplet
from methods.backbones.clip.sizes import TOWERS
from methods.backbones.clip_cnn import CLIPCNN
from methods.backbones.clip_vit import CLIPFeatures, CLIPViT
from methods.backbones.hpm import HPM
from methods.backbones.image_encoder import ImageEncoder
from methods.backbones.mgn import MGN
from methods.backbones.pcb import PCB, PCBDescriptor

BODIES: dict[str, type[Body]] = {
    "global": ImageEncoder, "pcb": PCB, "mgn": MGN, "hpm": HPM, "clip-vit": CLIPViT, "clip-cnn": CLIPCNN,
}  # fmt: skip
Pooling = Literal["max-average", "max", "average", "generalised-mean"]  # the names of POOLINGS
OWN_SETTINGS: dict[str, tuple[str, ...]] = {  # those that not all bodies have
    "global": ("backbone", "last_stride", "pooling", "neck_bias", "triplet_before_neck"),
    "pcb": ("backbone", "last_stride", "descriptor", "refine_from_epoch", "finetune_from_epoch"),
    "mgn": ("backbone",),
    "hpm": ("backbone", "last_stride"),
    "clip-vit": ("tower", "patch_stride", "clip_features", "neck_bias", "triplet_before_neck"),
    "clip-cnn": ("clip_features", "neck_bias", "triplet_before_neck"),
}


class BodySettings(BaseModel, extra="forbid", frozen=True):
    """body: "global" has one embedding of the whole person (CAL's network), and so have "clip-vit", a vision transformer, and
    "clip-cnn", which takes its place on small machines; the others have one for each part."""

    backbone: Literal["resnet18", "resnet34", "resnet50", "resnet101"] = "resnet50"
    body: Literal["global", "pcb", "mgn", "hpm", "clip-vit", "clip-cnn"] = "global"
    width: float = Field(1.0, ge=1 / 16, le=4)  # factor on every layer's channels; pre-trained weights need 1
    last_stride: Literal[1, 2] = 1  # CAL, Sec. 5.2; PCB, Sec. 3.1: the last down-sampling is removed
    pooling: Pooling = "max-average"  # CAL, Sec. 5.2; its code has "max" for video
    neck_bias: bool = True
    triplet_before_neck: bool = False  # behind it, as CAL's code; before it, as the strong baseline of Luo et al.
    descriptor: PCBDescriptor = "normalised-G"  # of PCB, Sec. 3.1: its parts before or after they are reduced
    refine_from_epoch: int | None = Field(None, ge=0)  # PCB's refined part pooling, Sec. 3.3; none: stripes throughout
    finetune_from_epoch: int | None = Field(None, ge=0)  # from then on it is no longer the part classifier alone
    tower: Literal["vit-b16", "vit-l14"] = "vit-b16"  # of clip-vit: CLIP's image tower
    patch_stride: int | None = Field(None, ge=1)  # of clip-vit; none: a patch's side. TransReID, CLIP-ReID: 16, and 12
    clip_features: CLIPFeatures = "projected"  # of clip-vit, clip-cnn; "both": 768 ++ 512, as CLIP-ReID

    @model_validator(mode="after")
    def settings_are_of_the_body(self) -> Self:
        """Raises: ValueError where a setting is changed that the body does not have."""
        others = {name for names in OWN_SETTINGS.values() for name in names}.difference(OWN_SETTINGS[self.body])
        for name in sorted(others):
            if (value := getattr(self, name)) != type(self).model_fields[name].default:
                able = [body for body, names in OWN_SETTINGS.items() if name in names]
                default = json.dumps(type(self).model_fields[name].default)
                raise ValueError(
                    f"body {self.body!r} has no {name} ({value!r}): leave it out, or set body to {' or '.join(able)}. Where "
                    f"a recipe sets it, method.{name}={default} takes it back"
                )
        return self

    @model_validator(mode="after")
    def patches_leave_no_gap(self) -> Self:
        patch = TOWERS[self.tower].patch
        if self.patch_stride is not None and self.patch_stride > patch:
            raise ValueError(
                f"patch_stride {self.patch_stride} leaves gaps between the patches of {self.tower}: set it to at most {patch}"
            )
        return self

    @model_validator(mode="after")
    def refinement_has_its_epochs(self) -> Self:
        first, then = self.refine_from_epoch, self.finetune_from_epoch
        if (first is None) != (then is None):
            raise ValueError(
                "refined part pooling needs both refine_from_epoch, where the part classifier begins to learn alone, and "
                "finetune_from_epoch, where everything else resumes training: set both, or neither"
            )
        if first is not None and then is not None and then < first:
            raise ValueError(
                f"finetune_from_epoch ({then}) is before refine_from_epoch ({first}), where there is nothing to fine-tune "
                "yet: set it to at least that"
            )
        return self

    @property
    def own_triplet(self) -> Triplet:
        """The triplet loss of the body's own paper."""
        return BODIES[self.body].triplet


def as_stored_now(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A method's settings as this version stores them. Up to 0.2.0 the default of `descriptor`, which only PCB has, was "G"."""
    has_descriptor = "descriptor" in OWN_SETTINGS.get(settings.get("body", "global"), ())
    is_former_default = settings.get("descriptor") == "G" and not has_descriptor
    return {name: value for name, value in settings.items() if name != "descriptor" or not is_former_default}


def build_body(settings: BodySettings) -> Body:
    """The body of the settings, with random weights from torch's global generator."""
    own = {name: getattr(settings, name) for name in OWN_SETTINGS[settings.body]}
    build: Callable[..., Body] = BODIES[settings.body]
    return build(width=settings.width, **own)
