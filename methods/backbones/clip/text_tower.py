"""CLIP's text tower, for prompts that are given as embeddings."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from methods.backbones.clip.sizes import CONTEXT, CLIPSize
from methods.backbones.clip.transformer import Transformer
from methods.method import MethodError

FIRST_SCALE = 1 / 0.07  # of similarities, before training; published weights end near 100


class TextTower(nn.Module):
    """embedded tokens [N, L, width] → features [N, dim], read at the last token, or at the places `ends`, int64 [N].

    Attention is causal: what follows the end of a text changes nothing. So a text is given up to its end-of-text token, and
    no position behind it is computed, but where longer texts stand beside it. Published codes compute all 77.

    vocabulary: ids of the tokens that have an embedding. The published table has 49,408 rows, and prompts need eight.
    """

    def __init__(self, size: CLIPSize, vocabulary: Sequence[int]) -> None:
        super().__init__()
        width = size.text.width
        self.vocabulary = tuple(vocabulary)
        self.row_of = {token: row for row, token in enumerate(self.vocabulary)}
        self.token_embedding = nn.Embedding(len(self.vocabulary), width)
        self.positional_embedding = nn.Parameter(torch.empty(CONTEXT, width))
        self.transformer = Transformer(size.text, is_causal=True)
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.empty(width, size.dim))
        self.logit_scale = nn.Parameter(torch.tensor(math.log(FIRST_SCALE)))
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        nn.init.normal_(self.text_projection, std=width**-0.5)

    @property
    def scale(self) -> Tensor:
        """The factor on cosines that was learnt with the towers: scalar."""
        return self.logit_scale.exp()

    def embed(self, tokens: Sequence[int]) -> Tensor:
        """ids of L tokens → [L, width]. Raises: KeyError for an id that is not in the vocabulary."""
        return self.token_embedding.weight[[self.row_of[token] for token in tokens]]

    def forward(self, embedded: Tensor, ends: Tensor | None = None) -> Tensor:
        """Raises: MethodError where a text is longer than the tower's context."""
        length = embedded.shape[1]
        if length > CONTEXT:
            raise MethodError(
                f"a prompt of {length} tokens does not fit into CLIP's {CONTEXT}: take fewer learnable tokens"
            )
        tokens = self.transformer(embedded + self.positional_embedding[:length])
        last = tokens[:, -1] if ends is None else tokens[torch.arange(tokens.shape[0], device=tokens.device), ends]
        return self.ln_final(last) @ self.text_projection
