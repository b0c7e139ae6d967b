"""A run whose classes are divided: the same training as with whole classifiers, on 2, then 3, then 1 workers.

Each number of workers is one start of processes, and goes on with the run that the one before has left in mid-epoch.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from datasets.storage.store import open_store
from methods.distributed import rank, world_size
from methods.sharded.share import held_rows
from orchestration.config import build
from orchestration.config.load import Experiment, load
from orchestration.config.stored import trained_model
from orchestration.engine import checkpoint
from orchestration.engine.checkpoint import FILES, Checkpoint, load_tensors
from orchestration.engine.loop import NonFiniteLossError
from orchestration.errors import RequestError
from orchestration.tracking.journal import read_steps
from orchestration.training import preparation, worker
from orchestration.training.worker import Training, WorkerConfig
from tests.orchestration.processes import in_processes
from tests.orchestration.training.killed import Killed, killed_after
from tests.tiny import tiny_dataset

PERSONS, CLOTHES = 12, 24
DIVIDED = {"classifier.weight": PERSONS, "classifier.bias": PERSONS, "clothes_classifier.weight": CLOTHES}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_dataset(tmp_path_factory.mktemp("sharded") / "data", persons=PERSONS, clothes=2, images=4)


def experiment(data: str, workers: int = 1, strategy: str = "data-parallel", *words: str) -> Experiment:
    return load("cal-demo", [
        f"data={data}", "epochs=1", "seed=2", f"workers={workers}", "batch={people: 6, images: 2, lanes: 6}",
        "augment.height=32", "augment.width=16", "method.width=0.125", "method.adversarial_from_epoch=0",
        "precision=float64", "checkpoint={every_batches: 1, keep: 2}", f"strategy.name={strategy}", *words,
    ])  # fmt: skip


def config(
    data: str, run: Path, workers: int = 1, strategy: str = "data-parallel", sharded: bool = True
) -> WorkerConfig:
    wanted = experiment(data, workers, strategy, f"method.shard_classes={str(sharded).lower()}")
    dataset = build.open_data(wanted)
    return WorkerConfig(wanted.resolved(), str(run), build.describe_data(dataset, dataset.index("train")))


def sizes(training: Training) -> dict[str, int]:
    """Numbers that this worker holds of classifiers and their optimizers' states, and of everything else."""
    held, found = held_rows(training.method), {"classes": 0, "others": 0}
    for name, pairs in training.method.parameters_of().items():
        for parameter_name, parameter in pairs:
            states = training.optimization.optimizers[name].state.get(parameter, {})
            numbers = [parameter, *(value for value in states.values() if value.ndim)]
            found["classes" if parameter_name in held else "others"] += sum(tensor.numel() for tensor in numbers)
    return found


def leg(data: str, run: Path, strategy: str, reports: int) -> dict[str, int]:
    """Go on with a run until so many reports of progress, in a worker; what it holds then."""
    wanted = config(data, run, world_size(), strategy)
    with closing(Training(wanted, open_store(wanted.run), torch.device("cpu"))) as training, killed_after(reports):
        with pytest.raises(Killed):
            training.advance(1)
        return sizes(training)


def legs(data: str, run: Path, poisoned: Path, strategy: str, reports: int) -> dict[str, Any]:
    return {"sizes": leg(data, run, strategy, reports), "poisoned": poisoned_step(data, poisoned, strategy)}


def poisoned_step(data: str, run: Path, strategy: str) -> dict[str, bool]:
    """A step in which one worker's rows, and nothing else, have a gradient that is not finite: which tensors are as before."""
    wanted = config(data, run, world_size(), strategy)
    with closing(Training(wanted, open_store(wanted.run), torch.device("cpu"))) as training:
        if rank() == world_size() - 1:
            classifier = training.method.get_parameter("classifier.weight")
            classifier.register_hook(lambda gradient: gradient * torch.nan)
        before = {name: tensor.clone() for name, tensor in local(training).items()}
        with pytest.raises(NonFiniteLossError, match="gradient's norm nan"):
            training.advance(1)
        return {name: torch.equal(tensor, before[name]) for name, tensor in local(training).items()}


def local(training: Training) -> dict[str, Tensor]:
    """This worker's part of the state."""
    found = training.method.state_dict()
    return {n: t.to_local() if hasattr(t, "to_local") else t for n, t in found.items()}


