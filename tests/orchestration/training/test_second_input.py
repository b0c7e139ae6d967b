"""A method whose descriptors need parsing maps: trained, evaluated, registered and asked, on a real Ray."""

from __future__ import annotations

import io
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from PIL import Image
from torch import Tensor

from datasets.format.schema import Sample
from datasets.images.augment import preprocess, preprocess_parsing
from datasets.images.decode import decode_image, decode_parsing
from datasets.shards.dataset import Dataset, write_dataset
from datasets.storage.store import open_store
from methods.ranking import describe
from orchestration.config import build
from orchestration.config.load import Experiment, load
from orchestration.config.stored import facts_of
from orchestration.engine import checkpoint
from orchestration.engine.restore import load_method_state
from orchestration.errors import RequestError
from orchestration.evaluation.embed import load_features
from orchestration.evaluation.evaluate import evaluate
from orchestration.registry import register
from orchestration.registry.models import show_model
from orchestration.tracking.journal import read_steps
from orchestration.training.changed_clothes_figure import PICTURE
from orchestration.training.train import train
from tests.orchestration.checkpoints import checkpoint_of
from tests.tiny import tiny_dataset, tiny_samples

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

SMALL = [
    "epochs=2", "method.joint_from_epoch=1", "workers=2", "resources.cpus=0.5", "batch={people: 4, images: 2, lanes: 2}",
    "augment.height=32", "augment.width=16", "method.width=0.125", "optimizers.model.schedule=null",
]  # fmt: skip
COLOUR = "method.mask_fill=[0.1, 0.2, 0.3]"


def wanted(data: str | Path, place: Path, *more: str) -> Experiment:
    return load("ifd-demo", [f"data={data}", f"storage={place / 'runs'}", "experiment=maps", *SMALL, *more])


@pytest.fixture(scope="module")
def data(place: Path) -> str:
    return tiny_dataset(place / "data", persons=8, size=(40, 24))


@pytest.fixture(scope="module")
def trained(data: str, place: Path, ray_cluster: str) -> dict[str, Any]:
    return train(wanted(data, place, COLOUR, "augment.clothes_sampling={}", "register=with-maps"))


@pytest.fixture(scope="module")
def query(data: str) -> list[Sample]:
    return list(Dataset.open(data).samples("query"))


@pytest.fixture(scope="module")
def expected(trained: dict[str, Any], query: list[Sample]) -> Tensor:
    """Descriptors of the query's images and masks, made in this process."""
    found = checkpoint.find(trained["checkpoint"])
    experiment = Experiment.from_resolved(found.experiment)
    method = build.build_method(experiment, facts_of(found))
    load_method_state(method, found)
    how = build.build_augmentation(experiment)
    images = torch.cat([preprocess(decode_image(sample.image)[None], how) for sample in query])
    maps = torch.cat(
        [preprocess_parsing(decode_parsing(sample.parsing)[None], how) for sample in query if sample.parsing]
    )
    with torch.inference_mode():
        return describe(method.eval().embed, images, maps, flip=True)


def test_both_stages_are_trained_on_images_and_maps(trained: dict[str, Any]) -> None:
    records = [record for _, record in read_steps(open_store(trained["run"]))]
    losses = {r["stage"]: {name for name in r["metrics"] if name.startswith("loss/")} for r in records}
    alone = {"loss/model", "loss/attention-identity"}
    assert losses == {"attention": alone, "joint": alone | {"loss/identity", "loss/clothing"}}
    assert 0 <= trained["metrics"]["clothes-changing/rank-1"] <= 1


def test_the_run_shows_the_clothes_that_it_trained_on(trained: dict[str, Any]) -> None:
    found = MlflowClient(os.environ["MLFLOW_TRACKING_URI"]).list_artifacts(trained["run_id"], "pictures")
    assert f"pictures/{PICTURE}" in {file.path for file in found}


def test_descriptors_of_the_embedding_job_are_of_image_and_map(trained: dict[str, Any], expected: Tensor) -> None:
    store = open_store(trained["run"]).sub("evaluation/features")
    found = load_features(store, "query", np.arange(len(expected))).features
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_the_registered_model_takes_both_by_name(
    trained: dict[str, Any], query: list[Sample], expected: Tensor
) -> None:
    model = register.load(trained["model"])
    assert {column.name for column in model.metadata.signature.inputs.inputs} == {"images", "parsing", "bytes"}
    files, maps = [sample.image for sample in query], [sample.parsing for sample in query]
    by_bytes = model.predict({"bytes": files, "parsing": maps})
    np.testing.assert_allclose(by_bytes, expected.numpy(), atol=1e-5)
    of_other_size = [np.asarray(Image.open(io.BytesIO(data))) for data in maps if data]
    np.testing.assert_allclose(model.predict({"bytes": files, "parsing": of_other_size}), by_bytes, atol=1e-6)
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 16), dtype=np.uint8)
    labels = np.zeros((2, 32, 16), dtype=np.uint8)
    dressed = labels.copy()
    dressed[:, 8:24, 4:12] = 5
    bare, covered = (model.predict({"images": images, "parsing": given}) for given in (labels, dressed))
    assert np.abs(bare - covered).max() > 1e-6
    with pytest.raises(Exception, match="needs 'parsing'"):
        model.predict({"images": images})


def test_the_card_says_what_the_numbers_of_a_map_mean(trained: dict[str, Any]) -> None:
    card = show_model(trained["model"])["card"]
    assert "by label map lip20: 0 background, 1 hat" in card


def test_without_knowledge_transfer_a_descriptor_needs_no_map(place: Path, ray_cluster: str) -> None:
    mixed = with_masks_in(("train",), place / "mixed")
    experiment = wanted(mixed, place, "method.knowledge_transfer=false")
    model = checkpoint_of(experiment, str(place / "by-itself"), seed=1)
    assert evaluate(model, experiment, str(place / "evaluation"), details=False).metrics


def with_masks_in(masked: tuple[str, ...], address: Path, label_map: str = "lip20") -> str:
    splits = {
        name: [sample if name in masked else replace(sample, parsing=None) for sample in tiny_samples(name, persons=8)]
        for name in ("train", "query", "gallery")
    }
    write_dataset(
        str(address), splits, name="t", version="1", licence="drawn for tests", label_map=label_map, protocol="ltcc"
    )
    return str(address)


@pytest.mark.parametrize(
    ("masked", "told"),
    [
        (("query", "gallery"), r"method 'ifd' needs parsing masks and this data set has none"),
        (
            ("train",),
            r"'ifd' needs a parsing mask for each image at test time, .*in gallery, query have none\. Convert with",
        ),
        (("train", "query"), r"images in gallery have none\. .*or create masks with `redress data parse`"),
    ],
)
def test_a_split_without_masks_is_a_wrong_request_before_training(
    masked: tuple[str, ...], told: str, tmp_path: Path
) -> None:
    with pytest.raises(RequestError, match=told):
        train(wanted(with_masks_in(masked, tmp_path / "bare"), tmp_path))
    assert not (tmp_path / "runs").exists()


def test_masks_by_another_label_map_are_not_what_a_model_knows(trained: dict[str, Any], tmp_path: Path) -> None:
    other = with_masks_in(("train", "query", "gallery"), tmp_path / "other", label_map="atr18")
    experiment = wanted(other, tmp_path)
    with pytest.raises(RequestError, match=r"its masks have label map 'atr18', and the model was trained with 'lip20'"):
        evaluate(trained["checkpoint"], experiment, str(tmp_path / "evaluation"))
