"""A registered model: the method's features without redress, its evidence, and no file that was changed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from mlflow import MlflowClient

from datasets.images.augment import Augmentation, preprocess
from methods.ranking import describe
from orchestration.errors import RequestError
from orchestration.export.model_card import Provenance
from orchestration.export.serving import RefusedModelError
from orchestration.export.torch_graph import Descriptor, export
from orchestration.registry import register
from tests.orchestration.tiny_model import MEAN, SIZE, STD, Tiny, encode, features, onnx_of, provenance_of, some_images


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("registry")


@pytest.fixture(scope="module")
def uri(home: Path) -> str:
    return f"sqlite:///{home / 'mlflow.db'}"


@pytest.fixture(scope="module")
def method() -> Tiny:
    torch.manual_seed(0)
    return Tiny().eval()


@pytest.fixture(scope="module")
def provenance(home: Path, uri: str) -> Provenance:
    return provenance_of(home, uri)


@pytest.fixture(scope="module")
def version(method: Tiny, provenance: Provenance, uri: str) -> register.Version:
    return register.register(method, "tiny-ltcc", provenance, register.InputSettings(SIZE, MEAN, STD), tracking_uri=uri)


@pytest.fixture(scope="module")
def model(version: register.Version, uri: str) -> mlflow.pyfunc.PyFuncModel:
    return register.load("models:/tiny-ltcc@candidate", tracking_uri=uri)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return some_images()


ELSEWHERE = """
import importlib.abc, json, sys
import numpy as np

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("orchestration", "methods", "datasets", "infra", "tests"):
            raise ImportError(f"{name} must not be needed")

