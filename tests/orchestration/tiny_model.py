"""A model small enough to register in a moment, what it should answer, and what is known of it."""

from __future__ import annotations

import io
from pathlib import Path

import mlflow
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from methods.ranking import describe
from orchestration.export.model_card import Provenance
from orchestration.tracking import tracked_run

SIZE = (32, 16)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
METRICS = {"general/mAP": 0.4, "clothes-changing/mAP": 0.1234, "clothes-changing/rank-1": 0.2}


class Tiny(nn.Module):
    """A network as small as one can be that a mirror image changes."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.norm.running_mean.uniform_(-1, 1)
        self.neck = nn.Linear(6 * 8, 5)

    def embed(self, images: Tensor) -> Tensor:
        features = torch.relu(self.norm(self.convolution(images)))
        return self.neck(features.mean(2).flatten(1))


def provenance_of(home: Path, uri: str) -> Provenance:
    """A run created for the test has its storage below `home`."""
    experiment = {"name": "tiny", "experiment": "registry", "storage": str(home / "runs"), "data": "somewhere/ltcc"}
    run = tracked_run.create_run(experiment, "f" * 64, tracking_uri=uri)
    return Provenance(
        run_id=run.run_id,
        experiment="tiny",
        settings={"method": {"name": "tiny", "tau": 0.0625}, "data": "elsewhere"},
        data_name="ltcc 1",
        data_fingerprint="f" * 64,
        licence="for research only",
        metrics=METRICS,
        select_on_test=True,
    )


def some_images() -> np.ndarray:
    """uint8 [5, 3, H, W]."""
    return np.random.default_rng(1).integers(0, 256, (5, 3, *SIZE), dtype=np.uint8)


def features(method: nn.Module, images: np.ndarray, *rest: Tensor) -> np.ndarray:
    mean, std = (torch.tensor(v)[None, :, None, None] for v in (MEAN, STD))
    with torch.no_grad():
        return describe(method.embed, (torch.from_numpy(images) / 255 - mean) / std, *rest, flip=True).numpy()


def encode(image: np.ndarray, kind: str = "PNG") -> bytes:
    """uint8 [3, h, w] or [h, w] → a file."""
    buffer = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0) if image.ndim == 3 else image).save(buffer, kind, quality=95)
    return buffer.getvalue()


def onnx_of(uri: str, tracking_uri: str, folder: Path) -> bytes:
    """The ONNX file of a registered version."""
    there = mlflow.artifacts.download_artifacts(
        f"{uri}/artifacts/model.onnx", dst_path=folder, tracking_uri=tracking_uri
    )
    return Path(there).read_bytes()
