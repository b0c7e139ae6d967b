"""Prompts with learnable tokens, one for each class: "A photo of a [X]1 … [X]M person." of CLIP-ReID and CCAF."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from methods.backbones.clip.text_tower import TextTower
from methods.shardable import Shardable

START, END, DOT = 49406, 49407, 269  # ids of OpenAI's byte-pair encoding
A, PHOTO, OF, X, PERSON_WORD, CLOTHES_WORD = 320, 1125, 539, 343, 2533, 7080


@dataclass(frozen=True)
class Template:
    """The ids before and behind the learnable tokens of a prompt."""

    before: tuple[int, ...]
    behind: tuple[int, ...]

    def ids(self, tokens: int) -> tuple[int, ...]:
        """The prompt's ids, with an x for each of its learnable tokens."""
        return (*self.before, *[X] * tokens, *self.behind)


PERSON = Template((START, A, PHOTO, OF, A), (PERSON_WORD, DOT, END))  # CCAF, Sec. 3.2
CLOTHES = Template((START, A, PHOTO, OF), (CLOTHES_WORD, DOT, END))  # CCAF, Sec. 3.3, which has no "a"
VOCABULARY = tuple(sorted({*PERSON.ids(0), *CLOTHES.ids(0)}))


class Prompts(Shardable):
    """A prompt for each class: classes int64 [N] → features [N, dim] by a text tower.

    tokens: float [num_classes, M, width], which start at N(0, 0.02), as in published code. All else in a prompt is the
    template's, so a class is described by its M tokens alone.
    """

    def __init__(self, template: Template, num_classes: int, tokens: int, width: int) -> None:
        super().__init__()
        self.template = template
        self.tokens = nn.Parameter(torch.empty(num_classes, tokens, width))
        nn.init.normal_(self.tokens, std=0.02)

    def forward(self, classes: Tensor, text: TextTower) -> Tensor:
        return text(self.embedded(classes, text))

    def embedded(self, classes: Tensor, text: TextTower) -> Tensor:
        """classes int64 [N] → the prompts up to their end-of-text token [N, L, width]."""
        learnt = self.tokens[classes]
        before, behind = (
            text.embed(ids).expand(learnt.shape[0], -1, -1) for ids in (self.template.before, self.template.behind)
        )
        return torch.cat([before, learnt, behind], 1)
