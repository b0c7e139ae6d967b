"""One worker reads a checkpoint; all have its tensors, or its error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from datasets.storage.store import Store, StoreError, open_store
from orchestration.engine import checkpoint
from orchestration.engine.checkpoint import FILES, Checkpoint, CorruptCheckpointError
from orchestration.engine.loop import TrainingProgress
from orchestration.engine.shared_checkpoint import read_for_all
from orchestration.engine.strategies.strategy import FullState
from orchestration.errors import RequestError
from orchestration.training.worker import common_checkpoint
from tests.orchestration.processes import in_processes

MODEL = {
    "weight": torch.randn(3, 4, generator=torch.Generator().manual_seed(1)),
    "mask": torch.tensor([True, False, True]),
    "half": torch.randn(5, generator=torch.Generator().manual_seed(2)).to(torch.bfloat16),
    "double": torch.tensor(0.1, dtype=torch.float64),
    "num_batches_tracked": torch.tensor(7),
    "nothing": torch.empty(0, 3),
}
OPTIMIZERS = {"model/weight/exp_avg": torch.randn(3, 4, generator=torch.Generator().manual_seed(3))}
ERRORS = {"corrupt": CorruptCheckpointError, "store": StoreError, "request": RequestError}


def written(folder: Path) -> str:
    checkpoint.save(
        open_store(str(folder)), FullState(MODEL, OPTIMIZERS), TrainingProgress(0, 2, 2),
        end_of_epoch=False, experiment={"name": "tiny"}, facts={"num_persons": 2},
    )  # fmt: skip
    return str(folder)


def is_reader() -> bool:
    return not dist.is_initialized() or dist.get_rank() == 0


class Counted(Store):
    """A store that counts its reads, and answers to rank 0 alone."""

    def read(self, path: str, offset: int = 0, length: int | None = None) -> bytes:
        assert is_reader(), path
        reads.append(path.rpartition("/")[2])
        return super().read(path, offset, length)


reads: list[str] = []


def resumed(folder: str) -> tuple[Checkpoint | None, dict[str, dict[str, Tensor]], list[str]]:
    reads.clear()
    found = common_checkpoint(Counted(folder))
    return found, dict(found.tensors) if found else {}, reads


@pytest.mark.parametrize("workers", [1, 3])
def test_all_workers_have_what_one_has_read_once(workers: int, tmp_path: Path) -> None:
    for rank, (found, tensors, read) in enumerate(in_processes(workers, resumed, written(tmp_path))):
        assert found is not None
        assert found.progress == TrainingProgress(0, 2, 2)
        assert found.facts == {"num_persons": 2}
        assert sorted(read) == (sorted(["checkpoint.json", *FILES]) if rank == 0 else [])
        for file, expected in zip(FILES, (MODEL, OPTIMIZERS), strict=True):
            assert tensors[file].keys() == expected.keys()
            for name, tensor in expected.items():
                assert tensors[file][name].dtype == tensor.dtype
                assert torch.equal(tensors[file][name], tensor), name


def model_alone(folder: str) -> set[str]:
    def find() -> Checkpoint:
        assert is_reader()
        return checkpoint.find(folder)

    found = read_for_all(find, FILES[:1])
    assert found is not None
    return {*found.tensors}


def test_a_file_that_is_not_asked_for_is_not_read(tmp_path: Path) -> None:
    folder = written(tmp_path)
    (tmp_path / "checkpoints/00000002" / FILES[1]).write_bytes(b"damaged")
    assert in_processes(2, model_alone, folder) == [{FILES[0]}] * 2


def nothing(folder: str) -> object:
    return common_checkpoint(open_store(folder))


def test_all_workers_see_that_there_is_none(tmp_path: Path) -> None:
    assert in_processes(2, nothing, str(tmp_path)) == [None, None]


def failing(kind: str) -> Any:
    def find() -> Checkpoint:
        raise ERRORS[kind](f"{kind}: what to do")

    try:
        return read_for_all(find)
    except Exception as error:
        return type(error).__name__, str(error)


@pytest.mark.parametrize("kind", ERRORS)
def test_all_workers_raise_what_the_reader_raises(kind: str) -> None:
    expected = (ERRORS[kind].__name__, f"{kind}: what to do")
    assert in_processes(2, failing, kind) == [expected] * 2
