"""CLIP's towers once more, from their state dicts: float64 sums as the papers write them, one image and one text at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from methods.backbones.clip.sizes import CLIPSize, TransformerSize

TINY = CLIPSize(TransformerSize(24, 3, 3), TransformerSize(16, 2, 2), patch=8, grid=3, dim=10)
State = Mapping[str, Tensor]


def image_tokens(state: State, image: Tensor, stride: int, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """image [3, H, W] → tokens before the last block, behind it and its layer norm, and projected."""
    filters = state["conv1.weight"]
    patch = filters.shape[-1]
    rows = range(0, image.shape[1] - patch + 1, stride)
    columns = range(0, image.shape[2] - patch + 1, stride)
    patches = [
        torch.stack([(filters[c] * image[:, y : y + patch, x : x + patch]).sum() for c in range(len(filters))])
        for y in rows
        for x in columns
    ]
    tokens = torch.stack([state["class_embedding"], *patches])
    tokens = tokens + positions(state["positional_embedding"], len(rows), len(columns))
    tokens = layer_norm(tokens, state, "ln_pre")
    last = num_layers(state) - 1
    for layer in range(last):
        tokens = block(tokens, state, layer, heads, is_causal=False)
    after = layer_norm(block(tokens, state, last, heads, is_causal=False), state, "ln_post")
    return tokens, after, after @ state["proj"]


def text_feature(state: State, embedded: Tensor, end: int, heads: int) -> Tensor:
    """embedded tokens [L, C] → the feature at position `end`, with all L positions computed."""
    tokens = embedded + state["positional_embedding"][: len(embedded)]
    for layer in range(num_layers(state)):
        tokens = block(tokens, state, layer, heads, is_causal=True)
    return layer_norm(tokens, state, "ln_final")[end] @ state["text_projection"]


def num_layers(state: State) -> int:
    return 1 + max(int(key.split(".")[2]) for key in state if key.startswith("transformer.resblocks."))


def positions(table: Tensor, height: int, width: int) -> Tensor:
    """The square grid of positions at another size, place by place: half-pixel centres, edges repeated."""
    side = math.isqrt(len(table) - 1)
    grid = table[1:].reshape(side, side, -1)

    def between(at: int, number: int) -> tuple[int, int, float]:
        centre = max((at + 0.5) * side / number - 0.5, 0.0)
        lower = min(math.floor(centre), side - 1)
        return lower, min(lower + 1, side - 1), centre - lower

    found = [table[0]]
    for y in range(height):
        top, bottom, down = between(y, height)
        for x in range(width):
            left, right, along = between(x, width)
            upper = (1 - along) * grid[top, left] + along * grid[top, right]
            lower = (1 - along) * grid[bottom, left] + along * grid[bottom, right]
            found.append((1 - down) * upper + down * lower)
    return torch.stack(found)


def block(tokens: Tensor, state: State, layer: int, heads: int, is_causal: bool) -> Tensor:
    place = f"transformer.resblocks.{layer}"
    tokens = tokens + attention(layer_norm(tokens, state, f"{place}.ln_1"), state, f"{place}.attn", heads, is_causal)
    hidden = linear(layer_norm(tokens, state, f"{place}.ln_2"), state, f"{place}.mlp.c_fc")
    hidden = hidden / (1 + (-1.702 * hidden).exp())
    return tokens + linear(hidden, state, f"{place}.mlp.c_proj")


def attention(tokens: Tensor, state: State, place: str, heads: int, is_causal: bool) -> Tensor:
    length, channels = tokens.shape
    each = channels // heads
    weight, bias = state[f"{place}.in_proj_weight"], state[f"{place}.in_proj_bias"]
    query, key, value = (
        tokens @ weight[at : at + channels].T + bias[at : at + channels] for at in (0, channels, 2 * channels)
    )
    mixed = torch.zeros_like(tokens)
    for head in range(heads):
        own = slice(head * each, (head + 1) * each)
        for i in range(length):
            seen = range(i + 1 if is_causal else length)
            scores = torch.stack([(query[i, own] * key[j, own]).sum() / math.sqrt(each) for j in seen]).exp()
            for j in seen:
                mixed[i, own] += scores[j] / scores.sum() * value[j, own]
    return linear(mixed, state, f"{place}.out_proj")


def linear(values: Tensor, state: State, place: str) -> Tensor:
    return values @ state[f"{place}.weight"].T + state[f"{place}.bias"]


def layer_norm(values: Tensor, state: State, place: str) -> Tensor:
    centred = values - values.mean(-1, keepdim=True)
    deviation = (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return centred / deviation * state[f"{place}.weight"] + state[f"{place}.bias"]


def randomised(tower: torch.nn.Module, seed: int = 0) -> None:
    """Every parameter far from where it starts, so that none can be left out unnoticed."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in tower.parameters():
            values = torch.randn(parameter.shape, generator=random, dtype=torch.float64)
            parameter.copy_(parameter + 0.3 * values.to(parameter.dtype))


def padded(embedded: Tensor, length: int) -> Tensor:
    """[L, C] → [length, C], with noise behind the end."""
    noise = torch.randn(length - len(embedded), embedded.shape[1], dtype=embedded.dtype)
    return torch.cat([embedded, 3 * noise])
