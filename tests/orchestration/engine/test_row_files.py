"""Rows that some workers wrote are read by any other number of workers, none of which reads all files; damage is told."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from threading import Thread

import pytest
import torch
from torch import Tensor
from torch.optim import Adam

from datasets.storage.store import Store, open_store
from methods.method import Method
from methods.sharded.share import NONE, WHOLE, Rows, Share, held_rows
from orchestration.engine import checkpoint, row_files
from orchestration.engine.checkpoint import FACTS, FILES, CorruptCheckpointError
from orchestration.engine.loop import TrainingProgress
from orchestration.engine.restore import load_method_state, optimizer_states
from orchestration.engine.row_files import OwnSnapshot, Written, overlap, read_rows
from orchestration.engine.strategies.single_process import SingleProcess
from orchestration.errors import RequestError
from tests.methods.variants import build

WRITTEN = (("cal", 1), ("cal", 2), ("cal", 3), ("cal with memory", 3))  # a variant, by so many workers
AT = TrainingProgress(0, 1, 1)


@functools.cache
def trained(variant: str, share: Share) -> SingleProcess:
    """A method with a share of the classes and Adam's states. Each row has the numbers that it has in the whole."""
    method = build(variant, share=share)
    held = held_rows(method)
    for seed, (name, tensor) in enumerate(method.state_dict().items()):
        rows = held.get(name)
        shape = tensor.shape if rows is None else torch.Size([rows.total, *tensor.shape[1:]])
        numbers = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        tensor.copy_(numbers if rows is None else numbers[rows.first : rows.end])
    optimizers = {name: Adam([p for _, p in owned]) for name, owned in method.parameters_of().items()}
    for optimizer in optimizers.values():
        for parameter in optimizer.param_groups[0]["params"]:
            parameter.grad = parameter.detach() ** 2
        optimizer.step()
    strategy = SingleProcess()
    strategy.prepare(method, dict(optimizers))
    return strategy


def write(store: Store, variant: str, workers: int) -> checkpoint.Checkpoint:
    """A checkpoint as so many workers write it, each in a thread of its own."""
    strategies = [trained(variant, Share(worker, workers)) for worker in range(workers)]
    folder, snapshots = checkpoint.folder_of(AT), [OwnSnapshot() for _ in strategies]
    for snapshot, strategy in zip(snapshots, strategies, strict=True):
        snapshot.take(strategy.own_rows())

    def write_rows(worker: int) -> None:
        row_files.announce(store, folder, worker, "now", snapshots[worker].write(store, folder, FILES, worker))

    def rows_of_all() -> Written:
        own, others = snapshots[0].write(store, folder, FILES, 0), row_files.collect(store, folder, workers, "now", 20)
        return Written(own.digests | others.digests, own.rows | others.rows)

    threads = [Thread(target=write_rows, args=(worker,)) for worker in range(1, workers)]
    for thread in threads:
        thread.start()
    checkpoint.save(
        store, strategies[0].full_state(), AT, end_of_epoch=False, experiment={}, facts={},
        own_rows=rows_of_all if workers > 1 else None,
    )  # fmt: skip
    for thread in threads:
        thread.join()
    row_files.clear_notes(store, folder, workers)
    found = checkpoint.latest_whole(store)
    assert found is not None
    return found


@pytest.fixture(scope="module", params=WRITTEN, ids=str)
def written(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, checkpoint.Checkpoint]:
    variant, workers = request.param
    return variant, write(open_store(str(tmp_path_factory.mktemp("run"))), f"{variant}, sharded", workers)


def fresh(variant: str, share: Share | None) -> Method:
    """share: None for a method that does not divide its classes."""
    method = build(variant) if share is None else build(f"{variant}, sharded", share=share)
    for tensor in method.state_dict().values():
        tensor.fill_(-1)
    return method


@pytest.mark.parametrize("workers", [0, 1, 2, 4])
def test_any_number_of_workers_reads_its_rows_of_weights_and_optimizers(
    written: tuple[str, checkpoint.Checkpoint], workers: int
) -> None:
    variant, found = written
    for worker in range(workers or 1):
        share = Share(worker, workers) if workers else None
        method = fresh(variant, share)
        load_method_state(method, found)
        expected = trained(f"{variant}, sharded", share or WHOLE)
        for name, tensor in expected.method.state_dict().items():
            assert torch.equal(method.state_dict()[name], tensor), name
        states = optimizer_states(method, found)
        for name, pairs in expected.method.parameters_of().items():
            for parameter_name, parameter in pairs:
                state, theirs = states[name, parameter_name], expected.optimizers[name].state[parameter]
                assert state.keys() == theirs.keys()
                assert all(torch.equal(state[key], value) for key, value in theirs.items())


