"""A registered model where nothing is installed but what its requirements name."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch

from datasets.images.augment import preprocess
from datasets.images.decode import decode_image
from methods.ranking import describe
from orchestration.config import build
from orchestration.config.load import load
from orchestration.config.stored import facts_of
from orchestration.engine import checkpoint
from orchestration.engine.restore import load_method_state
from orchestration.registry import register
from orchestration.tracking import tracked_run
from tests.orchestration.checkpoints import checkpoint_of
from tests.servers.process import BIN, clean_environment
from tests.tiny import png, tiny_dataset, tiny_samples

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

SERVE = """
import importlib.util, json, sys
import mlflow, numpy as np
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
given = np.load("given.npz", allow_pickle=False)
files = [bytes(given[name]) for name in sorted(given.files) if name.startswith("file")]
np.savez("features.npz", files=model.predict({"bytes": files}), arrays=model.predict({"images": given["arrays"]}))
names = ("ray", "pydantic_core", "safetensors", "onnxruntime", "onnx", "orchestration", "methods", "datasets")
print(json.dumps([name for name in names if importlib.util.find_spec(name)]))
"""


def test_an_environment_of_mlflow_torch_and_torchvision_gives_the_features_of_training(
    tmp_path: Path,
) -> None:
    data = tiny_dataset(tmp_path / "data", persons=4)
    sizes = ["augment.height=32", "augment.width=16", "method.width=0.125"]
    experiment = load("cal-demo", [f"data={data}", f"storage={tmp_path / 'runs'}", *sizes])
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        run = tracked_run.start_run(experiment, "f" * 64)
        address = checkpoint_of(experiment, run.storage, seed=1)
        model = register.register_checkpoint(address, "fresh", run.run_id, {})
    folder = mlflow.artifacts.download_artifacts(model, dst_path=str(tmp_path / "model"), tracking_uri=uri)
    python = fresh_environment(tmp_path / "venv", Path(folder, "requirements.txt"))
    images = [sample.image for sample in tiny_samples("gallery", size=(50, 21))]
    images[1::2] = [png(decode_image(image).permute(1, 2, 0).numpy()) for image in images[1::2]]
    arrays = torch.cat([decode_image(sample.image)[None] for sample in tiny_samples("query", size=(32, 16))])
    files = {f"file{number:03d}": np.frombuffer(image, np.uint8) for number, image in enumerate(images)}
    np.savez(tmp_path / "given.npz", arrays=arrays.numpy(), **files)
    done = subprocess.run(
        [python, "-I", "-c", SERVE, uri, model],
        cwd=tmp_path,
        env=clean_environment(tmp_path / "home"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "features.npz")
    assert not {"ray", "safetensors", "onnxruntime", "onnx", "orchestration", "methods", "datasets"} & set(
        json.loads(done.stdout.splitlines()[-1])
    )
    of_training = checkpoint.find(address)
    method = build.build_method(experiment, facts_of(of_training))
    load_method_state(method, of_training)
    settings = build.build_augmentation(experiment)
    for name, given in (("files", [decode_image(image)[None] for image in images]), ("arrays", list(arrays[:, None]))):
        with torch.no_grad():
            inputs = torch.cat([preprocess(image, settings) for image in given])
            expected = describe(method.eval().embed, inputs, flip=experiment.evaluate.flip).numpy()
        np.testing.assert_allclose(found[name], expected, atol=1e-4)
        np.testing.assert_allclose(np.linalg.norm(found[name], axis=1), 1, atol=1e-5)


def fresh_environment(folder: Path, requirements: Path) -> Path:
    """A virtual environment with what the model asks for, in the versions that are installed here; returns its Python."""
    pinned = folder.with_suffix(".txt")
    pinned.write_text("\n".join(f"{d.name}=={d.version.partition('+')[0]}" for d in distributions()))
    python = folder / "bin" / "python"
    for words in (
        ["venv", "--quiet", f"--python={sys.executable}", str(folder)],
        ["pip", "install", "--quiet", f"--python={python}", "-r", str(requirements), "-c", str(pinned)],
    ):
        done = subprocess.run([BIN / "uv", *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return python
