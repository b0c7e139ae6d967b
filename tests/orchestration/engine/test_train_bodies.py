"""Bodies of several embeddings through the loop, evaluation and registry: a few steps on drawn people each."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mlflow import MlflowClient

from datasets.images.decode import decode_image
from datasets.shards.dataset import Dataset
from datasets.storage.store import open_store
from methods.ranking import describe
from orchestration.config import build
from orchestration.config.load import Experiment, load
from orchestration.config.stored import facts_of
from orchestration.engine import checkpoint
from orchestration.engine.restore import load_method_state
from orchestration.errors import RequestError
from orchestration.export.torch_graph import Descriptor, export
from orchestration.tracking.journal import read_steps
from orchestration.training.train import train
from orchestration.training.worker import WorkerConfig, run
from tests.tiny import tiny_dataset

SIZE = (64, 32)
SMALL = [
    "batch={people: 4, images: 4, lanes: 2}", "augment.height=64", "augment.width=32", "augment.pad=2",
    "method.width=0.125", "optimizers.model.schedule=null", "checkpoint.keep=1",
]  # fmt: skip
REFINED = ["method.body=pcb", "method.refine_from_epoch=1", "method.finetune_from_epoch=2"]
REFINED_LATE = ["method.body=pcb", "method.refine_from_epoch=7", "method.finetune_from_epoch=8"]
BODIES = {"pcb": ["method.body=pcb", "method.descriptor=H"], "refined pcb": REFINED_LATE, "mgn": ["method.body=mgn"],
          "hpm": ["method.body=hpm"]}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_dataset(tmp_path_factory.mktemp("bodies") / "data", persons=8, size=SIZE)


def trained(body: str, data: str, folder: Path) -> Experiment:
    """What a worker does, without Ray: checkpoints and journal below the folder."""
    wanted = load("baseline-demo", [f"data={data}", "epochs=12", "optimizers.model.lr=5.0e-3", *SMALL, *BODIES[body]])
    dataset = Dataset.open(data)
    facts = build.describe_data(dataset, dataset.index("train"))
    run(WorkerConfig(wanted.resolved(), str(folder), facts), open_store(str(folder)), torch.device("cpu"))
    return wanted


@pytest.mark.parametrize(
    "body", ["refined pcb", "mgn", *(pytest.param(body, marks=pytest.mark.long) for body in ("pcb", "hpm"))]
)
def test_each_body_learns(body: str, data: str, tmp_path: Path) -> None:
    wanted = trained(body, data, tmp_path)
    records = [record for _, record in read_steps(open_store(str(tmp_path)))]
    identity = [record["metrics"]["loss/identity"] for record in records]
    assert np.mean(identity[-3:]) < 0.9 * np.mean(identity[:3])
    assert ("loss/triplet" in records[0]["metrics"]) is (body == "mgn")
    if body == "refined pcb":
        stages = dict.fromkeys(record["stage"] for record in records)
        assert list(stages) == ["identity, stripes", "identity, part classifier", "identity, refined parts"]
        becomes_a_graph_with_its_descriptors(wanted, data, tmp_path)


def becomes_a_graph_with_its_descriptors(wanted: Experiment, data: str, folder: Path) -> None:
    """The state of this body decides what its graph is. Graphs of all bodies are in `tests/methods/test_methods.py`."""
    found = checkpoint.find(str(folder))
    method = build.build_method(wanted, facts_of(found))
    load_method_state(method, found)
    settings = build.build_augmentation(wanted)
    images = torch.stack([decode_image(sample.image) for sample in Dataset.open(data).samples("query")][:4])
    descriptor = Descriptor(method, settings.mean, settings.std, True).eval()
    graph = folder / "graph.pt2"
    graph.write_bytes(export(descriptor, (images.float(),)))
    loaded = torch.export.load(str(graph)).module(check_guards=False)
    with torch.no_grad():
        assert loaded(images.float()).shape == (4, 6 * 64)  # 512 channels at an eighth of the width, six parts
        normalised = (images / 255 - descriptor.mean) / descriptor.std
        torch.testing.assert_close(loaded(images.float()), describe(method.embed, normalised))


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_refined_pcb_is_trained_and_scored_by_cues(data: str, place: Path, ray_cluster: str) -> None:
    settings = [f"data={data}", f"storage={place / 'runs'}", "epochs=3", "resources.cpus=0.5", *SMALL, *REFINED]
    wanted = load("baseline-demo", [*settings, "evaluate.cues=[head,body-rows]"])
    result = train(wanted)
    modes = ("general", "same-clothes", "clothes-changing")
    names = {f"{mode}{cue}/mAP" for mode in modes for cue in ("", "-head", "-body-rows")}
    assert names == {name for name in result["metrics"] if name.endswith("/mAP")}
    in_mlflow = MlflowClient(os.environ["MLFLOW_TRACKING_URI"]).get_run(result["run_id"]).data.metrics
    assert {name: in_mlflow[name] for name in result["metrics"]} == pytest.approx(result["metrics"])
    assert any(path.endswith("/cues.png") for path in result["pictures"])
    state = checkpoint.load_tensors(checkpoint.find(result["run"]), checkpoint.FILES[0])
    assert bool(state["encoder.is_refined"])


@pytest.mark.parametrize(
    ("recipe", "overrides", "told"),
    [
        (
            "baseline-demo",
            ["method.body=pbc"],
            r"method.body = pbc .*expected global, pcb, mgn, hpm, clip-vit or clip-cnn.*Did you mean pcb",
        ),
        ("baseline-demo", REFINED[:2], r"needs both refine_from_epoch, .*set both, or neither"),
        (
            "baseline-demo",
            [*REFINED, "method.finetune_from_epoch=12"],
            r"stage 'identity, refined parts' would never start: it begins at epoch 12, training ends with epoch 11. Set "
            r"method.finetune_from_epoch below 12",
        ),
        ("baseline-demo", ["method.body=mgn", "method.last_stride=2"], r"body 'mgn' has no last_stride"),
        ("ifd-demo", REFINED, r"IFD trains two of them in stages of its own"),
        (
            "cal-prcc",
            ["method.body=clip-vit", "data=x"],
            r"published weights of this body are not ImageNet's. Set weights=published",
        ),
        ("ccaf-prcc", ["method.width=0.5", "data=x"], r"no published weights have this backbone"),
        ("cal-prcc", ["method.body=hpm", "method.width=0.5", "data=x"], r"no published weights have this backbone"),
    ],
)
def test_bodies_that_cannot_be_are_a_wrong_request(recipe: str, overrides: list[str], told: str) -> None:
    with pytest.raises(RequestError, match=told):
        load(recipe, ["data=x", *overrides])


def test_every_recipe_of_images_takes_every_body_by_one_override() -> None:
    for recipe in ("baseline-prcc", "cal-ltcc", "ifd-prcc", "pixel-sampling-prcc"):
        for body in ("pcb", "mgn", "hpm"):
            found: dict[str, Any] = load(recipe, ["data=x", f"method.body={body}"]).resolved()
            assert found["method"]["body"] == body
