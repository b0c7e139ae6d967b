"""Semantic-guided pixel sampling: clothes are filled with the pixels of other people's clothes (Shu et al., Sec. II-A).

An augmentation of uint8 images with their masks, for any method: after crop and flip have moved both, before normalising
and erasing. Pixels move as whole RGB vectors in raster order, which runs over the whole batch; the published code lets
colour channels slip wherever images have different amounts of clothes. The batch is the global one, so the result does
not depend on the number of workers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from methods.distributed import gather, rank

Parts = Literal["both", "upper", "trousers", "random"]

UPPER, TROUSERS = 2, 3  # of the paper's six parts
CHANGED: dict[str, tuple[int, ...]] = {"both": (UPPER, TROUSERS), "upper": (UPPER,), "trousers": (TROUSERS,)}
SPAWN_KEY = (1,)  # what makes these draws others than those of crop and flip, from the same seed


@dataclass(frozen=True)
class ClothesSampling:
    """The settings of pixel sampling.

    part_of_label: uint8 [256], which of the six parts each label of a mask belongs to. parts: the parts changed in a step;
    "both" as the published code, "random" draws one of the other three for each step. probability: that an image gets
    other clothes. beside: the original images stay in the batch, which then has twice the samples: the originals first,
    then the same in other clothes, the paper's 2B.
    """

    part_of_label: Tensor
    parts: Parts = "both"
    probability: float = 1.0
    beside: bool = True


@dataclass(frozen=True)
class ClothesDraws:
    """The random draws for a global batch of `num` samples, on the host.

    order: for each part that is changed, the a_i of Eq. 1: int64 [num], the order in which samples fill the bank.
    is_changed: bool [num], True where a sample gets other clothes.
    """

    order: Mapping[int, Tensor]
    is_changed: Tensor


def draw_clothes(settings: ClothesSampling, num: int, seed: tuple[int, ...]) -> ClothesDraws:
    """`seed` is (seed, epoch, batch) or the like, integers from 0 on. Each part has its own permutation of the samples."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=SPAWN_KEY)))
    order = {part: torch.from_numpy(rng.permutation(num)) for part in (UPPER, TROUSERS)}
    drawn = list(CHANGED)[rng.integers(len(CHANGED))]
    changed = CHANGED[drawn if settings.parts == "random" else settings.parts]
    is_changed = torch.from_numpy(rng.random(num) < settings.probability)
    return ClothesDraws({part: order[part] for part in changed}, is_changed)


def in_other_clothes(images: Tensor, parsing: Tensor, settings: ClothesSampling, draws: ClothesDraws) -> Tensor:
    """This worker's samples of the global batch in other clothes, as new images; every worker calls it.

    images: uint8 [B, 3, H, W], or clips [B, T, 3, H, W]. parsing: uint8 [B, H, W] or [B, T, H, W].
    """
    parts = settings.part_of_label.to(parsing.device)[parsing.long()]
    rows = slice(rank() * len(images), (rank() + 1) * len(images))
    pixels = gather(images.movedim(-3, -1)).movedim(-1, -3)  # this way around it copies nothing that is channels last
    changed = sample_pixels(pixels, gather(parts), draws.order, rows)
    chosen = draws.is_changed[rows].to(images.device).view(-1, *[1] * (images.ndim - 1))
    return torch.where(chosen, changed, images)


def sample_pixels(images: Tensor, parts: Tensor, order: Mapping[int, Tensor], rows: slice = slice(None)) -> Tensor:
    """Eqs. 1 and 2: those `rows` of a batch of images [N, …, 3, H, W] whose parts have the pixels of the shuffled batch.

    images: any dtype, fastest when channels_last. parts: uint8 or int64 [N, …, H, W]. order: for each part to be changed,
    the a_i of Eq. 1, int64 [N]. All banks are of the images as given. What is no such part stays as it is.
    """
    pixels = images.movedim(-3, -1)
    colours = pixels.reshape(-1, 3)  # in raster order, as all that follows
    result = pixels[rows].clone(memory_format=torch.contiguous_format)
    first, stop, _ = rows.indices(len(images))
    for part, order_N in order.items():
        is_part = parts == part
        places = is_part.flatten().nonzero()[:, 0]  # [N_u]
        count_N = is_part.flatten(1).sum(1, dtype=torch.int32)
        begin, end = (int(count_N[:image].sum()) for image in (first, stop))
        bank = places.index_select(0, shuffled(count_N, order_N.to(images.device))[begin:end])  # Eq. 1, as places
        written = places[begin:end] - first * parts[0].numel()
        result.view(-1, 3).index_copy_(0, written, colours.index_select(0, bank))  # Eq. 2
    return result.movedim(-1, -3)


def shuffled(count_N: Tensor, order_N: Tensor) -> Tensor:
    """Rows that lie image after image, `count_N` of each, in the order of the shuffled images: int64 [Σ count_N]."""
    began_N = count_N.cumsum(0) - count_N
    count_S = count_N[order_N]
    shift_S = began_N[order_N] - (count_S.cumsum(0) - count_S)
    shift = shift_S.repeat_interleave(count_S)
    return torch.arange(len(shift), device=shift.device) + shift
