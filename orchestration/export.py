"""From a trained network to the graph that a registered model consists of: pixels in, L2-normalised descriptors out."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from methods.ranking import describe
from orchestration.serving import RefusedModelError, check_archive

TOLERANCE = 1e-4


class ExportError(RuntimeError):
    """The network cannot be exported, or its graph gives other features than the network."""


class Descriptor(nn.Module):
    """images float [B, 3, H, W], 0…255 (and parsing uint8 [B, H, W]) → float [B, D], L2-normalised.

    `flip` adds the embedding of the mirror image before normalising, as the experiment evaluated it.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, method: nn.Module, mean: Sequence[float], std: Sequence[float], flip: bool) -> None:
        super().__init__()
        self.method, self.flip = method, flip
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32)[None, :, None, None])
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32)[None, :, None, None])

    def forward(self, images: Tensor, parsing: Tensor | None = None) -> Tensor:
        normalised = (images / 255 - self.mean) / self.std
        rest = () if parsing is None else (parsing,)
        embed: Callable[..., Tensor] = self.method.embed  # type: ignore[assignment]
        return describe(embed, normalised, *rest, flip=self.flip)


def export(descriptor: Descriptor, example: tuple[Tensor, ...]) -> bytes:
    """The .pt2 archive of a descriptor for any batch size, checked against it on `example` (batch ≥ 2) and one image.

    What only explains the graph to its author (source lines, paths, module classes) is left out.
    Raises: ExportError.
    """
    descriptor = copy.deepcopy(descriptor).cpu().float().eval().requires_grad_(False)
    batch = torch.export.Dim("batch", min=1)
    try:
        with torch.no_grad():
            shapes = tuple({0: batch} for _ in example)
            program = torch.export.export(descriptor, example, dynamic_shapes=shapes, strict=False)
    except Exception as error:
        raise ExportError(f"torch.export cannot trace the network's embed: {error}") from error
    for node in program.graph.nodes:
        for key in [k for k in node.meta if k not in ("val", "tensor_meta")]:
            del node.meta[key]
    program._guards_code = []  # code that load would compile; the serving file checks its inputs itself
    program._example_inputs = None  # the only pickled member
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    data = buffer.getvalue()
    try:
        check_archive(data)
    except RefusedModelError as error:
        raise ExportError(f"the exported graph would be refused when it is loaded: {error}") from error
    check_features(descriptor, data, example)
    return data


@torch.no_grad()
def check_features(descriptor: Descriptor, data: bytes, example: tuple[Tensor, ...]) -> None:
    graph = torch.export.load(io.BytesIO(data)).module(check_guards=False)
    for inputs in (example, tuple(x[:1] for x in example)):
        difference = (graph(*inputs) - descriptor(*inputs)).abs().max().item()
        if not difference <= TOLERANCE:
            raise ExportError(
                f"graph and network differ by {difference:g} on {len(inputs[0])} images (at most {TOLERANCE:g} allowed): "
                "embed depends on something that export cannot see, such as the batch size or a random draw"
            )
