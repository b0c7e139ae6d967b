"""Registered models that take more than single images: label maps beside them, or clips."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import Tensor

from orchestration.export.model_card import Provenance
from orchestration.registry import register
from tests.orchestration.tiny_model import MEAN, SIZE, STD, Tiny, encode, features, onnx_of, provenance_of, some_images


@pytest.fixture(scope="module")
def provenance(tmp_path_factory: pytest.TempPathFactory, mlflow_database: str) -> Provenance:
    return provenance_of(tmp_path_factory.mktemp("registry"), mlflow_database)


class TinyWithMaps(Tiny):
    def embed(self, images: Tensor, parsing: Tensor) -> Tensor:
        return super().embed(images * (parsing != 5)[:, None])


def test_a_model_with_parsing_takes_maps_as_arrays_and_as_png(provenance: Provenance, mlflow_database: str) -> None:
    images = some_images()
    torch.manual_seed(1)
    method = TinyWithMaps().eval()
    inputs = ("images", "parsing")
    takes = register.InputSettings(SIZE, MEAN, STD, inputs=inputs)
    registered = register.register(method, "with-maps", provenance, takes, tracking_uri=mlflow_database)
    model = register.load(registered.uri, tracking_uri=mlflow_database)
    maps = np.random.default_rng(3).integers(0, 20, (5, *SIZE), dtype=np.uint8)
    expected = features(method, images, torch.from_numpy(maps))
    np.testing.assert_allclose(model.predict({"images": images, "parsing": maps}), expected, atol=1e-5)
    files = [encode(image) for image in images]
    for given in (list(maps), [encode(labels) for labels in maps]):
        np.testing.assert_allclose(model.predict({"bytes": files, "parsing": given}), expected, atol=1e-5)
    palette = Image.fromarray(maps[0]).convert("P")
    palette.save(buffer := io.BytesIO(), "PNG")
    of_palette = model.predict({"bytes": files[:1], "parsing": [buffer.getvalue()]})
    np.testing.assert_allclose(of_palette, expected[:1], atol=1e-5)
    with pytest.raises(Exception, match="needs 'parsing'"):
        model.predict({"images": list(images)})


class TinyOfClips(Tiny):
    def embed(self, images: Tensor) -> Tensor:
        if images.ndim == 4:
            return super().embed(images)
        return super().embed(images.flatten(0, 1)).unflatten(0, images.shape[:2]).mean(1)


def test_a_model_of_video_takes_clips_of_any_length(
    provenance: Provenance, mlflow_database: str, tmp_path: Path
) -> None:
    torch.manual_seed(2)
    method = TinyOfClips().eval()
    takes = register.InputSettings(SIZE, MEAN, STD, clips=True)
    registered = register.register(method, "of-clips", provenance, takes, tracking_uri=mlflow_database)
    model = register.load(registered.uri, tracking_uri=mlflow_database)
    frames = np.random.default_rng(4).integers(0, 256, (7, 3, *SIZE), dtype=np.uint8)
    clips = [frames[:1], frames[1:3], frames[3:]]
    mean, std = (torch.tensor(v)[None, :, None, None] for v in (MEAN, STD))
    with torch.no_grad():  # a clip is embedded as it is evaluated: not mirrored
        raw = [method.embed(((torch.from_numpy(clip) / 255 - mean) / std)[None]) for clip in clips]
    expected = torch.nn.functional.normalize(torch.cat(raw), dim=1).numpy()
    encoded = [[encode(frame) for frame in clip] for clip in clips]
    for given in ({"images": clips}, {"bytes": encoded}, {"images": [clips[0][0], *clips[1:]]}):
        np.testing.assert_allclose(model.predict(given), expected, atol=1e-5)
    np.testing.assert_allclose(model.predict({"bytes": [encoded[0][0]]}), expected[:1], atol=1e-5)
    runtime = onnxruntime.InferenceSession(onnx_of(registered.uri, mlflow_database, tmp_path))
    assert runtime.get_inputs()[0].shape == ["batch", "frames", 3, *SIZE]
    for clip, one in zip(clips, expected, strict=True):
        [found] = runtime.run(["features"], {"images": clip[None].astype(np.float32)})
        np.testing.assert_allclose(found[0], one, atol=1e-5)
    with pytest.raises(Exception, match=r"clip 1: row 0 of 'bytes' cannot be decoded"):
        model.predict({"bytes": [encoded[0], [b"GIF89a, hardly an image"]]})
