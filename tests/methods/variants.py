"""Every method in small, with the settings that change what it computes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from methods import METHODS
from methods.method import Batch, DataFacts, Method
from methods.sharded.share import Share, own_share

SMALL: dict[str, Any] = {"backbone": "resnet18", "width": 1 / 16}
PARTS = {"backbone": "resnet18", "width": 1 / 8}  # a part has 32 numbers
PCB_REFINED = PARTS | {"body": "pcb", "refine_from_epoch": 1, "finetune_from_epoch": 3}
TOKENS: dict[str, Any] = {"body": "clip-vit", "width": 1 / 16}  # 48 channels, one head, 12 layers
PROMPTED: dict[str, Any] = {"width": 1 / 16, "encoder_from_epoch": 2, "prompt_batch": 8}
CLIP_REID: dict[str, Any] = {"shown_to_prompts": "raw", "image_alignment": False, "clothes_minimisation": False}
WITHOUT = ("text_alignment", "image_alignment", "clothes_minimisation")
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "baseline": ("baseline", SMALL),
    "baseline with triplet loss": ("baseline", SMALL | {"triplet_weight": 1.0, "neck_bias": False}),
    "baseline with the strong baseline's triplet loss": (
        "baseline",
        SMALL | {"triplet_weight": 1.0, "triplet_distance": "euclidean", "triplet_before_neck": True},
    ),
    "baseline with generalised mean": ("baseline", SMALL | {"pooling": "generalised-mean"}),
    "baseline with CosFace and contrastive loss": (
        "baseline",
        SMALL | {"identity_loss": "cosface", "identity_margin": 0.2, "pair_loss": "contrastive", "triplet_weight": 1.0},
    ),
    "baseline on PCB with ArcFace and pairwise CosFace": (
        "baseline",
        PARTS | {"body": "pcb", "identity_loss": "arcface", "pair_loss": "cosface", "triplet_weight": 0.5},
    ),
    "ifd with circle losses": (
        "ifd",
        SMALL | {"joint_from_epoch": 0, "identity_loss": "circle", "pair_loss": "circle", "triplet_weight": 1.0},
    ),
    "baseline on PCB": ("baseline", PARTS | {"body": "pcb", "triplet_weight": 1.0}),
    "baseline on PCB with refined parts": ("baseline", PCB_REFINED | {"descriptor": "H"}),
    "baseline on MGN": ("baseline", PARTS | {"body": "mgn"}),
    "baseline on HPM": ("baseline", PARTS | {"body": "hpm", "part_losses": "mean"}),
    "baseline on CLIP's ViT": ("baseline", TOKENS),
    "baseline on the small CLIP": ("baseline", {"body": "clip-cnn", "width": 1 / 4, "clip_features": "both"}),
    "baseline on CLIP's ViT, both features of overlapping patches": (
        "baseline",
        TOKENS
        | {"clip_features": "both", "patch_stride": 8, "triplet_weight": 1.0}
        | {"triplet_distance": "euclidean", "triplet_before_neck": True},
    ),
    "cal": ("cal", SMALL | {"adversarial_from_epoch": 0}),
    "cal with triplet loss": ("cal", SMALL | {"adversarial_from_epoch": 0, "triplet_weight": 1.0}),
    "cal with memory": ("cal", SMALL | {"adversarial_from_epoch": 0, "proxies": "memory", "memory_momentum": 0.5}),
    "cal, clothes classifier only": ("cal", SMALL | {"adversarial_from_epoch": 0, "objective": "clothes-classifier"}),
    "cal, negative": ("cal", SMALL | {"adversarial_from_epoch": 0, "objective": "negative"}),
    "cal, clothes classifier first": ("cal", SMALL | {"clothes_classifier_from_epoch": 0}),
    "cal on PCB with refined parts": ("cal", PCB_REFINED | {"adversarial_from_epoch": 2}),
    "cal on MGN": ("cal", PARTS | {"adversarial_from_epoch": 0, "body": "mgn"}),
    "cal on CLIP's ViT": ("cal", TOKENS | {"adversarial_from_epoch": 0}),
    "ccaf": ("ccaf", PROMPTED),
    "ccaf, orthogonal, by dot products and one-hot clothes": (
        "ccaf",
        PROMPTED | {"similarity": "dot", "clothes_targets": "one-hot", "disentangle": "orthogonal"},
    ),
    "ccaf as printed, texts of outfits alone": (
        "ccaf",
        PROMPTED | {"disentangle": "printed", "text_alignment": False, "shielding_text_alignment": False},
    ),
    "ccaf on the small CLIP": ("ccaf", PROMPTED | {"body": "clip-cnn", "width": 1 / 4}),
    "ccaf, baseline": ("ccaf", PROMPTED | dict.fromkeys(WITHOUT, False)),
    "ccaf as CLIP-ReID": (
        "ccaf",
        PROMPTED
        | CLIP_REID
        | {"similarity": "dot", "clip_features": "both", "identity_weight": 0.25, "patch_stride": 8},
    ),
    "ifd": ("ifd", SMALL | {"joint_from_epoch": 0}),
    "ifd, attention first": ("ifd", SMALL | {"main_trains_attention": False, "mask_fill": "mean", "kernel": 3}),
    "ifd with supervised contrastive loss": ("ifd", SMALL | {"joint_from_epoch": 0, "clothing_loss": "supervised"}),
    "ifd on HPM": ("ifd", PARTS | {"joint_from_epoch": 0, "body": "hpm"}),
    "ifd on CLIP's ViT": (
        "ifd",
        TOKENS | {"joint_from_epoch": 0, "patch_stride": 8, "kernel": 3, "mask_fill": "white"},
    ),
    "ifd, bias diminishing only": ("ifd", SMALL | {"knowledge_transfer": False, "mask_resize": "area"}),
    "pixel sampling": ("pixel-sampling", SMALL),
    "pixel sampling as published": ("pixel-sampling", SMALL | {"consistency": "sigmoid", "label_smoothing": 0.1}),
    "pixel sampling on PCB with refined parts": ("pixel-sampling", PCB_REFINED),
    "pixel sampling on MGN": ("pixel-sampling", PARTS | {"body": "mgn"}),
    "pixel sampling on CLIP's ViT": ("pixel-sampling", TOKENS),
    "pixel sampling without consistency": ("pixel-sampling", SMALL | {"consistency_weight": 0.0}),
}
# Variants with their classes divided over the workers; they are the same training.
SHARDED = (
    "baseline on PCB with ArcFace and pairwise CosFace",
    "cal",
    "cal with memory",
    "cal, negative",
    "ifd with circle losses",
    "pixel sampling on PCB with refined parts",
)
VARIANTS |= {f"{name}, sharded": (VARIANTS[name][0], VARIANTS[name][1] | {"shard_classes": True}) for name in SHARDED}
PARTIAL = {"shard_classes": True, "partial_classes": 0.5}
VARIANTS |= {
    "cal on MGN, half of the classes": ("cal", VARIANTS["cal on MGN"][1] | PARTIAL),
}
NUM_PERSONS, NUM_CLOTHES = 5, 8


def facts(share: Share | None = None) -> DataFacts:
    """Five persons; three have two suits of clothes. share: of the classes; by default this worker's."""
    owner = torch.tensor([0, 0, 1, 1, 2, 3, 3, 4])
    return DataFacts(NUM_PERSONS, owner, clothing_labels=(5, 9), share=share or own_share())


