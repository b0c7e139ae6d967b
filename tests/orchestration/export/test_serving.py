"""A graph is loaded if nothing but a graph is inside; a damaged image ends no process."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from datasets.images.decode import decode_image
from orchestration.export import serving
from orchestration.export.serving import InputError, RefusedModelError, check_archive, load_graph
from orchestration.export.torch_graph import Descriptor, export
from orchestration.registry import register
from tests.orchestration.tiny_model import MEAN, SIZE, STD, Tiny, encode


class Harmful:
    def __reduce__(self) -> tuple:
        return os.mkdir, (os.environ["HARM"],)


@pytest.fixture(scope="module")
def archive() -> bytes:
    torch.manual_seed(0)
    return export(Descriptor(Tiny().eval(), MEAN, STD, True), (torch.rand(2, 3, *SIZE) * 255,))


def altered(archive: bytes, change: Callable[[dict[str, bytes]], None]) -> bytes:
    with zipfile.ZipFile(io.BytesIO(archive)) as old:
        members = {name: old.read(name) for name in old.namelist()}
    inner = {name.partition("/")[2]: content for name, content in members.items()}
    change(inner)
    with zipfile.ZipFile(buffer := io.BytesIO(), "w") as new:
        for name, content in inner.items():
            new.writestr(f"graph/{name}", content)
    return buffer.getvalue()


def change_model(replace: Callable[[dict], None]) -> Callable[[dict[str, bytes]], None]:
    def change(members: dict[str, bytes]) -> None:
        model = json.loads(members["models/model.json"])
        replace(model)
        members["models/model.json"] = json.dumps(model).encode()

    return change


def pickled(members: dict[str, bytes]) -> None:
    torch.save((Harmful(),), buffer := io.BytesIO())
    members["data/sample_inputs/model.pt"] = buffer.getvalue()


def pickled_weight(members: dict[str, bytes]) -> None:
    path = "data/weights/model_weights_config.json"
    config = json.loads(members[path])
    next(iter(config["config"].values()))["use_pickle"] = True
    members[path] = json.dumps(config).encode()
    members["data/weights/weight_0"] = pickle.dumps(Harmful())


def call(target: str) -> Callable[[dict], None]:
    return lambda model: model["graph_module"]["graph"]["nodes"][0].update(target=target)


def expression(model: dict) -> None:
    size = model["graph_module"]["graph"]["tensor_values"]["images"]["sizes"][0]
    size["as_expr"]["expr_str"] = "eval(chr(49))"


def placeholder(model: dict) -> None:
    graph = model["graph_module"]["graph"]
    graph["inputs"][0]["as_tensor"]["name"] = "x=__import__('os').mkdir('x')"


ATTACKS = {
    "a pickled example": (pickled, "weights_only"),
    "a pickled weight": (pickled_weight, "weights_only"),
    "a pickled object": (
        lambda m: m.update({"data/constants/opaque_obj_0": pickle.dumps(Harmful())}),
        "members that no",
    ),
    "compiled code": (lambda m: m.update({"data/aotinductor/model/a.so": b"\x7fELF"}), "members that no"),
    "the old format": (lambda m: m.update({"version": b"8.1"}), "members that no"),
    "a call of Python": (change_model(call("torch.os.mkdir")), "a call of 'torch.os.mkdir'"),
    "a call of another operator": (change_model(call("torch.ops.image.write_file.default")), "a call of"),
    "a function among operators": (change_model(call("_operator.attrgetter")), "a call of"),
    "an expression": (change_model(expression), "the expression"),
    "guards": (change_model(lambda m: m.update(guards_code=["__import__('os')"])), "code"),
    "a name that is code": (change_model(placeholder), "the name"),
    "metadata": (
        change_model(lambda m: m["graph_module"]["graph"]["nodes"][0].update(metadata={"torch_fn": "torch.os"})),
        "metadata",
    ),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_archive_that_carries_code_is_refused(
    archive: bytes, attack: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARM", str(tmp_path / "harmed"))
    change, told = ATTACKS[attack]
    data = altered(archive, change)
    with pytest.raises(RefusedModelError, match=told):
        load_graph(data, register.sha256(data))
    assert not (tmp_path / "harmed").exists()


def test_an_unaltered_archive_is_taken_and_a_broken_one_is_not(archive: bytes) -> None:
    check_archive(archive)
    check_archive(altered(archive, lambda members: None))
    with pytest.raises(RefusedModelError):
        check_archive(archive[: len(archive) // 2])
    with pytest.raises(RefusedModelError):
        check_archive(b"not a zip")


def test_a_damaged_png_is_refused_and_does_not_end_the_process() -> None:
    whole = encode(np.random.default_rng(0).integers(0, 256, (3, 24, 12), dtype=np.uint8))
    for length in range(30, len(whole) - 12, 40):
        with pytest.raises(serving.InputError, match="row 3 of 'bytes' cannot be decoded"):
            serving.decode(decode_image, whole[:length], "row 3 of 'bytes'")


def test_a_changed_decoder_is_refused() -> None:
    source = register.DECODE.read_bytes()
    with pytest.raises(RefusedModelError, match=r"the decoder has SHA-256 .* was changed"):
        serving.load_decoder(source + b"\nraise SystemExit('ran')", register.sha256(source))


@pytest.mark.parametrize("file", [register.SERVING, register.DECODE])
def test_the_files_of_a_model_import_nothing_of_ours(file: Path) -> None:
    source = file.read_text()
    assert not [
        line for line in source.splitlines() if line.startswith(("from orch", "from meth", "from data", "import orch"))
    ]


def embedder() -> serving.Embedder:
    """With what reading inputs needs, without a graph."""
    model = serving.Embedder()
    model.height, model.width, model.inputs, model.batch, model.clips = *SIZE, ("images",), 4, False
    source = register.DECODE.read_bytes()
    model.decoder = serving.load_decoder(source, register.sha256(source))
    return model


@pytest.mark.parametrize("kind", ["float16", "float32", "float64"])
def test_floats_that_look_divided_by_255_are_refused(kind: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, *SIZE), dtype=np.uint8)
    divided = (pixels / 255).astype(kind)
    with pytest.raises(InputError, match=r"lies in 0…1, which looks divided by 255; expected .* Multiply by 255"):
        embedder().images({"images": divided})
    with pytest.raises(InputError, match="divided by 255"):
        embedder().images({"images": list(divided / 2)})
    for taken in (
        pixels,
        pixels.astype(kind),
        pixels // 128,
        np.zeros((1, 3, *SIZE), kind),
        np.full((1, 3, *SIZE), 1.5, kind),
    ):
        np.testing.assert_array_equal(embedder().images({"images": taken}).numpy(), taken.astype(np.float32))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"bytes": []}, "'bytes' is empty"),
        ({"bytes": "a.jpg"}, "'bytes' is a path or text, 'a.jpg'; read the file"),
        ({"bytes": Path("a.jpg")}, "'bytes' is a path or text, 'a.jpg'; read the file"),
        ({"bytes": ["a.jpg"]}, "row 0 of 'bytes' is str; expected the bytes of a file"),
        ({"bytes": None}, "'bytes' is NoneType; expected a list"),
        ({"images": "a.jpg"}, "'images' is a path or text"),
        ({"images": None}, r"'images' is NoneType; expected \[B, 3, "),
        ({"images": 3}, "'images' is int"),
        ({"images": []}, r"'images' is \[0\]; expected"),
        ({"images": ["a.jpg"]}, r"'images' is \[1\]; expected"),
    ],
)
def test_what_is_no_image_is_named(given: dict[str, object], told: str) -> None:
    with pytest.raises(InputError, match=told):
        embedder().predict(None, given)
