"""Export of a trained network as the graph of a registered model: pixels in, L2-normalised descriptors out."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.export.graph_signature import InputKind

from methods.ranking import describe
from orchestration.errors import first_line
from orchestration.export.serving import RefusedModelError, check_archive

TOLERANCE = 1e-4
CLIPS = 5  # dimensions of clips [B, T, 3, H, W]
HELD = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)  # inputs of a graph that its archive holds


class ExportError(RuntimeError):
    """The network cannot be exported, or its graph and the network give different features."""


class Descriptor(nn.Module):
    """images float [B, 3, H, W], 0…255 (and parsing uint8 [B, H, W]), or clips [B, T, 3, H, W] → float [B, D], L2-normalised.

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


def trace(descriptor: Descriptor, example: tuple[Tensor, ...]) -> torch.export.ExportedProgram:
    """The network as a graph for any batch size, and clips of any length. It holds only weights that `embed` reaches.

    Raises: ExportError.
    """
    batch, frames = torch.export.Dim("batch", min=1), torch.export.Dim("frames", min=1)
    shapes = tuple({0: batch, 1: frames} if x.ndim == CLIPS else {0: batch} for x in example)
    try:
        with torch.no_grad():
            program = torch.export.export(for_export(descriptor), tuple(example), dynamic_shapes=shapes, strict=False)
    except Exception as error:
        raise ExportError(f"torch.export cannot trace the network's embed: {first_line(error)}") from error
    remove_unreached(program)
    return program


def remove_unreached(program: torch.export.ExportedProgram) -> None:
    """Remove what the graph holds and does not use: classifiers, memories of people, networks of training alone."""
    program.graph.eliminate_dead_code()
    unused = {node.name: node for node in program.graph.nodes if node.op == "placeholder" and not node.users}
    specs = program.graph_signature.input_specs
    dropped = [spec for spec in specs if spec.kind in HELD and spec.arg.name in unused]
    for spec in dropped:
        program.graph.erase_node(unused[spec.arg.name])
        program.state_dict.pop(spec.target, None)
        program.constants.pop(spec.target, None)
    program.graph_signature.input_specs = [spec for spec in specs if spec not in dropped]
    program.graph_module.recompile()


def output_dimensions(program: torch.export.ExportedProgram) -> int:
    """D, of the descriptors that a traced network gives."""
    (features,) = program.graph.output_node().args[0]
    return int(features.meta["val"].shape[1])


def for_export(descriptor: Descriptor) -> Descriptor:
    network = copy.deepcopy(descriptor).cpu().float().eval().requires_grad_(False)
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.untyped_storage().nbytes() > tensor.nbytes:
            tensor.data = tensor.data.clone()  # a part of a larger tensor would take the whole with it
    return network


def export(descriptor: Descriptor, example: tuple[Tensor, ...]) -> bytes:
    """The .pt2 archive of a descriptor for any batch size, checked against it on `example` (batch ≥ 2) and one image.

    Debugging information (source lines, paths, module classes) is removed.
    Raises: ExportError.
    """
    return to_archive(trace(descriptor, example), descriptor, example)


def to_archive(program: torch.export.ExportedProgram, descriptor: Descriptor, example: tuple[Tensor, ...]) -> bytes:
    """As `export`, of a traced descriptor."""
    for node in program.graph.nodes:
        for key in [k for k in node.meta if k not in ("val", "tensor_meta")]:
            del node.meta[key]
    program._guards_code = []  # loading would compile them; the serving file checks its inputs itself
    program._example_inputs = None  # the only pickled member
    buffer = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):  # about weights that share memory: the features are compared below
        torch.export.save(program, buffer)
    data = buffer.getvalue()
    try:
        check_archive(data)
    except RefusedModelError as error:
        raise ExportError(f"the exported graph would be refused when it is loaded: {error}") from error
    graph = torch.export.load(io.BytesIO(data)).module(check_guards=False)
    check_features("the graph", graph, descriptor, example)
    return data


@torch.no_grad()
def check_features(
    name: str, graph: Callable[..., Tensor], descriptor: Descriptor, example: tuple[Tensor, ...]
) -> None:
    """Compare `graph` with the network on the example, and on its first image alone. Raises: ExportError."""
    network = for_export(descriptor)
    for inputs in (example, tuple(x[:1] for x in example)):
        difference = (graph(*inputs) - network(*inputs)).abs().max().item()
        if not difference <= TOLERANCE:
            raise ExportError(
                f"{name} and the network differ by {difference:g} on {len(inputs[0])} images (at most {TOLERANCE:g} allowed): "
                "embed depends on something that export does not trace, such as the batch size or a random number"
            )
