"""The parsing model of `data parse --model`: opened and tested before work starts, and opened again by every worker.

An SCHP checkpoint (.pth, .safetensors), an ONNX graph (.onnx, with the .onnx.data that PyTorch writes beside it), or a
graph of torch.export (.pt2), which must pass the same check as registered models.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

import torch
from torch import Tensor

from datasets.errors import DataError
from datasets.images.label_maps import LABEL_MAPS
from datasets.parsing.parser import GraphInput, GraphParser, Parser, SCHPParser
from datasets.parsing.schp import load_schp
from datasets.storage.store import StoreError, open_store
from orchestration.engine.weights import read_state
from orchestration.errors import RequestError, first_line

Run = Callable[[Tensor], Tensor]
Shape = Sequence[int | None]
ROOT = "network."


@dataclass(frozen=True)
class ParsingModel:
    """A parser and how it is used. labels: the label map's name. takes: the input of a graph, None for SCHP.

    sha256: of its files. Pickled without weights: a worker reads the files again and checks the digest.
    """

    address: str
    kind: str
    sha256: str
    labels: str
    takes: GraphInput | None = None

    def record(self) -> dict[str, Any]:
        """The parser as recorded in a data set's manifest: everything but the images that masks depend on."""
        facts: dict[str, Any] = {"kind": self.kind, "sha256": self.sha256, "label_map": self.labels}
        if self.takes:
            facts |= {name: list(getattr(self.takes, name)) for name in ("size", "mean", "std")}
        return facts

    def open(self, *, gpu: bool = False, threads: int = 1) -> Parser:
        """The parser, ready for work. Raises: RequestError, also when the files have changed since."""
        files = read_files(self.address)
        if digest(files) != self.sha256:
            raise RequestError(f"--model {self.address} was changed while it was in use. Parse again")
        device = torch.device("cuda" if gpu else "cpu")
        if self.takes is None:
            return SCHPParser(load_schp(read_state(files[0], f"--model {self.address}")), device)
        run, _ = GRAPHS[self.kind](self.address, files, gpu, threads)
        on = device if self.kind == "torch.export" else torch.device("cpu")  # ONNX Runtime moves tensors itself
        return GraphParser(run, LABEL_MAPS[self.labels], self.takes, on)


def find_parser(
    address: str,
    *,
    labels: str | None = None,
    size: tuple[int, int] | None = None,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
) -> ParsingModel:
    """The parser at a path or object-store address, loaded here once; a graph has also parsed an image.

    labels: the label map of its outputs; required for a graph, known for SCHP's checkpoints. size: (height, width) of a
    graph's input, required where the graph takes any. mean, std: of its three channels, RGB, on the scale 0…1; ImageNet's
    by default.
    Raises: RequestError.
    """
    kind = {".onnx": "onnx", ".pt2": "torch.export"}.get(PurePosixPath(address).suffix, "schp")
    if labels is not None and labels not in LABEL_MAPS:
        raise RequestError(f"--labels {labels}: there is no such label map. Expected one of {', '.join(LABEL_MAPS)}")
    if kind == "schp" and (size or mean or std):
        raise RequestError(
            "--size, --mean and --std apply to exported graphs. Omit them: an SCHP checkpoint has its own"
        )
    try:
        address = open_store(address).address  # a worker's own folder is another one
        files = read_files(address)
        model = ParsingModel(address, kind, digest(files), labels or "")
        if kind == "schp":
            found = SCHPParser(load_schp(read_state(files[0], f"--model {address}"))).label_map
            if labels not in (None, found.name):
                raise RequestError(
                    f"--model {address} is SCHP with {found.num_labels} classes: {found.name}, not {labels}"
                )
            return replace(model, labels=found.name)
        return replace(model, takes=try_out(model, files, size, GraphInput((0, 0)), mean, std))
    except (StoreError, DataError) as error:
        raise RequestError(f"--model {address}: {error}") from error


def try_out(
    model: ParsingModel,
    files: Sequence[bytes],
    size: tuple[int, int] | None,
    usual: GraphInput,
    mean: tuple[float, float, float] | None,
    std: tuple[float, float, float] | None,
) -> GraphInput:
    """The graph's input, after the graph parsed a black image. Raises: RequestError, DataError."""
    name = f"--model {model.address}"
    if not model.labels:
        maps = ", ".join(f"{found.name} ({found.num_labels})" for found in LABEL_MAPS.values())
        raise RequestError(f"{name} is a graph: --labels must name the label map of its outputs, one of {maps}")
    run, shape = GRAPHS[model.kind](model.address, files, False, 1)
    if len(shape) != 4 or shape[1] not in (3, None):
        raise RequestError(f"{name} takes input {list(shape)}; expected [B, 3, H, W], float, RGB")
    own = (shape[2], shape[3])
    height, width = (given or fixed for given, fixed in zip(size or (None, None), own, strict=True))
    if height is None or width is None:
        raise RequestError(f"{name} takes images of any size. Set the size with --size HxW, such as --size 256x128")
    if any(fixed not in (None, wanted) for fixed, wanted in zip(own, (height, width), strict=True)):
        raise RequestError(f"{name} takes images of {own[0]}x{own[1]}, not --size {height}x{width}. Omit --size")
    takes = replace(usual, size=(height, width), mean=mean or usual.mean, std=std or usual.std, batch=shape[0])
    try:
        GraphParser(run, LABEL_MAPS[model.labels], takes).check()
    except DataError:
        raise
    except Exception as error:
        raise RequestError(f"{name} does not run on an image of {height}x{width}: {first_line(error)}") from error
    return takes


