"""A registered model's own code: an exported graph behind `mlflow.pyfunc`, with torch, torchvision and Pillow alone.

This file is stored with every registered model and imports nothing of the project that trained it. Images are decoded by the
artifact `decode`, a copy of the file that decoded the training images.

Inputs, by name (a dict or a DataFrame), one row per person image:
    images   RGB pixels 0…255, uint8 or float, [B, 3, H, W] at the model's size (or a list of B arrays [3, H, W])
             floats that all lie in 0…1 are refused: they look divided by 255, which the model does itself
    bytes    or else B encoded images of any size: JPEG, PNG, BMP, WEBP, GIF, TIFF or PPM, decoded and resized here; pixels
             are taken as they are stored, whatever their EXIF orientation is
    parsing  only for models that need it: label maps, integers [B, H, W] at the model's size; beside `bytes` also
             8-bit grey or palette PNG files, whose bytes are the labels, or maps of the images' own sizes
A model of video takes clips as well, of any number of frames each: a row of images may be [T, 3, H, W], a row of bytes a
list of T files; a single image is a clip of one frame.
Output: float32 [B, D], L2-normalised, so that a dot product is the cosine similarity.
"""

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel
from torch import Tensor


class InputError(ValueError):
    """Invalid input to the model; the message says what the model takes."""


class RefusedModelError(RuntimeError):
    """The model's files were changed after registration, or contain more than a graph and its weights."""


class Embedder(PythonModel):
    """Person images → descriptors that depend on the person and not on the clothes."""

    _skip_type_hint_validation = True  # without it MLflow warns at every load that the type hint is missing

    def load_context(self, context: Any) -> None:
        settings = json.loads(Path(context.artifacts["settings"]).read_text())
        graph = Path(context.artifacts["graph"]).read_bytes()
        self.height, self.width = settings["height"], settings["width"]
        self.inputs: tuple[str, ...] = tuple(settings["inputs"])
        self.batch, self.clips = settings["batch"], settings.get("clips", False)
        self.graph = load_graph(graph, settings["graph_sha256"])
        self.decoder = load_decoder(Path(context.artifacts["decode"]).read_bytes(), settings["decode_sha256"])
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.graph.to(self.device)

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # MLflow reads hints as a schema
        columns = as_columns(model_input)
        known = {"images", "bytes", *self.inputs}
        if unknown := sorted(set(columns) - known):
            raise InputError(f"unknown input {', '.join(unknown)}; this model takes {', '.join(sorted(known))}")
        if ("images" in columns) == ("bytes" in columns):
            raise InputError(f"give either 'images' or 'bytes'; got {', '.join(sorted(columns)) or 'nothing'}")
        if "parsing" in self.inputs and "parsing" not in columns:
            raise InputError("this model needs 'parsing' (label maps) beside the images")
        batches = self.one_by_one(columns) if self.clips else self.in_batches(columns)
        with torch.inference_mode():
            parts = [self.graph(*(t.to(self.device) for t in batch)).float().cpu() for batch in batches]
        return torch.cat(parts).numpy()

    def in_batches(self, columns: dict[str, Any]) -> Iterator[tuple[Tensor, ...]]:
        tensors = [self.images(columns)]
        if "parsing" in self.inputs:
            tensors.append(self.maps(columns["parsing"], is_decoded="images" in columns))
            if len(tensors[1]) != len(tensors[0]):
                raise InputError(f"{len(tensors[0])} images but {len(tensors[1])} maps in 'parsing'")
        return zip(*(t.split(self.batch) for t in tensors), strict=True)

    def one_by_one(self, columns: dict[str, Any]) -> Iterator[tuple[Tensor, ...]]:
        """Clips [1, T, 3, H, W] one by one, since each may have another number of frames."""
        name = "bytes" if "bytes" in columns else "images"
        for number, row in enumerate(rows(columns[name], name)):
            is_single = isinstance(row, (bytes, bytearray)) or (isinstance(row, np.ndarray) and row.ndim == 3)
            try:
                yield (self.images({name: [row] if is_single else row})[None],)
            except InputError as error:
                raise InputError(f"clip {number}: {error}") from error

    def images(self, columns: dict[str, Any]) -> Tensor:
        """float32 [B, 3, H, W], 0…255."""
        if "bytes" in columns:
            files = enumerate(rows(columns["bytes"], "bytes"))
            decoded = [decode(self.decoder.decode_image, data, f"row {number} of 'bytes'") for number, data in files]
            return torch.cat([resize(image, self.height, self.width) for image in decoded])
        expected = f"[B, 3, {self.height}, {self.width}], uint8 or float, RGB 0…255"
        array = as_array(columns["images"], "images", expected)
        if array.ndim != 4 or array.shape[1:] != (3, self.height, self.width) or not len(array):
            raise InputError(f"'images' is {list(array.shape)}; expected {expected}")
        if array.dtype != np.uint8 and not np.issubdtype(array.dtype, np.number):
            raise InputError(f"'images' is {array.dtype}; expected {expected}")
        tensor = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
        low, high = float(tensor.min()), float(tensor.max())
        if not (low >= 0 and high <= 255):
            raise InputError(f"'images' lies in {low:g}…{high:g}; expected {expected}, not normalised")
        if np.issubdtype(array.dtype, np.floating) and 0 < high <= 1:
            raise InputError(
                f"'images' lies in {low:g}…{high:g}, which looks divided by 255; expected {expected}. Multiply by 255, or give "
                "uint8"
            )
        return tensor

    def maps(self, column: Any, is_decoded: bool) -> Tensor:
        """uint8 [B, H, W]."""
        expected = f"integer label maps [B, {self.height}, {self.width}]"
        if is_decoded:
            array = as_array(column, "parsing", expected)
            if array.ndim != 3 or array.shape[1:] != (self.height, self.width):
                raise InputError(f"'parsing' is {list(array.shape)}; expected {expected}")
            return as_labels(array, expected)
        found = [
            decode(self.decoder.decode_parsing, data, f"row {number} of 'parsing'") if isinstance(data, bytes) else data
            for number, data in enumerate(rows(column, "parsing"))
        ]
        labels = [as_labels(np.asarray(labels), expected) for labels in found]
        size = (self.height, self.width)
        return torch.cat([F.interpolate(m[None, None], size, mode="nearest-exact")[0] for m in labels])


