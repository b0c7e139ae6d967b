"""The same graph as ONNX, for runtimes without torch: images (and parsing) in, L2-normalised descriptors out."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence

import onnx
import onnxruntime
import torch
from torch import Tensor

from orchestration.errors import first_line
from orchestration.export.torch_graph import Descriptor, ExportError, check_features

OUTPUT = "features"
AXES = ("batch", "frames")
RANGES = {  # of the inputs, in the file's metadata
    "images": "RGB, 0 to 255: neither divided by 255 nor normalised",
    "parsing": "label maps: whole numbers, 0 to 255",
}


def to_onnx(
    program: torch.export.ExportedProgram, descriptor: Descriptor, example: tuple[Tensor, ...], inputs: Sequence[str]
) -> bytes:
    """A traced descriptor as one ONNX file for any batch size. onnxruntime's features are checked against the network's.

    inputs: names of the graph's inputs, in the order of `example`. Raises: ExportError.
    """
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):  # about torch's own deprecations
            made = torch.onnx.export(program, input_names=list(inputs), output_names=[OUTPUT], verbose=False)
        assert made is not None
        model = without_debug_info(made.model_proto)
        onnx.helper.set_model_props(model, {name: RANGES[name] for name in inputs})
        data = model.SerializeToString()
        graph = session(data)
    except Exception as error:
        raise ExportError(f"the network's embed cannot be written as ONNX: {first_line(error)}") from error
    check_features("the ONNX graph", graph, descriptor, example)
    return data


def without_debug_info(model: onnx.ModelProto) -> onnx.ModelProto:
    """Remove source lines, paths and module classes, and name the dynamic axes."""
    graphs: list[onnx.GraphProto | onnx.FunctionProto] = [model.graph, *model.functions]
    for graph in graphs:
        for entry in (graph, *graph.node):
            entry.ClearField("metadata_props")
            entry.ClearField("doc_string")
        graph.ClearField("value_info")
    for value in (*model.graph.input, *model.graph.output):
        value.ClearField("metadata_props")
        for axis, dimension in zip(AXES, value.type.tensor_type.shape.dim, strict=False):
            if dimension.HasField("dim_param"):
                dimension.dim_param = axis
    for tensor in model.graph.initializer:
        tensor.ClearField("metadata_props")
        tensor.ClearField("doc_string")
    model.ClearField("metadata_props")
    return model


def session(data: bytes) -> Callable[..., Tensor]:
    """The graph as a function of its inputs in order, on the CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    runtime = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    names = [one.name for one in runtime.get_inputs()]

    def call(*tensors: Tensor) -> Tensor:
        feed = {name: x.numpy() for name, x in zip(names, tensors, strict=True)}
        return torch.from_numpy(runtime.run([OUTPUT], feed)[0])

    return call