def open_onnx(address: str, files: Sequence[bytes], gpu: bool, threads: int) -> tuple[Run, Shape]:
    """A session of ONNX Runtime and its input's shape. Raises: RequestError."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors; they are raised
    if len(files) > 1:
        beside = f"{PurePosixPath(address).name}.data"
        options.add_external_initializers_from_files_in_memory([beside], [files[1]], [len(files[1])])
    providers = [*(["CUDAExecutionProvider"] if gpu else []), "CPUExecutionProvider"]
    try:
        session = onnxruntime.InferenceSession(files[0], options, providers=providers)
    except Exception as error:  # its exceptions share no base class
        raise RequestError(f"--model {address}: ONNX Runtime cannot load it: {first_line(error)}") from error
    takes, gives = session.get_inputs(), session.get_outputs()
    check_ends(address, [end.name for end in takes], [end.name for end in gives])
    if takes[0].type != "tensor(float)":
        raise RequestError(f"--model {address} takes {takes[0].type}; expected float32 images [B, 3, H, W]")

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {takes[0].name: images.numpy()})[0])

    return run, [size if isinstance(size, int) else None for size in takes[0].shape]


def open_exported(address: str, files: Sequence[bytes], gpu: bool, threads: int) -> tuple[Run, Shape]:
    """A graph of torch.export and its input's shape. Raises: RequestError."""
    from orchestration.export.serving import RefusedModelError, load_graph

    try:
        plain = without_debug_info(files[0])
        graph = load_graph(plain, hashlib.sha256(plain).hexdigest())
    except RefusedModelError as error:
        raise RequestError(f"--model {address} is refused: {error}") from error
    except Exception as error:
        raise RequestError(f"--model {address}: torch.export cannot load it: {first_line(error)}") from error
    nodes = list(graph.graph.nodes)  # type: ignore[union-attr, arg-type]
    takes = [node for node in nodes if node.op == "placeholder"]
    answers = nodes[-1].args[0]
    check_ends(address, takes, answers if isinstance(answers, list | tuple) else [answers])
    graph.to("cuda" if gpu else "cpu")

    def run(images: Tensor) -> Tensor:
        answer = graph(images)
        return answer[0] if isinstance(answer, list | tuple) else answer

    return run, [size if isinstance(size, int) else None for size in takes[0].meta["val"].shape]


GRAPHS = {"onnx": open_onnx, "torch.export": open_exported}


def check_ends(address: str, takes: Sequence[Any], gives: Sequence[Any]) -> None:
    if (len(takes), len(gives)) != (1, 1):
        raise RequestError(
            f"--model {address} has inputs {', '.join(map(str, takes)) or 'none'} and outputs {', '.join(map(str, gives))}; "
            "expected one of each: images [B, 3, H, W] and logits [B, L, h, w]. Export a module that returns only logits"
        )


def without_debug_info(archive: bytes) -> bytes:
    """The .pt2 archive without debugging information: source lines, module names, guards, the example inputs.

    Loading would look up names in it and compile guards, so the check refuses an archive that has any. Weights are renamed
    to begin with a letter: those of an nn.Sequential begin with a digit.
    Raises: RefusedModelError, and the errors of a damaged archive.
    """
    from orchestration.export.serving import read_members

    members = read_members(archive)
    model = json.loads(members["models/model.json"])
    strip(model)
    members |= {"models/model.json": json.dumps(model).encode(), "data/sample_inputs/model.pt": b""}
    for kind in ("weights", "constants"):
        path = f"data/{kind}/model_{kind}_config.json"
        config = json.loads(members[path])["config"]
        members[path] = json.dumps({"config": {f"{ROOT}{name}": entry for name, entry in config.items()}}).encode()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as plain:
        for name, content in members.items():
            plain.writestr(f"graph/{name}", content)
    return out.getvalue()


def strip(node: Any) -> None:
    """Remove debugging information from a graph's description in place, and prefix the names of weights with ROOT."""
    if isinstance(node, dict):
        for name, value in node.items():
            if name in ("metadata", "guards_code"):
                node[name] = type(value)()
            elif name in ("parameter_name", "buffer_name", "tensor_constant_name", "fqn") and value:
                node[name] = f"{ROOT}{value}"
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        strip(child)


def read_files(address: str) -> list[bytes]:
    """The file, followed by the weights' file of an ONNX graph that has one. Raises: StoreError."""
    files = [open_store(address).read("")]
    if address.endswith(".onnx"):
        beside = open_store(f"{address}.data")
        files += [beside.read("")] if beside.exists("") else []
    return files


def digest(files: Sequence[bytes]) -> str:
    """Hex SHA-256 of all bytes, in order."""
    whole = hashlib.sha256()
    for data in files:
        whole.update(data)
    return whole.hexdigest()
