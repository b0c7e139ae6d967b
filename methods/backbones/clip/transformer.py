"""The transformer of both towers, with OpenAI's parameter names. Letters: N sequences, L tokens, C channels."""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.backbones.clip.sizes import TransformerSize
from methods.recompute import Recomputable
from methods.shardable import Shardable


class QuickGELU(nn.Module):
    """x · sigmoid(1.702 x): the approximation of GELU that OpenAI's weights were trained with."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class Attention(nn.Module):
    """Multi-head self-attention: tokens [N, L, C] → [N, L, C]. is_causal: a token sees itself and earlier ones alone.

    The bias of the keys adds one number to all scores of a query, so its gradient is 0. Computed, it would be rounding, which
    Adam scales up to whole steps: it is held at exactly 0.
    """

    def __init__(self, width: int, heads: int, is_causal: bool) -> None:
        super().__init__()
        self.heads, self.is_causal = heads, is_causal
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        of_query, of_key, of_value = self.in_proj_bias.chunk(3)
        bias = torch.cat([of_query, of_key.detach(), of_value])
        projected = F.linear(tokens, self.in_proj_weight, bias)
        query, key, value = projected.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind()
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=self.is_causal)  # [N, heads, L, C / heads]
        return self.out_proj(mixed.transpose(1, 2).flatten(2))


class ResidualBlock(Shardable, Recomputable):
    """Attention and a perceptron, each behind a layer norm and beside a shortcut: tokens [N, L, C] → [N, L, C].

    Weights start as in OpenAI's text tower.
    """

    def __init__(self, size: TransformerSize, is_causal: bool) -> None:
        super().__init__()
        width = size.width
        self.attn = Attention(width, size.heads, is_causal)
        self.ln_1 = nn.LayerNorm(width)
        hidden, output = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.mlp = nn.Sequential(OrderedDict(c_fc=hidden, gelu=QuickGELU(), c_proj=output))
        self.ln_2 = nn.LayerNorm(width)
        nn.init.normal_(self.attn.in_proj_weight, std=width**-0.5)
        nn.init.normal_(self.attn.out_proj.weight, std=(2 * size.layers * width) ** -0.5)
        nn.init.normal_(hidden.weight, std=(2 * width) ** -0.5)
        nn.init.normal_(output.weight, std=(2 * size.layers * width) ** -0.5)
        for linear in (self.attn.out_proj, hidden, output):
            nn.init.zeros_(linear.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attn(self.ln_1(tokens))
        return tokens + self.mlp(self.ln_2(tokens))


class Transformer(nn.Module):
    """Residual blocks in a row: tokens [N, L, C] → [N, L, C]."""

    def __init__(self, size: TransformerSize, is_causal: bool) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(ResidualBlock(size, is_causal) for _ in range(size.layers))

    def forward(self, tokens: Tensor) -> Tensor:
        for block in self.resblocks:
            tokens = block(tokens)
        return tokens
