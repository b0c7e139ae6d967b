"""Groups of other sizes, one after another in mid-epoch, end with the weights of one process, and miss or repeat no step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from datasets.storage.store import Store, open_store
from methods import METHODS
from orchestration.config.load import Experiment, load
from orchestration.engine import checkpoint
from orchestration.tracking.journal import read_steps
from orchestration.training import worker
from orchestration.training.interrupt import Listener
from orchestration.training.preparation import prepare
from orchestration.training.worker import WorkerConfig
from tests.orchestration.processes import in_processes
from tests.tiny import tiny_dataset

SIZES = (3, 2, 4, 1)
EPOCHS = 3
OF_STAGES = {
    "cal": ["method.adversarial_from_epoch=1"],
    "ccaf": ["method.encoder_from_epoch=1", "method.prompt_batch=12", "weights=null"],
    "ifd": ["method.joint_from_epoch=1"],
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_dataset(tmp_path_factory.mktemp("data") / "tiny", persons=24, clothes=2, images=3)


def experiment(name: str, data: str) -> Experiment:
    width = 0.25 if name == "ccaf" else 0.0625
    words = [f"data={data}", "workers={min: 1, max: 4}", "batch={people: 12, images: 2, lanes: 12}", f"epochs={EPOCHS}"]
    words += ["augment.height=32", "augment.width=16", f"method.width={width}", "precision=float64", "seed=3"]
    return load(f"{name}-demo", [*words, "checkpoint.every_epochs=100", *OF_STAGES.get(name, [])])


class StopsAt(Listener):
    """Asks before the step of a number to stop after it."""

    step: int

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        found = checkpoint.latest(store)
        self.next = found.progress.step if found else 0

    def is_asked(self) -> bool:
        self.next += 1
        return self.next == self.step


def train_each(configs: list[WorkerConfig], stops: list[int]) -> list[dict[str, int]]:
    """What a worker of a group does for each run, and how far the group comes."""
    reached = []
    for config, step in zip(configs, stops, strict=True):
        StopsAt.step = step
        setattr(worker, Listener.__name__, StopsAt)
        found = worker.run(config, open_store(config.run), torch.device("cpu"))
        reached.append({"epoch": found.epoch, "batch": found.batch, "step": found.step})
    return reached


def state(run: str) -> dict[str, torch.Tensor]:
    found = checkpoint.find(run)
    return {
        f"{file}/{name}": t for file in checkpoint.FILES for name, t in checkpoint.load_tensors(found, file).items()
    }


def configs_at(place: Path, wanted: dict[str, Experiment]) -> list[WorkerConfig]:
    return [WorkerConfig(one.resolved(), str(place / name), prepare(one).facts) for name, one in wanted.items()]


def steps(run: str) -> list[dict[str, Any]]:
    return [record for _, record in read_steps(open_store(run))]


def losses_of(record: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in record["metrics"].items() if name.startswith("loss/")}


@pytest.mark.parametrize(
    "methods", [["cal"], pytest.param([*METHODS], marks=pytest.mark.long)], ids=["cal", "all methods"]
)
def test_three_then_two_then_four_then_one_end_with_the_weights_of_one_process(
    data: str, tmp_path: Path, methods: list[str]
) -> None:
    wanted = {name: experiment(name, data) for name in methods}
    assert {one.group_sizes() for one in wanted.values()} == {(1, 2, 3, 4)}
    alone, elastic = configs_at(tmp_path / "alone", wanted), configs_at(tmp_path / "elastic", wanted)
    [ends] = in_processes(1, train_each, alone, [0] * len(alone))
    reached: list[list[dict[str, int]]] = []
    for leg, size in enumerate(SIZES, 1):
        stops = [end["step"] * leg // len(SIZES) if leg < len(SIZES) else 0 for end in ends]
        by_rank = in_processes(size, train_each, elastic, stops)
        assert all(one == by_rank[0] for one in by_rank), "all ranks leave after the same step"
        reached.append(by_rank[0])
        assert not any(stop and found["step"] != stop for stop, found in zip(stops, by_rank[0], strict=True))
    assert reached[-1] == ends
    assert all(any(leg[at]["batch"] > 0 for leg in reached[:-1]) for at in range(len(wanted))), "in mid-epoch"
    for one, other in zip(alone, elastic, strict=True):
        expected, found = state(one.run), state(other.run)
        assert expected.keys() == found.keys()
        for key, value in expected.items():
            far = (found[key] - value).abs().max() / value.abs().max().clamp(min=1)
            assert far <= 1e-9, f"{other.run} {key}: {far:.1e}"
        whole, parts = steps(one.run), steps(other.run)
        assert [record["step"] for record in parts] == list(range(len(whole))), "none is missing, none is there twice"
        for before, now in zip(whole, parts, strict=True):
            assert (before["epoch"], before["batch"], before["stage"]) == (now["epoch"], now["batch"], now["stage"])
            assert losses_of(now) == pytest.approx(losses_of(before), rel=1e-6)


def test_each_group_is_told_apart_in_the_journal(data: str, tmp_path: Path) -> None:
    [config] = configs_at(tmp_path, {"baseline": experiment("baseline", data)})
    for size, stop in ((2, 1), (1, 2)):
        in_processes(size, train_each, [config], [stop])
    headers = [header for header, _ in read_steps(open_store(config.run))]
    assert [header["environment"]["workers"] for header in headers] == [2, 1]
