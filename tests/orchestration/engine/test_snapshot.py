"""Training goes on after a snapshot, and what it changes does not reach the snapshot."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from datasets.storage.store import open_store
from orchestration.engine import checkpoint
from orchestration.engine.loop import TrainingProgress
from orchestration.engine.snapshot import Snapshot
from orchestration.engine.strategies.strategy import FullState

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]


@pytest.mark.parametrize("device", DEVICES)
def test_weights_that_change_right_after_a_snapshot_do_not_reach_the_files(device: str, tmp_path: Path) -> None:
    weight, average = torch.arange(1 << 20, dtype=torch.float32, device=device), torch.ones(1 << 18, device=device)
    expected = weight.cpu().clone()
    store, snapshot = open_store(str(tmp_path)), Snapshot()
    snapshot.take(FullState({"weight": weight}, {"model/weight/exp_avg": average}))
    weight.fill_(float("nan"))
    average.fill_(float("nan"))
    folder = checkpoint.save(
        store, snapshot, TrainingProgress(0, 1, 1), end_of_epoch=False, experiment={"name": "tiny"}, facts={}
    )
    found = checkpoint.with_tensors(checkpoint.read(store, folder))
    assert torch.equal(found.tensors["model.safetensors"]["weight"], expected)
    assert (found.tensors["optimizers.safetensors"]["model/weight/exp_avg"] == 1).all()


def test_the_next_snapshot_takes_no_new_memory() -> None:
    snapshot = Snapshot.of(FullState({"weight": torch.ones(100)}, {}))
    place = snapshot.model.memory.data_ptr()
    snapshot.take(FullState({"weight": torch.zeros(100)}, {}))
    assert snapshot.model.memory.data_ptr() == place
    assert snapshot.model.content == Snapshot.of(FullState({"weight": torch.zeros(100)}, {})).model.content
