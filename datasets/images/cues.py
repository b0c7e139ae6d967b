"""Cues: the part of a person that a test image shows; the rest is painted over (head and body cues of Shu et al., Table IV).

A cue keeps some of the three regions head, body and feet. By parsing masks, the head is the part of that name, the feet are
shoes and socks, the body is the rest of the person, and the background is in no region. By fixed shares of the height, as in
CAL's Table 6, the top 2/7 is the head, the bottom 1/7 the feet, and the body is between them, each with its background.
Neither paper says what replaces the removed pixels. Here it is one colour, given by the caller, painted before the image is
resized, so that nothing removed is blurred into what is kept. Masks become 0 (background) where images are painted over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import torch
from torch import Tensor

from datasets.images.label_maps import PARTS, LabelMap

CueName = Literal["head", "head-body", "body", "head-rows", "head-body-rows", "body-rows"]
HEAD_ENDS, FEET_BEGIN = Fraction(2, 7), Fraction(6, 7)  # of the height: CAL, Table 6
FOOTWEAR = ("shoe", "socks")  # labels that end so belong to the feet


@dataclass(frozen=True)
class Cue:
    """A cue. head, body: whether these regions are kept; the feet never are. by_masks: regions by masks, else by height."""

    head: bool
    body: bool
    by_masks: bool


CUES: dict[CueName, Cue] = {
    "head": Cue(True, False, True),
    "head-body": Cue(True, True, True),
    "body": Cue(False, True, True),
    "head-rows": Cue(True, False, False),
    "head-body-rows": Cue(True, True, False),
    "body-rows": Cue(False, True, False),
}


def feet_labels(labels: LabelMap) -> tuple[int, ...]:
    """The labels of footwear; empty where the label map has none."""
    return tuple(number for number, name in enumerate(labels.labels) if name.endswith(FOOTWEAR))


def kept_labels(cue: Cue, labels: LabelMap) -> Tensor:
    """bool [256]: True for the labels that a cue by masks keeps."""
    head, background = PARTS.index("head"), PARTS.index("background")
    parts = labels.part_table()
    is_foot = torch.zeros(256, dtype=torch.bool)
    is_foot[list(feet_labels(labels))] = True
    is_head = (parts == head) & ~is_foot
    is_body = (parts != head) & (parts != background) & ~is_foot
    return (is_head & cue.head) | (is_body & cue.body)


def kept_rows(cue: Cue, height: int) -> tuple[int, int]:
    """The rows [top, bottom) that a cue by shares of the height keeps."""
    head_ends, feet_begin = round(height * HEAD_ENDS), round(height * FEET_BEGIN)
    return (0 if cue.head else head_ends), (feet_begin if cue.body else head_ends)


def kept(cue: Cue, size: tuple[int, int, int], parsing: Tensor | None, labels: LabelMap | None) -> Tensor:
    """Which pixels are kept: bool [B, h, w]. size: (B, h, w).

    parsing: uint8 [B, h, w], by the label map; a cue by masks needs both. Raises: ValueError where it lacks them.
    """
    if not cue.by_masks:
        top, bottom = kept_rows(cue, size[1])
        rows = torch.arange(size[1])
        return ((rows >= top) & (rows < bottom))[:, None].expand(size)
    if parsing is None or labels is None:
        raise ValueError("a cue by masks needs each image's parsing mask and their label map")
    return kept_labels(cue, labels)[parsing.long()]


def show(
    cue: Cue, images: Tensor, parsing: Tensor | None, labels: LabelMap | None, colour: Sequence[int]
) -> tuple[Tensor, Tensor | None]:
    """Copies of images and masks in which the pixels that are not kept are painted over.

    images: uint8 [B, 3, h, w]. parsing, labels: as in `kept`. colour: RGB 0…255.
    """
    keep = kept(cue, (len(images), *images.shape[2:]), parsing, labels)
    painted = torch.where(keep[:, None], images, torch.tensor(colour, dtype=torch.uint8)[:, None, None])
    return painted, None if parsing is None else parsing.masked_fill(~keep, 0)


def mean_colour(mean: Sequence[float]) -> tuple[int, ...]:
    """RGB 0…255 of the normalisation's mean (0…1); networks see it as 0, to half a grey level."""
    return tuple(round(255 * value) for value in mean)