sys.meta_path.insert(0, Blocked())
import mlflow
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/tiny-ltcc@candidate")
images = np.load("images.npy")
np.save("features.npy", model.predict({"images": images}))
print(sorted(m for m in sys.modules if m.partition(".")[0] in ("orchestration", "methods", "datasets", "infra")))
"""


@pytest.mark.system  # it needs no server: test_fresh_environment.py does the same in an environment of its own
def test_a_process_without_redress_gets_the_methods_features(
    version: register.Version, method: Tiny, images: np.ndarray, uri: str, tmp_path: Path
) -> None:
    np.save(tmp_path / "images.npy", images)
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "MLFLOW_TRACKING_URI")}
    done = subprocess.run(
        [sys.executable, "-I", "-c", ELSEWHERE, uri], cwd=tmp_path, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "[]"
    found = np.load(tmp_path / "features.npy")
    assert found.dtype == np.float32
    assert found.shape == (5, 5)
    np.testing.assert_allclose(found, features(method, images), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


def test_images_and_bytes_in_every_form_agree(
    model: mlflow.pyfunc.PyFuncModel, method: Tiny, images: np.ndarray
) -> None:
    import pandas

    expected = features(method, images)
    files = [encode(image) for image in images]
    forms = {
        "array": {"images": images},
        "floats": {"images": images.astype(np.float32)},
        "list of arrays": {"images": list(images)},
        "files": {"bytes": files},
        "frame of files": pandas.DataFrame({"bytes": files}),
        "frame of arrays": pandas.DataFrame({"images": list(images)}),
        "one file": {"bytes": files[:1]},
    }
    for name, form in forms.items():
        found = model.predict(form)
        np.testing.assert_allclose(found, expected[: len(found)], atol=1e-5, err_msg=name)


def test_files_of_another_size_give_what_evaluation_gives(model: mlflow.pyfunc.PyFuncModel, method: Tiny) -> None:
    settings = Augmentation(height=SIZE[0], width=SIZE[1], mean=MEAN, std=STD)
    for shape in ((3, 100, 41), (3, 20, 30)):
        image = np.random.default_rng(2).integers(0, 256, shape, dtype=np.uint8)
        with torch.no_grad():
            expected = describe(method.embed, preprocess(torch.from_numpy(image)[None], settings)).numpy()
        np.testing.assert_allclose(model.predict({"bytes": [encode(image)]}), expected, atol=1e-5)
        assert np.isfinite(model.predict({"bytes": [encode(image, "JPEG")]})).all()


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"images": np.zeros((2, 3, 16, 32), np.uint8)}, r"'images' is \[2, 3, 16, 32\]; expected \[B, 3, 32, 16\]"),
        ({"images": np.full((1, 3, *SIZE), -2.0, np.float32)}, "not normalised"),
        ({"images": np.full((1, 3, *SIZE), np.nan, np.float32)}, "not normalised"),
        ({"images": np.full((1, 3, *SIZE), "x")}, "expected .*uint8 or float"),
        ({"images": [np.zeros((3, *SIZE)), np.zeros((3, 5, 5))]}, "different sizes"),
        ({"bytes": [b"GIF89a, hardly an image"]}, "row 0 of 'bytes' cannot be decoded"),
        ({"bytes": [b"text"]}, "row 0 of 'bytes' is no image of a known format"),
        (
            {"bytes": [b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\1\0\0\0\1\0\0\x08\x02\0\0\0"]},
            "more than the 16777216 that are decoded",
        ),
        ({"bytes": [b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1\0\0\0\1\x08\x02\0\0\0"]}, "cannot be decoded"),
        ({"bytes": [b"\xff\xd8\xff\xe0\0\x10"]}, "row 0 of 'bytes' cannot be decoded"),
    ],
)
def test_what_the_model_cannot_take_is_named(model: mlflow.pyfunc.PyFuncModel, asked: dict, told: str) -> None:
    with pytest.raises(Exception, match=told):
        model.predict(asked)


def test_a_model_is_asked_with_images_or_bytes(model: mlflow.pyfunc.PyFuncModel, images: np.ndarray) -> None:
    with pytest.raises(Exception, match="either 'images' or 'bytes'"):
        model.predict({"images": list(images), "bytes": [encode(image) for image in images]})
    with pytest.raises(Exception, match="either 'images' or 'bytes'"):
        model.predict({"pictures": list(images)})


def test_the_version_carries_its_evidence(version: register.Version, provenance: Provenance, uri: str) -> None:
    client = MlflowClient(uri)
    found = client.get_model_version_by_alias("tiny-ltcc", "candidate")
    assert f"models:/{found.name}/{found.version}" == version.uri
    assert found.run_id == provenance.run_id
    assert found.tags["run_id"] == provenance.run_id
    assert found.tags["data.fingerprint"] == "f" * 64
    assert found.tags["select_on_test"] == "true"
    assert found.tags["metric.clothes-changing/mAP"] == "0.123400"
    assert found.tags["sha256.serving"] == register.sha256(register.SERVING.read_bytes())
    for said in (
        "12.3",
        "for research only",
        "selected on the test set",
        "may run code in a service that loads from it",
        "tau",
    ):
        assert said in found.description
    info = mlflow.models.get_model_info(version.uri)
    assert [c.name for c in info.signature.inputs.inputs] == ["images", "bytes"]
    assert info.signature.outputs.inputs[0].shape == (-1, 5)
    assert client.get_run(provenance.run_id).info.status == "RUNNING", "registering does not end the run"


def test_the_model_needs_pinned_libraries_and_none_of_our_files(
    version: register.Version, uri: str, tmp_path: Path
) -> None:
    folder = Path(mlflow.artifacts.download_artifacts(version.uri, dst_path=str(tmp_path), tracking_uri=uri))
    lines = (folder / "requirements.txt").read_text().split()
    assert {line.partition("==")[0] for line in lines} == {"mlflow", "torch", "torchvision", "pillow", "numpy"}
    assert all("==" in line for line in lines)
    assert sorted(p.name for p in folder.rglob("*.py")) == ["decode.py", "serving.py"]
    everything = b"".join(p.read_bytes() for p in folder.rglob("*") if p.is_file())
    assert str(register.SERVING.parents[1]).encode() not in everything, "no path of this machine"
    example = mlflow.pyfunc.load_model(str(folder)).input_example
    assert set(example) == {"images"}


def test_a_changed_file_is_refused_before_it_is_loaded(
    version: register.Version, method: Tiny, uri: str, home: Path
) -> None:
    client = MlflowClient(uri)
    folder = Path(client.get_logged_model(version.model_id).artifact_location.removeprefix("file://"))
    graph, code = folder / "artifacts" / "graph.pt2", folder / "serving.py"
    genuine = {path: path.read_bytes() for path in (graph, code)}
    changed = Tiny()
    graph.write_bytes(export(Descriptor(changed, MEAN, STD, True), (torch.rand(2, 3, *SIZE) * 255,)))
    with pytest.raises(RefusedModelError, match=r"graph .* SHA-256"):
        register.load(version.uri, tracking_uri=uri)
    with pytest.raises(Exception, match="the file was changed"):
        mlflow.pyfunc.load_model(version.uri)
    graph.write_bytes(genuine[graph])
    code.write_bytes(genuine[code] + b"\nraise SystemExit('ran')\n")
    with pytest.raises(RefusedModelError, match="serving"):
        register.load(version.uri, tracking_uri=uri)
    code.write_bytes(genuine[code])
    register.load(version.uri, tracking_uri=uri)


@pytest.mark.parametrize(
    ("genuine", "changed"),
    [
        ("mlflow.pyfunc.loaders.code_model", "shutil"),
        ("code: null", "code: code"),
        ("model_code_path:", "data: artifacts\n    model_code_path:"),
        ("    streamable: false", "    streamable: false\n    python_model: python_model.pkl"),
        ("flavors:\n", "flavors:\n  sklearn:\n    pickled_model: model.pkl\n"),
    ],
)
def test_a_description_that_asks_for_other_code_is_refused(
    version: register.Version, uri: str, genuine: str, changed: str
) -> None:
    where = MlflowClient(uri).get_logged_model(version.model_id).artifact_location.removeprefix("file://")
    path = Path(where, "MLmodel")
    text = path.read_text()
    assert genuine in text
    try:
        path.write_text(text.replace(genuine, changed))
        with pytest.raises(RefusedModelError, match=r"MLmodel loads more than serving\.py"):
            register.load(version.uri, tracking_uri=uri)
    finally:
        path.write_text(text)


def test_the_graph_lies_there_as_onnx_too_for_any_number_of_images(
    version: register.Version, method: Tiny, images: np.ndarray, uri: str, tmp_path: Path
) -> None:
    data = onnx_of(version.uri, uri, tmp_path)
    onnx.checker.check_model(onnx.load_from_string(data), full_check=True)
    assert register.sha256(data) == version.digests["onnx"]
    runtime = onnxruntime.InferenceSession(data)
    [shown] = runtime.get_inputs()
    assert (shown.name, shown.shape, shown.type) == ("images", ["batch", 3, *SIZE], "tensor(float)")
    assert runtime.get_outputs()[0].shape == ["batch", 5]
    for number in (1, 2, 5):
        [found] = runtime.run(["features"], {"images": images[:number].astype(np.float32)})
        np.testing.assert_allclose(found, features(method, images[:number]), atol=1e-5)
    assert str(register.SERVING.parents[1]).encode() not in data, "no path of this machine"


def test_a_changed_onnx_file_is_refused(version: register.Version, uri: str) -> None:
    where = MlflowClient(uri).get_logged_model(version.model_id).artifact_location.removeprefix("file://")
    path = Path(where, "artifacts", "model.onnx")
    genuine = path.read_bytes()
    try:
        path.write_bytes(genuine[:-1] + b"x")
        with pytest.raises(RefusedModelError, match=r"onnx \(model\.onnx\) has SHA-256"):
            register.load(version.uri, tracking_uri=uri)
        path.unlink()
        with pytest.raises(RefusedModelError, match="the file is missing"):
            register.load(version.uri, tracking_uri=uri)
    finally:
        path.write_bytes(genuine)
    register.load(version.uri, tracking_uri=uri)


def test_a_name_that_is_not_registered_is_a_request_gone_wrong(uri: str) -> None:
    with pytest.raises(RequestError, match=r"models:/NAME@ALIAS of a registered model; registered are .*tiny-ltcc"):
        register.load("models:/nosuch@champion", tracking_uri=uri)


@pytest.mark.parametrize("asked", ["models:/tiny-ltcc@champion", "models:/tiny-ltcc/99", "models:/tiny-ltcc/latest"])
def test_an_alias_that_points_to_nothing_is_told_with_those_that_do(
    version: register.Version, asked: str, uri: str
) -> None:
    with pytest.raises(RequestError, match=r"tiny-ltcc has version 1 and @candidate \(version 1\)"):
        register.load(asked, tracking_uri=uri)