def as_columns(model_input: Any) -> dict[str, Any]:
    if hasattr(model_input, "columns"):
        return {str(name): model_input[name].tolist() for name in model_input.columns}
    if isinstance(model_input, dict):
        return dict(model_input)
    raise InputError(f"expected a dict or a DataFrame with 'images' or 'bytes', got {type(model_input).__name__}")


def as_list(column: Any, name: str, expected: str) -> list[Any]:
    if isinstance(column, (str, Path)):
        raise InputError(
            f"'{name}' is a path or text, {str(column)[:80]!r}; read the file and give its content: {expected}"
        )
    if not hasattr(column, "__iter__"):
        raise InputError(f"'{name}' is {type(column).__name__}; expected {expected}")
    return list(column)


def as_array(column: Any, name: str, expected: str) -> np.ndarray:
    if isinstance(column, np.ndarray) and column.dtype != object:
        return column
    entries = as_list(column, name, expected)
    try:
        return np.array(entries)
    except ValueError as error:
        raise InputError(f"'{name}' has rows of different sizes; expected {expected}") from error


def as_labels(array: np.ndarray, expected: str) -> Tensor:
    if not array.size:
        raise InputError(f"'parsing' is empty; expected {expected}")
    if not np.issubdtype(array.dtype, np.integer) or array.min() < 0 or array.max() > 255:
        raise InputError(f"'parsing' is {array.dtype} in {array.min()}…{array.max()}; expected {expected}, 0…255")
    return torch.from_numpy(array.astype(np.uint8))


def rows(column: Any, name: str) -> Sequence[Any]:
    found = (
        [column]
        if isinstance(column, (bytes, bytearray))
        else as_list(column, name, "a list with an entry for each row")
    )
    if not found:
        raise InputError(f"'{name}' is empty")
    return found


def decode(decoder: Callable[[bytes, str], Tensor], data: Any, where: str) -> Tensor:
    """An encoded image → uint8 [3, h, w], or a label map → uint8 [h, w]."""
    if not isinstance(data, (bytes, bytearray)):
        raise InputError(f"{where} is {type(data).__name__}; expected the bytes of a file")
    try:
        return decoder(bytes(data), where)
    except ValueError as error:  # its DecodeError
        raise InputError(str(error)) from error


def resize(image: Tensor, height: int, width: int) -> Tensor:
    """uint8 [3, h, w] → float32 [1, 3, H, W]: antialiased bilinear on bytes, as in training."""
    images = image[None].contiguous(memory_format=torch.channels_last)
    if images.shape[2:] != (height, width):
        images = F.interpolate(images, (height, width), mode="bilinear", antialias=True)
    return images.float().contiguous()


def load_decoder(source: bytes, sha256: str) -> ModuleType:
    """The module `decode`, once its bytes match their digest. Raises: RefusedModelError."""
    check_digest("the decoder", source, sha256)
    module = ModuleType("decode")
    exec(compile(source, "decode.py", "exec"), module.__dict__)
    return module


def check_digest(what: str, data: bytes, sha256: str) -> None:
    digest = hashlib.sha256(data).hexdigest()
    if digest != sha256:
        raise RefusedModelError(f"{what} has SHA-256 {digest}, registered was {sha256}: the file was changed")


# Loading a graph. `torch.export.load` unpickles some members of the archive, evaluates expressions and looks functions up
# by name, so the archive is checked first: it may hold only weights and calls of torch's own operators.

