"""The best checkpoint is the one that scoring all of them at the end would choose, whatever interrupts the run."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from datasets.conversion.holdout import holdout
from datasets.storage.store import Store, open_store
from orchestration.config import build
from orchestration.config.load import Experiment, load
from orchestration.engine import checkpoint
from orchestration.engine.checkpoint import Score
from orchestration.engine.loop import StepReport
from orchestration.errors import RequestError
from orchestration.evaluation.evaluate import evaluate
from orchestration.progress import Progress
from orchestration.tracking.segments import SegmentReader
from orchestration.training import worker
from orchestration.training.preparation import check_same_experiment
from orchestration.training.recorder import Recorder
from orchestration.training.selection import check_candidates, choose_checkpoint, measured_by
from orchestration.training.validation import FOLDER
from orchestration.training.worker import Training, WorkerConfig
from tests.orchestration.processes import in_processes
from tests.tiny import tiny_dataset

EPOCHS = 4
METRIC = "general/mAP"
SELECT = f"select=best:val_query/{METRIC}"


@dataclass(frozen=True)
class Runs:
    """Trainings on 9 people, with 3 more as validation set, in this process."""

    data: str
    place: Path

    def experiment(self, *words: str) -> Experiment:
        return load("baseline-demo", [
            f"data={self.data}", f"epochs={EPOCHS}", "seed=2", "workers=1", "batch={people: 4, images: 4, lanes: 2}",
            "augment.height=32", "augment.width=16", "method.width=0.125",
            "optimizers.model={name: adam, lr: 0.003, schedule: null}", *words,
        ])  # fmt: skip

    def config(self, run: str, *words: str) -> WorkerConfig:
        experiment = self.experiment(*words)
        dataset = build.open_data(experiment)
        facts = build.describe_data(dataset, dataset.index("train"))
        return WorkerConfig(experiment.resolved(), str(self.place / run), facts)

    def train(self, run: str, *words: str) -> Store:
        config = self.config(run, *words)
        worker.run(config, open_store(config.run), torch.device("cpu"))
        return open_store(config.run)

    def choose(self, store: Store, *words: str) -> checkpoint.Checkpoint:
        found = choose_checkpoint(self.experiment(*words), store, Progress())
        assert found is not None
        return found


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    place = tmp_path_factory.mktemp("selection")
    tiny_dataset(place / "data", persons=12, clothes=2, images=4, test_persons=4)
    holdout(str(place / "data"), str(place / "held"), persons=3)
    return Runs(str(place / "held"), place)


@pytest.fixture(scope="module")
def every(runs: Runs) -> Store:
    """A run that keeps the checkpoints of all its epochs and scores none."""
    return runs.train("every", "checkpoint.keep=null")


@pytest.fixture(scope="module")
def kept(runs: Runs) -> Store:
    """A run that keeps its best and its newest checkpoint."""
    return runs.train("kept", SELECT)


@pytest.fixture(scope="module")
def expected(runs: Runs, every: Store) -> dict[str, float]:
    """Folder of each checkpoint of that run → its score by an evaluation of its own."""
    return {folder: evaluated(runs, every, folder) for folder in checkpoint.complete_folders(every)}


def evaluated(runs: Runs, store: Store, folder: str, validation: bool = True) -> float:
    scratch = str(runs.place / "scratch" / f"{validation}-{store.address.rpartition('/')[2]}-{folder[-8:]}")
    result = evaluate(store.join(folder), runs.experiment(), scratch, validation=validation, details=False)
    return result.metrics[METRIC]


def first_of_the_best(scores: dict[str, float]) -> str:
    return next(folder for folder, value in scores.items() if value == max(scores.values()))


def digests(store: Store, folder: str) -> dict[str, str]:
    return checkpoint.read(store, folder).digests


def recorded(store: Store) -> list[tuple[int, float]]:
    """(epoch, score) of every record of validation."""
    return [(r["epoch"], r["metrics"][METRIC]) for _, r in SegmentReader(store, f"{FOLDER}/scores").read_new()]


def test_the_numbers_of_this_file_tell_the_best_from_the_newest_and_the_oldest(expected: dict[str, float]) -> None:
    assert len(expected) == EPOCHS
    assert [*expected].index(first_of_the_best(expected)) not in (0, EPOCHS - 1)


def test_the_best_and_the_newest_are_kept_and_scored_as_an_evaluation_scores_them(
    runs: Runs, every: Store, kept: Store, expected: dict[str, float]
) -> None:
    store = kept
    best, newest = first_of_the_best(expected), [*expected][-1]
    assert checkpoint.complete_folders(store) == [best, newest]
    for folder in (best, newest):
        assert digests(store, folder) == digests(every, folder), "scoring leaves training as it is"
        assert checkpoint.read(store, folder).score == Score(expected[folder], measured_by(runs.experiment(SELECT)))
    assert recorded(store) == list(enumerate(expected.values(), 1))
    assert runs.choose(store, SELECT).folder == best
    assert checkpoint.find(store.address).folder == best
    assert store.list("selection") == [], "nothing is scored at the end"


def test_every_second_epoch(runs: Runs, expected: dict[str, float]) -> None:
    words = (SELECT, "epochs=3", "checkpoint.every_epochs=2")
    store = runs.train("second", *words)
    scored = {folder: value for epoch, (folder, value) in enumerate(expected.items(), 1) if epoch in (2, 3)}
    assert [value for _, value in recorded(store)] == [*scored.values()]
    assert runs.choose(store, *words).folder == first_of_the_best(scored)


def test_the_test_set_is_used_where_the_experiment_says_so(runs: Runs, every: Store) -> None:
    words = (f"select=best:query/{METRIC}", "select_on_test=true", "checkpoint.keep=null")
    store = runs.train("on-test", *words)
    for folder in checkpoint.complete_folders(store):
        score = checkpoint.read(store, folder).score
        assert score == Score(evaluated(runs, every, folder, validation=False), measured_by(runs.experiment(*words)))


class Killed(Exception):  # noqa: N818
    """Stands for the end of a process: nothing of a worker catches it."""


@pytest.mark.parametrize(("epoch", "written"), [(1, False), (3, True), (EPOCHS, False)])
def test_a_score_that_a_kill_prevented_is_made_up_for(
    runs: Runs, expected: dict[str, float], monkeypatch: pytest.MonkeyPatch, epoch: int, written: bool
) -> None:
    """Killed after the checkpoint of an epoch, before its validation or before its score is in the checkpoint."""
    name = f"killed-{epoch}-{written}"
    with monkeypatch.context() as patch:
        validate = Training.validate

        def killed(self: Training, at: int, **options: Any) -> dict[str, float]:
            if at != epoch:
                return validate(self, at, **options)
            if written:
                validate(self, at, **options)
            raise Killed

        patch.setattr(Training, "validate", killed)
        with pytest.raises(Killed):
            runs.train(name, SELECT)
    store = runs.train(name, SELECT)
    assert runs.choose(store, SELECT).folder == first_of_the_best(expected)
    assert sorted({*recorded(store)}) == list(enumerate(expected.values(), 1))
    assert checkpoint.complete_folders(store) == [first_of_the_best(expected), [*expected][-1]]


@pytest.mark.parametrize("step", [5, 12])
def test_a_run_killed_in_mid_epoch_has_the_same_scores_and_bits(
    runs: Runs, every: Store, expected: dict[str, float], monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    name, words = f"mid-{step}", (SELECT, "checkpoint.every_batches=1")
    on_step = Recorder.on_step

    def killed(self: Recorder, report: StepReport) -> None:
        on_step(self, report)
        if report.step == step:
            assert self.journal
            self.journal.flush()
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "on_step", killed)
        with pytest.raises(Killed):
            runs.train(name, *words)
    store = runs.train(name, *words)
    assert recorded(store) == list(enumerate(expected.values(), 1)), "no epoch is scored twice"
    best, newest = first_of_the_best(expected), [*expected][-1]
    assert runs.choose(store, *words).folder == best
    assert [digests(store, folder) for folder in (best, newest)] == [digests(every, best), digests(every, newest)]


def test_a_finished_run_is_not_scored_again(runs: Runs, kept: Store, expected: dict[str, float]) -> None:
    runs.train("kept", SELECT)
    assert recorded(kept) == list(enumerate(expected.values(), 1))


def test_a_run_falls_back_to_the_best_where_the_newest_is_damaged(
    runs: Runs, every: Store, kept: Store, expected: dict[str, float]
) -> None:
    shutil.copytree(runs.place / "kept", runs.place / "damaged")
    store = open_store(str(runs.place / "damaged"))
    best, newest = first_of_the_best(expected), [*expected][-1]
    file = runs.place / "damaged" / newest / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-3])
    runs.train("damaged", SELECT)
    assert checkpoint.complete_folders(store) == [best, newest]
    assert digests(store, newest) == digests(every, newest)
    assert runs.choose(store, SELECT).folder == best


@pytest.mark.parametrize("workers", [2])
def test_workers_choose_as_an_evaluation_of_their_checkpoints_does(runs: Runs, workers: int) -> None:
    words = (SELECT, f"workers={workers}", "checkpoint.keep=null")
    config = runs.config(f"workers-{workers}", *words)
    in_processes(workers, run_worker, config)
    store = open_store(config.run)
    scores = {folder: evaluated(runs, store, folder) for folder in checkpoint.complete_folders(store)}
    assert len(scores) == EPOCHS
    assert {f: s.value for f in scores if (s := checkpoint.read(store, f).score)} == scores
    assert runs.choose(store, *words).folder == first_of_the_best(scores)
    assert [value for _, value in recorded(store)] == [*scores.values()]


def run_worker(config: WorkerConfig) -> None:
    worker.run(config, open_store(config.run), torch.device("cpu"))


def test_of_equal_scores_the_oldest_is_chosen(runs: Runs, every: Store) -> None:
    by = measured_by(runs.experiment(SELECT))
    values = [0.1, 0.7, 0.7, 0.2]
    copy = copied(every, runs.place / "equal")
    for folder, value in zip(checkpoint.complete_folders(copy), values, strict=True):
        checkpoint.record_score(copy, folder, Score(value, by))
    assert runs.choose(copy, SELECT).folder == checkpoint.complete_folders(copy)[1]


def test_checkpoints_without_a_score_are_scored_at_the_end(
    runs: Runs, every: Store, expected: dict[str, float]
) -> None:
    """As those of 0.1.0 are, and those of a run that began with another `select`."""
    copy = copied(every, runs.place / "unscored")
    checkpoint.record_score(copy, [*expected][-1], Score(2.0, {"select": "best:val_query/other/mAP"}))
    assert runs.choose(copy, SELECT).folder == first_of_the_best(expected)
    assert [checkpoint.read(copy, folder).score for folder in expected] == [
        Score(value, measured_by(runs.experiment(SELECT))) for value in expected.values()
    ]


def copied(store: Store, to: Path) -> Store:
    copy = open_store(str(to))
    for path in store.list("checkpoints"):
        copy.write(path, store.read(path))
    return copy


def test_a_resumed_run_keeps_its_candidates(runs: Runs, every: Store, kept: Store) -> None:
    check_same_experiment(runs.experiment(SELECT), kept)
    check_same_experiment(runs.experiment(SELECT, "evaluate.batch=7"), kept)
    check_same_experiment(runs.experiment(), kept)
    gone = r"others are gone \({}\). Resume it with these settings, or with select=last"
    with pytest.raises(RequestError, match=gone.format("select: began with .*mAP, now .*rank-1")):
        check_candidates(runs.experiment("select=best:val_query/general/rank-1"), kept)
    with pytest.raises(RequestError, match=gone.format("flip: began with True, now False")):
        check_candidates(runs.experiment(SELECT, "evaluate.flip=false"), kept)
    with pytest.raises(RequestError, match=rf"{EPOCHS - 1} checkpoints of run .* have no score.*checkpoint.keep=null"):
        check_candidates(runs.experiment(SELECT), every)
    check_candidates(runs.experiment(SELECT, "checkpoint.keep=null"), every)


def test_a_damaged_description_does_not_stop_a_resumed_run(runs: Runs, every: Store) -> None:
    copy = copied(every, runs.place / "described")
    newest = checkpoint.complete_folders(copy)[-1]
    copy.write(f"{newest}/checkpoint.json", json.dumps([]).encode())
    check_candidates(runs.experiment(SELECT, "checkpoint.keep=null"), copy)