def build(variant: str, dtype: torch.dtype = torch.float64, share: Share | None = None) -> Method:
    name, settings = VARIANTS[variant]
    torch.manual_seed(7)
    return METHODS[name](METHODS[name].Settings(**settings), facts(share)).to(dtype)


def batch(dtype: torch.dtype = torch.float64, seed: int = 0) -> Batch:
    """Four persons × two images, 32 × 16, and the same in other clothes. Most masks show clothes at the maps' size."""
    random = torch.Generator().manual_seed(seed)
    images = torch.randn(16, 3, 32, 16, dtype=dtype, generator=random)
    person = torch.tensor([0, 0, 1, 1, 3, 3, 4, 4]).repeat(2)
    clothes = torch.tensor([0, 1, 2, 3, 5, 6, 7, 7]).repeat(2)
    parsing = torch.tensor([0, 3, 5, 9], dtype=torch.uint8)[torch.randint(0, 4, (16, 32, 16), generator=random)]
    return Batch(images, person, clothes, parsing, is_paired=True, rows=torch.arange(16))


def share(whole: Batch, worker: int, workers: int) -> Batch:
    """A worker's contiguous block of the global batch, and the same samples in other clothes."""
    rows = torch.arange(len(whole.person)).view(2, workers, -1)[:, worker].flatten()
    return of_rows(whole, rows)


def of_rows(whole: Batch, rows: Tensor) -> Batch:
    assert whole.parsing is not None
    parts = (tensor[rows] for tensor in (whole.images, whole.person, whole.clothes, whole.parsing))
    return Batch(*parts, is_paired=True, rows=whole.rows[rows])


def begin(method: Method, epoch: int, survey: Batch | None = None) -> None:
    """What the loop does before the first update of an epoch in which a stage begins.

    survey: this worker's share of the training set; by default the batch's images are all there are.
    """
    method.begin_epoch(epoch)
    was_training, dtype = method.training, next(method.parameters()).dtype
    with torch.no_grad():
        method.eval().begin_stage(method.stage, [batch(dtype) if survey is None else survey])
    method.train(was_training)