def test_whoever_needs_no_classes_reads_no_row_file(
    written: tuple[str, checkpoint.Checkpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    variant, found = written
    read: list[str] = []
    real = Store.read

    def noted(self: Store, path: str, offset: int = 0, length: int | None = None) -> bytes:
        read.append(path)
        return real(self, path, offset, length)

    monkeypatch.setattr(Store, "read", noted)
    method = fresh(variant, NONE)
    load_method_state(method, checkpoint.read(found.store, found.folder))
    assert not [path for path in read if path.rpartition("/")[2] not in (*FILES, "checkpoint.json")]
    for name, tensor in method.state_dict().items():
        assert (name in held_rows(method)) == (len(tensor) == 0 if tensor.ndim else False), name


def test_a_checkpoint_of_one_worker_has_no_row_files(tmp_path: Path) -> None:
    for workers in (1, 2):
        found = write(open_store(str(tmp_path / str(workers))), "cal, sharded", workers)
        description = json.loads(found.store.read(f"{found.folder}/checkpoint.json"))
        assert ("rows" in description) == (workers == 2)
        names = {path.rpartition("/")[2] for path in found.store.list()}
        own = {row_files.file_of(name, worker) for name in FILES for worker in range(workers)} if workers > 1 else set()
        assert names == {*FILES, FACTS, "checkpoint.json", *own}


def test_a_damaged_row_file_makes_the_checkpoint_before_the_newest_that_is_used(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    found = write(store, "cal, sharded", 2)
    path = tmp_path / found.folder / "model.1.safetensors"
    content = path.read_bytes()
    for damaged in (content[:-1] + bytes([content[-1] ^ 1]), content[:-1], None):
        path.unlink(missing_ok=True)
        if damaged is not None:
            path.write_bytes(damaged)
        with pytest.raises(
            CorruptCheckpointError, match=r"model\.1\.safetensors.*None of the run's 1 checkpoints is whole"
        ):
            checkpoint.latest_whole(store)
        with pytest.raises(CorruptCheckpointError, match=r"model\.1\.safetensors"):
            load_method_state(fresh("cal", None), checkpoint.read(store, found.folder))
        load_method_state(fresh("cal", Share(0, 2)), checkpoint.read(store, found.folder))  # it needs the other file


@pytest.mark.parametrize("rows", [[0, 3], [0, 3, 2], [-1, 1, 5], [0.0, 1, 5], "abc"])
def test_a_damaged_description_is_told(tmp_path: Path, rows: object) -> None:
    store = open_store(str(tmp_path))
    found = write(store, "cal, sharded", 2)
    path = tmp_path / found.folder / "checkpoint.json"
    description = json.loads(path.read_bytes())
    description["rows"]["model.0.safetensors"]["classifier.weight"] = rows
    path.write_text(json.dumps(description))
    with pytest.raises(CorruptCheckpointError, match=r"checkpoint\.json is damaged"):
        checkpoint.read(store, found.folder)


def test_rows_that_are_nowhere_are_told(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    found = write(store, "cal, sharded", 2)
    path = tmp_path / found.folder / "checkpoint.json"
    description = json.loads(path.read_bytes())
    del description["rows"]["model.1.safetensors"]
    path.write_text(json.dumps(description))
    with pytest.raises(CorruptCheckpointError, match=r"rows of classifier\.\w+ are in no file"):
        load_method_state(fresh("cal", None), checkpoint.read(store, found.folder))


def test_classes_of_other_data_do_not_fit(tmp_path: Path) -> None:
    found = write(open_store(str(tmp_path)), "cal, sharded", 2)
    described = {
        file: {name: Rows(one.first, one.count, 9) for name, one in rows.items()} for file, rows in found.rows.items()
    }
    found.rows.update(described)
    with pytest.raises(RequestError, match=r"classifier.bias is 9.*expected 5"):
        load_method_state(fresh("cal", WHOLE), found)
    with pytest.raises(CorruptCheckpointError, match="has 9 rows"):
        optimizer_states(fresh("cal", WHOLE), found)


def test_only_files_with_wanted_rows_are_read_one_after_the_other() -> None:
    whole = torch.arange(20.0).view(10, 2)
    rows = {f"model.{n}.safetensors": {"a": Rows(2 * n, 2, 10), "b": Rows(0, 1, 1)} for n in range(5)}
    read: list[str] = []

    def load(file: str) -> dict[str, Tensor]:
        read.append(file)
        first = 2 * int(file.split(".")[1])
        return {"a": whole[first : first + 2], "b": torch.zeros(1), "step": torch.tensor(first)}

    found = read_rows(rows, "model.safetensors", {"a": Rows(3, 4, 10)}, load)
    assert read == ["model.1.safetensors", "model.2.safetensors", "model.3.safetensors"]
    assert found.keys() == {"a", "step"}
    assert torch.equal(found["a"], whole[3:7])
    assert read_rows(rows, "optimizers.safetensors", {}, load) == {}


def test_rows_overlap_where_both_have_them() -> None:
    assert overlap(Rows(3, 4, 10), Rows(0, 5, 10)) == (0, 3, 2)
    assert overlap(Rows(3, 4, 10), Rows(6, 4, 10)) == (3, 0, 1)
    assert overlap(Rows(3, 4, 10), Rows(7, 3, 10)) == (0, 0, 0)


def test_what_an_earlier_attempt_announced_is_not_taken_for_the_rows_of_this_one(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    old, new = (Written({f"model.{n}.safetensors": str(n)}, {}) for n in (1, 2))
    row_files.announce(store, "folder", 1, "earlier", old)
    with pytest.raises(TimeoutError, match="worker 1 has not written its rows"):
        row_files.collect(store, "folder", 2, "now", 0.1)
    row_files.announce(store, "folder", 1, "now", new)
    assert row_files.collect(store, "folder", 2, "now", 0.1) == new
    row_files.clear_notes(store, "folder", 2)
    assert store.list() == []
