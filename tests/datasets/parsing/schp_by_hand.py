"""SCHP's checkpoints made at random, and its network written down once more, from its description."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.parsing.schp import SCHP

State = dict[str, Tensor]


def random_state(num_classes: int = 20, seed: int = 0) -> State:
    """A checkpoint's entries, random, with variances above zero and ABN weights of both signs."""
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        shapes = {name: entry.shape for name, entry in SCHP(num_classes).state_dict().items()}
    state = {}
    for name, shape in shapes.items():
        draw = torch.randn(shape, generator=generator)
        fan = max(1, shape.numel() // shape[0])
        state[name] = {True: draw.abs() + 0.5, False: draw / fan**0.5 if len(shape) == 4 else draw}[
            "running_var" in name
        ]
    return state


def plainly(state: State, images: Tensor) -> Tensor:
    """The network once more, written down from the description: functions of the entries alone, batch norm by hand."""

    def conv(x: Tensor, name: str, stride: int = 1, dilation: int = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        padding = dilation if weight.shape[-1] == 3 else 0
        return F.conv2d(x, weight, state.get(f"{name}.bias"), stride, padding, dilation)

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var = (state[f"{name}.running_{kind}"][:, None, None] for kind in ("mean", "var"))
        scale, shift = state[f"{name}.weight"].abs()[:, None, None] + 1e-5, state[f"{name}.bias"][:, None, None]
        return (x - mean) / (var + 1e-5).sqrt() * scale + shift

    def leaky(x: Tensor) -> Tensor:
        return torch.where(x > 0, x, 0.01 * x)

    def head(x: Tensor, name: str, first: int = 0) -> Tensor:
        return leaky(norm(conv(x, f"{name}.{first}"), f"{name}.{first + 1}"))

    def up(x: Tensor, like: Tensor) -> Tensor:
        return F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=True)

    def layer(x: Tensor, number: int, depth: int, stride: int, dilation: int) -> Tensor:
        for block in range(depth):
            name, step = f"layer{number}.{block}", stride if block == 0 else 1
            out = norm(conv(x, f"{name}.conv1"), f"{name}.bn1").relu()
            out = norm(conv(out, f"{name}.conv2", step, dilation), f"{name}.bn2").relu()
            out = norm(conv(out, f"{name}.conv3"), f"{name}.bn3")
            if block == 0:
                x = norm(conv(x, f"{name}.downsample.0", step), f"{name}.downsample.1")
            x = (out + x).relu()
        return x

    x = images
    for number in (1, 2, 3):
        x = norm(conv(x, f"conv{number}", 2 if number == 1 else 1), f"bn{number}").relu()
    x1 = layer(F.max_pool2d(x, 3, 2, 1), 1, 3, 1, 1)
    x2 = layer(x1, 2, 4, 2, 1)
    x3 = layer(x2, 3, 23, 2, 1)
    x4 = layer(x3, 4, 3, 1, 2)
    pools = [
        up(head(F.adaptive_avg_pool2d(x4, size), f"context_encoding.stages.{at}", 1), x4)
        for at, size in enumerate((1, 2, 3, 6))
    ]
    context = head(torch.cat([*pools, x4], 1), "context_encoding.bottleneck")
    fine = torch.cat([up(head(context, "decoder.conv1"), x1), head(x1, "decoder.conv2")], 1)
    parsing = head(head(fine, "decoder.conv3"), "decoder.conv3", 2)
    edges = [up(head(x, f"edge.conv{at}"), x1) for at, x in enumerate((x1, x2, x3), 1)]
    return conv(head(torch.cat([parsing, *edges], 1), "fushion"), "fushion.3")
