"""What a worker leaves in the run's storage when it stops."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from datasets.errors import DataError
from datasets.storage.store import open_store
from orchestration.config import build
from orchestration.config.load import Experiment, load, override
from orchestration.config.stored import facts_of
from orchestration.engine import checkpoint
from orchestration.engine.loop import NonFiniteLossError, TrainingProgress
from orchestration.training.preparation import prepare
from orchestration.training.worker import Training, WorkerConfig, run
from tests.tiny import tiny_dataset


def test_a_run_that_diverges_leaves_the_state_before_the_step_that_did(tmp_path: Path) -> None:
    """After one step at this rate the weights are finite, and nothing that is computed with them is."""
    data = tiny_dataset(tmp_path / "data", persons=8, clothes=2, images=4)
    experiment = load("baseline-demo", [
        f"data={data}", "workers=1", "epochs=1", "batch={people: 4, images: 2, lanes: 2}", "augment.height=32",
        "augment.width=16", "method.width=0.0625", "optimizers.model={name: adam, lr: 1e30, schedule: null}",
    ])  # fmt: skip
    dataset = build.open_data(experiment)
    facts = build.describe_data(dataset, dataset.index("train"))
    store = open_store(str(tmp_path / "run"))
    with pytest.raises(NonFiniteLossError, match=r"step 1 .*The batch: .*\.jpg"):
        run(WorkerConfig(experiment.resolved(), str(tmp_path / "run"), facts), store, torch.device("cpu"))
    found = checkpoint.read(store, "stopped/00000001")
    assert found.progress == TrainingProgress(0, 1, 1)
    for file in checkpoint.FILES:
        tensors = checkpoint.load_tensors(found, file)
        assert all(tensor.isfinite().all() for tensor in tensors.values())
        assert {int(t) for name, t in tensors.items() if name.endswith(("num_batches_tracked", "/step"))} == {1}


def small(data: str) -> Experiment:
    return load("cal-demo", [
        f"data={data}", "workers=1", "epochs=1", "batch={people: 4, images: 2, lanes: 2}", "augment.height=32",
        "augment.width=16", "method.width=0.0625", "method.adversarial_from_epoch=0",
    ])  # fmt: skip


def test_what_the_driver_sends_has_nothing_for_each_class(tmp_path: Path) -> None:
    """Workers read it from the index: the sizes of 8 and of 64 persons differ by digits."""
    lengths = []
    for persons in (8, 64):
        data = tiny_dataset(tmp_path / f"{persons}", persons=persons, clothes=2, images=2)
        prepared = prepare(small(data))
        config = WorkerConfig(prepared.experiment.resolved(), "run", build.without_tables(prepared.facts))
        lengths.append(len(json.dumps(asdict(config)["facts"])))
    assert lengths[1] - lengths[0] <= 4


def test_a_worker_learns_the_classes_from_the_index(tmp_path: Path) -> None:
    data = tiny_dataset(tmp_path / "data", persons=8, clothes=2, images=2)
    store = open_store(str(tmp_path / "run"))
    prepared = prepare(small(data))
    config = WorkerConfig(prepared.experiment.resolved(), store.address, build.without_tables(prepared.facts))
    with closing(Training(config, store, torch.device("cpu"))) as training:
        assert training.facts["clothes_owner"].tolist() == [n // 2 for n in range(16)]
        assert training.method.get_buffer("clothes_owner").tolist() == [n // 2 for n in range(16)]
        training.recorder.save(TrainingProgress(0, 1, 1), end_of_epoch=False)
        training.recorder.drain()
    found = checkpoint.find(store.address)
    assert "clothes_owner" not in found.facts
    assert facts_of(found)["clothes_owner"].tolist() == [n // 2 for n in range(16)]


def test_a_worker_stops_where_the_data_set_was_changed_meanwhile(tmp_path: Path) -> None:
    prepared = prepare(small(tiny_dataset(tmp_path / "data", persons=8, clothes=2, images=2)))
    for path in (tmp_path / "data").rglob("*.*"):
        path.unlink()
    tiny_dataset(tmp_path / "data", persons=9, clothes=2, images=2)
    store = open_store(str(tmp_path / "run"))
    config = WorkerConfig(prepared.experiment.resolved(), store.address, build.without_tables(prepared.facts))
    with pytest.raises(DataError, match="was changed after this run was checked: its num_images was 32 and is 36 now"):
        run(config, store, torch.device("cpu"))


def test_a_worker_recomputes_where_the_experiment_says_so(tmp_path: Path) -> None:
    """The checkpoints of both ways have the same digests."""
    data = tiny_dataset(tmp_path / "data", persons=8, clothes=2, images=2)
    digests = []
    for recompute in (False, True):
        experiment = override(small(data).resolved(), [f"batch.recompute={str(recompute).lower()}"], source="test")
        store = open_store(str(tmp_path / f"{recompute}"))
        config = WorkerConfig(experiment.resolved(), store.address, build.without_tables(prepare(experiment).facts))
        calls: list[int] = []
        with closing(Training(config, store, torch.device("cpu"))) as training:
            convolution = training.method.get_submodule("encoder.backbone.layer4.0.conv1")
            convolution.register_forward_hook(lambda *_, calls=calls: calls.append(1))
            training.advance(1)
            assert len(calls) == training.progress.step * (2 if recompute else 1)
        digests.append(checkpoint.find(store.address).digests)
    assert digests[0] == digests[1]
