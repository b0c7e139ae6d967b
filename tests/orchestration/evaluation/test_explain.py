"""The picture of hard triples: drawn for every method; where it cannot be drawn, that is said and nothing else is lost."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from datasets.images.decode import decode_image
from datasets.protocols.protocols import PROTOCOLS
from datasets.shards.dataset import Dataset, SplitIndex
from methods import METHODS
from orchestration.config.load import Experiment, load
from orchestration.engine import checkpoint
from orchestration.evaluation import explain, heatmaps
from orchestration.evaluation.embed import Descriptors
from orchestration.evaluation.explain import PICTURE, explain_samples, render_triples
from tests.orchestration.checkpoints import checkpoint_of
from tests.tiny import tiny_dataset

SIZE = (64, 32)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_dataset(tmp_path_factory.mktemp("data") / "data", test_persons=8, size=SIZE)


def recipe(method: str, data: str) -> Experiment:
    sizes = [f"augment.height={SIZE[0]}", f"augment.width={SIZE[1]}", "method.width=0.125"]
    return load(f"{method}-demo", [f"data={data}", *sizes])


def descriptors(indexes: dict[str, SplitIndex]) -> dict[str, Descriptors]:
    random = torch.Generator().manual_seed(0)
    return {
        split: Descriptors(np.arange(len(index)), F.normalize(torch.randn(len(index), 8, generator=random), dim=1))
        for split, index in indexes.items()
    }


def draw(model: str, data: str, protocol: str = "ltcc") -> dict[str, bytes]:
    dataset = Dataset.open(data)
    indexes = dict(zip(("query", "gallery"), dataset.indexes("query", "gallery"), strict=True))
    return render_triples(checkpoint.find(model), dataset, PROTOCOLS[protocol], indexes, descriptors(indexes))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_looked_at(method: str, data: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = checkpoint_of(recipe(method, data), str(tmp_path / "model"), seed=1)
    drawn = draw(model, data)
    assert not caplog.records
    assert set(drawn) == {PICTURE}
    picture = np.asarray(Image.open(io.BytesIO(drawn[PICTURE])).convert("RGB"))
    assert min(picture.shape[:2]) > 500
    assert picture.std() > 20


@pytest.mark.parametrize("method", METHODS)
def test_what_is_shown_is_what_the_network_is_given_and_its_maps(method: str, data: str, tmp_path: Path) -> None:
    found = checkpoint.find(checkpoint_of(recipe(method, data), str(tmp_path / "model"), seed=1))
    samples = list(Dataset.open(data).samples("gallery"))[:6]
    seen = explain_samples(found, [samples[:2], samples[2:4], samples[4:]])
    assert [len(part) for part in seen] == [2, 2, 2]
    for sample, one in zip(samples, [one for part in seen for one in part], strict=True):
        given = decode_image(sample.image).permute(1, 2, 0).numpy()
        assert np.abs(one.image.astype(int) - given).max() <= 1
        assert "Grad-CAM" in one.heatmaps
        assert all(heat.picture.shape == (*SIZE, 3) for heat in one.heatmaps.values())
        assert not np.array_equal(one.heatmaps["Grad-CAM"].picture, heatmaps.overlay(one.image, np.zeros(SIZE)))


def test_a_panel_of_nothing_says_so() -> None:
    image = np.full((*SIZE, 3), 90, dtype=np.uint8)
    grey = heatmaps.overlay(image, np.zeros(SIZE))
    panel = explain.gradcam_panel(torch.zeros(SIZE), image)
    assert (panel.shape, panel.dtype) == (grey.shape, grey.dtype)
    written = (panel != grey).any(2)
    assert 0.05 < written.mean() < 0.5
    assert written[SIZE[0] // 3 : -SIZE[0] // 3].mean() > written.mean(), "in the middle"
    some = torch.zeros(SIZE)
    some[3, 3] = 0.1
    assert np.array_equal(explain.gradcam_panel(some, image), heatmaps.overlay(image, 10 * some.numpy()))


def test_a_picture_that_fails_is_said_and_loses_nothing(
    data: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = Path(checkpoint_of(recipe("baseline", data), str(tmp_path / "model"), seed=1))
    weights = model / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert draw(str(model), data) == {}
    [said] = caplog.records
    assert said.levelno == logging.WARNING
    assert "no picture of hard triples; the evaluation continues: CorruptCheckpointError" in said.getMessage()


def test_a_test_set_of_one_person_has_no_triple_which_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = tiny_dataset(tmp_path / "data", test_persons=1)
    model = checkpoint_of(recipe("baseline", data), str(tmp_path / "model"), seed=1)
    assert draw(model, data) == {}
    assert "in clothes-changing no query has both a match and another person in the gallery" in caplog.text


def test_the_mode_in_which_clothes_change_is_shown_where_there_is_one() -> None:
    shown = {name: explain.mode_of(protocol).name for name, protocol in PROTOCOLS.items()}
    assert shown["ltcc"] == shown["prcc"] == shown["vcclothes"] == "clothes-changing"
    assert shown["market1501"] == shown["last"] == "general"


def test_a_flat_map_is_cold_everywhere() -> None:
    assert (explain.stretched(torch.full((4, 2), 0.3), lowest=0.3) == 0).all()
    assert explain.stretched(torch.tensor([[1.0, 2.0], [0.0, 4.0]]), lowest=0.0).max() == 1
