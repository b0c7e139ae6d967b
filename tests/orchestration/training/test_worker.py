"""What a worker leaves in the run's storage when it stops."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from datasets.storage.store import open_store
from orchestration.config import build
from orchestration.config.load import load
from orchestration.engine import checkpoint
from orchestration.engine.loop import NonFiniteLossError, TrainingProgress
from orchestration.training.worker import WorkerConfig, run
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