MEMBERS = re.compile(
    r"models/model\.json|data/weights/(model_weights_config\.json|weight_\d+)|archive_format|archive_version|byteorder"
    r"|data/constants/(model_constants_config\.json|tensor_\d+)|data/sample_inputs/model\.pt|\.data/(version|serialization_id)"
)
OPERATORS = re.compile(
    r"torch\.ops\.aten\.\w+\.\w+|_operator\.(getitem|add|sub|mul|floordiv|mod|neg|eq|ne|ge|gt|le|lt)"
)
SYMBOL = re.compile(r"Symbol\('[su]\d+'(, \w+=True)*\)")
EXPRESSION = re.compile(r"(\s|\d|[-+*/(),]|[su]\d+|Integer|Add|Mul|Max|Min|Mod|FloorDiv)*")
ARGUMENTS = {
    "none", "tensor", "tensors", "optional_tensors", "int", "ints", "float", "floats", "bool", "bools", "string", "strings",
    "sym_int", "sym_ints", "sym_float", "sym_bool", "expr", "name", "scalar_type", "memory_format", "layout", "device",
}  # fmt: skip
CONTAINERS = {None, "builtins.tuple", "builtins.dict", "builtins.list"}
NAME = re.compile(r"[A-Za-z_]\w*(\.\w+)*")


def load_graph(data: bytes, sha256: str) -> torch.nn.Module:
    """The graph in a .pt2 archive, ready to be called. Raises: RefusedModelError."""
    check_digest("the graph", data, sha256)
    check_archive(data)
    return torch.export.load(io.BytesIO(data)).module(check_guards=False)


def check_archive(data: bytes) -> None:
    """Check that the archive is a graph of torch's operators with weights and without code. Raises: RefusedModelError."""
    try:
        members = read_members(data)
        model = json.loads(members["models/model.json"])
        payloads = [
            (f"data/{kind}s/{entry['path_name']}", entry)
            for kind in ("weight", "constant")
            for entry in json.loads(members[f"data/{kind}s/model_{kind}s_config.json"])["config"].values()
        ]
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError) as error:
        raise RefusedModelError(f"not an archive of torch.export: {error}") from error
    for path, entry in payloads:
        if entry["use_pickle"]:
            check_pickle(path, members.get(path, b""))
    if members["data/sample_inputs/model.pt"]:
        check_pickle("data/sample_inputs/model.pt", members["data/sample_inputs/model.pt"])
    for finding in foreign(model):
        raise RefusedModelError(f"the graph contains {finding}: only torch's own operators on tensors are run")


def read_members(data: bytes) -> dict[str, bytes]:
    """Members by name below the archive's root folder, the same for Python's reader and torch's."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = archive.namelist()
        roots = {name.partition("/")[0] for name in names}
        if len(roots) != 1 or len(set(names)) != len(names):
            raise RefusedModelError(
                f"the archive has several roots or a member twice: {', '.join(sorted(names)[:5])} …"
            )
        members = {name.partition("/")[2]: archive.read(name) for name in names}
    if strange := [name for name in members if not MEMBERS.fullmatch(name)]:
        raise RefusedModelError(f"the archive has members that no exported graph needs: {', '.join(strange[:5])}")
    reader = torch._C.PyTorchFileReader(io.BytesIO(data))
    if {*reader.get_all_records()} - {".data/serialization_id"} != {*members} - {".data/serialization_id"} or any(
        reader.get_record(name) != content for name, content in members.items()
    ):
        raise RefusedModelError("two readers see different members in the archive")
    return members


def check_pickle(path: str, content: bytes) -> None:
    try:
        torch.load(io.BytesIO(content), weights_only=True)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RefusedModelError(f"{path} does not load with weights_only=True, it may carry code: {reason}") from error


def foreign(node: Any, key: str = "") -> Iterator[str]:
    """Every entry of a graph's description that is not a number, a tensor's name or one of torch's operators."""
    if isinstance(node, list):
        for item in node:
            yield from foreign(item, key)
    elif isinstance(node, dict):
        if key in ("metadata", "treespec_namedtuple_fields", "custom_obj_values") and node:
            yield f"{key} {json.dumps(node)[:80]}"
        for name, value in node.items():
            if name.startswith("as_") and name[3:] not in ARGUMENTS and value is not None:
                yield f"an argument of kind {name}"
            elif name == "guards_code" and value:
                yield f"code {json.dumps(value)[:80]}"
            elif key in ("tensor_values", "sym_int_values", "range_constraints") and not NAME.fullmatch(name):
                yield f"the name {name[:80]!r}"
            else:
                yield from foreign(value, name)
    elif isinstance(node, str):
        if key == "target" and not OPERATORS.fullmatch(node):
            yield f"a call of {node[:80]!r}"
        elif key == "expr_str" and not EXPRESSION.fullmatch(SYMBOL.sub("s0", node)):
            yield f"the expression {node[:80]!r}"
        elif key in ("in_spec", "out_spec") and not set(container_types(json.loads(node))) <= CONTAINERS:
            yield f"the container {node[:80]!r}"
        elif (key == "name" or key.endswith(("_name", "_names", "fqn"))) and node and not NAME.fullmatch(node):
            yield f"the name {node[:80]!r}"


def container_types(spec: Any) -> Iterator[Any]:
    if isinstance(spec, list):
        for item in spec:
            yield from container_types(item)
    elif isinstance(spec, dict):
        yield spec.get("type")
        yield from container_types(spec.get("children_spec", []))


set_model(Embedder())