@pytest.fixture(scope="module")
def whole(data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one worker with whole classifiers."""
    run = tmp_path_factory.mktemp("whole")
    wanted = config(data, run, sharded=False)
    worker.run(wanted, open_store(wanted.run), torch.device("cpu"))
    return run


@pytest.fixture(scope="module")
def chain(
    data: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[int, list[dict[str, Any]]], Checkpoint]:
    """A run on 2, 3 and 1 workers; what the workers found, and its checkpoint of 3 workers."""
    place = tmp_path_factory.mktemp("chain")
    run, found = place / "run", {}
    for workers, strategy, reports in ((2, "data-parallel", 1), (3, "fsdp", 2)):
        found[workers] = in_processes(workers, legs, data, run, place / f"poisoned {workers}", strategy, reports)
    of_three = checkpoint.latest_whole(open_store(str(run)))
    assert of_three is not None
    evaluated(of_three)
    wanted = config(data, run)
    worker.run(wanted, open_store(wanted.run), torch.device("cpu"))
    return run, found, of_three


def evaluated(found: Checkpoint) -> None:
    """Before the run goes on and drops it: a model without classes, from a checkpoint of several workers."""
    _, method = trained_model(found)
    assert {name: len(method.get_parameter(name)) for name in DIVIDED} == dict.fromkeys(DIVIDED, 0)
    weights = load_tensors(found, FILES[0])
    assert not DIVIDED.keys() & weights.keys()
    for name, tensor in method.state_dict().items():
        assert name in DIVIDED or torch.equal(tensor, weights[name])
    assert method.eval().embed(torch.zeros(2, 3, 32, 16, dtype=torch.float64)).shape[0] == 2


def newest(run: Path) -> Checkpoint:
    found = checkpoint.latest_whole(open_store(str(run)))
    assert found is not None
    return found


def test_two_three_and_one_workers_train_what_one_trains_with_whole_classifiers(
    whole: Path, chain: tuple[Path, Any, Checkpoint]
) -> None:
    run, _, _ = chain
    expected, found = newest(whole), newest(run)
    assert found.progress == expected.progress
    for file in FILES:
        ours, theirs = load_tensors(found, file), load_tensors(expected, file)
        assert ours.keys() == theirs.keys()
        for name, tensor in theirs.items():
            scale = max(1.0, float(tensor.double().abs().max()))
            assert float((ours[name].double() - tensor.double()).abs().max()) <= 1e-9 * scale, name


def test_losses_norms_and_accuracies_are_those_of_whole_classifiers(
    whole: Path, chain: tuple[Path, Any, Checkpoint]
) -> None:
    run, _, _ = chain
    ours, theirs = (
        {record["step"]: record for _, record in read_steps(open_store(str(place)))} for place in (run, whole)
    )
    assert ours.keys() == theirs.keys()
    for step, record in theirs.items():
        for name, value in record["metrics"].items():
            if not name.startswith("speed/"):
                assert ours[step]["metrics"][name] == pytest.approx(value, rel=1e-9, abs=1e-12), (step, name)


def test_classifiers_and_their_optimizers_take_a_share_of_memory(chain: tuple[Path, Any, Checkpoint]) -> None:
    _, found, of_three = chain
    width = load_tensors(of_three, FILES[0])["encoder.neck.weight"].numel()
    for workers, results in found.items():
        held = [one["sizes"]["classes"] for one in results]
        states = 3 * ((width + 1) * PERSONS + width * CLOTHES)  # with Adam's two moments
        assert sum(held) == states
        assert max(held) == states / workers, "12 and 24 classes are divided equally"


def test_each_worker_wrote_its_rows_and_none_wrote_all(chain: tuple[Path, Any, Checkpoint]) -> None:
    _, _, of_three = chain
    model = {file: rows for file, rows in of_three.rows.items() if file.startswith("model.")}
    assert [sorted(rows) for rows in model.values()] == [sorted(DIVIDED)] * 3
    for name, total in DIVIDED.items():
        assert [(rows[name].first, rows[name].count) for _, rows in sorted(model.items())] == [
            (worker * total // 3, total // 3) for worker in range(3)
        ]


def test_a_gradient_of_one_workers_rows_that_is_not_finite_stops_all_workers_and_leaves_nothing(
    chain: tuple[Path, Any, Checkpoint],
) -> None:
    _, found, _ = chain
    for results in found.values():
        for one in results:
            assert all(one["poisoned"].values())


def test_zero_and_too_many_workers_are_refused_before_a_worker_starts(data: str) -> None:
    words = ("method.shard_classes=true",)
    with pytest.raises(RequestError, match=r"(?s)method.shard_classes.*zero.*Set strategy.name=fsdp or data-parallel"):
        experiment(data, 2, "zero", "precision=float32", *words)
    more = experiment(data, 16, "data-parallel", "batch={people: 16, images: 2, lanes: 16}", *words)
    with pytest.raises(RequestError, match=r"needs 16 identities; split 'train' has 12"):
        preparation.prepare(more)
    with pytest.raises(RequestError, match=r"(?s)partial_classes.*set shard_classes to true"):
        experiment(data, 2, "data-parallel", "method.partial_classes=0.5")
