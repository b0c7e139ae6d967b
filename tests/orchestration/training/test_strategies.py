"""A run of two workers under each strategy, as Ray Train's workers train it: validated, killed, and gone on under another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from datasets.conversion.holdout import holdout
from datasets.storage.store import open_store
from orchestration.config import build
from orchestration.config.load import load
from orchestration.engine import checkpoint
from orchestration.engine.checkpoint import FILES, load_tensors
from orchestration.tracking.journal import read_steps
from orchestration.training import worker
from orchestration.training.worker import WorkerConfig
from tests.orchestration.processes import in_processes
from tests.orchestration.training.killed import Killed, killed_after
from tests.tiny import tiny_dataset

CHAIN = ("zero", "fsdp", "data-parallel")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    place = tmp_path_factory.mktemp("strategies")
    tiny_dataset(place / "data", persons=12, clothes=2, images=4, test_persons=4)
    holdout(str(place / "data"), str(place / "held"), persons=4)
    return str(place / "held")


def config(data: str, run: Path, strategy: str) -> WorkerConfig:
    experiment = load("cal-demo", [
        f"data={data}", "epochs=2", "seed=2", "workers=2", "batch={people: 4, images: 4, lanes: 2}",
        "augment.height=32", "augment.width=16", "method.width=0.125", "method.adversarial_from_epoch=1",
        "select=best:val_query/general/mAP", "checkpoint.every_batches=1", f"strategy.name={strategy}",
    ])  # fmt: skip
    dataset = build.open_data(experiment)
    return WorkerConfig(experiment.resolved(), str(run), build.describe_data(dataset, dataset.index("train")))


def train(data: str, run: str, strategies: tuple[str, ...]) -> list[tuple[dict[str, Tensor], list[dict[str, Any]]]]:
    """Each strategy but the last is killed after its second step. In a worker; what is left of the run, on rank 0."""
    for strategy in strategies:
        wanted = config(data, Path(run), strategy)
        with killed_after(2 if strategy != strategies[-1] else 1 << 30):
            try:
                worker.run(wanted, open_store(wanted.run), torch.device("cpu"))
            except Killed:
                torch.distributed.barrier()
    store = open_store(run)
    newest = checkpoint.latest(store)
    assert newest is not None
    return [(load_tensors(newest, FILES[0]), [record for _, record in read_steps(store)])]


def test_a_run_that_goes_on_under_other_strategies_is_the_same_run(data: str, tmp_path: Path) -> None:
    """Losses agree as the journal asks; float32 weights drift apart by rounding alone."""
    [(plain, expected)] = in_processes(2, train, data, str(tmp_path / "plain"), ("data-parallel",))[0]
    [(mixed, found)] = in_processes(2, train, data, str(tmp_path / "mixed"), CHAIN)[0]
    assert [record["step"] for record in found] == [record["step"] for record in expected]
    assert plain.keys() == mixed.keys()
    for one, other in zip(found, expected, strict=True):
        assert one["metrics"]["loss/model"] == pytest.approx(other["metrics"]["loss/model"], rel=1e-3)
    for name, value in plain.items():
        assert (mixed[name].double() - value.double()).abs().max() <= 1e-2 * value.abs().max().clamp(min=1), name
