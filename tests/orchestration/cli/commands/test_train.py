"""`redress train` and `redress evaluate`: which experiment is meant, and what is shown of a training."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from datasets.storage.store import open_store
from orchestration.cli.commands.evaluate import show_evaluation
from orchestration.cli.commands.train import TRAIN, requested_experiment, show_training
from orchestration.config.load import load
from orchestration.engine import checkpoint
from orchestration.errors import RequestError
from orchestration.tracking import tracked_run
from tests.orchestration.printed_table import cells


def test_the_experiment_is_named_first_and_settings_follow_anywhere() -> None:
    options = TRAIN.parse(["cal-demo", "--init-from", "weights", "data=/given", "epochs=30"])
    experiment = requested_experiment(options)
    assert (experiment.name, experiment.epochs, experiment.data) == ("cal-demo", 30, "/given")
    assert experiment.init_from is not None
    assert experiment.init_from.endswith("weights")
    assert options.overrides == ["cal-demo", "data=/given", "epochs=30"], "options are not changed"


@pytest.mark.parametrize("args", [[], ["epochs=3"], ["--init-from", "x"]])
def test_without_an_experiment_it_says_how_to_name_one(args: list[str]) -> None:
    with pytest.raises(RequestError, match="train which experiment"):
        requested_experiment(TRAIN.parse(args))


def test_a_run_that_is_not_there_cannot_be_resumed(place: Path) -> None:
    with pytest.raises(RequestError, match=r"no run at .*nothing"):
        requested_experiment(TRAIN.parse(["--resume", str(place / "nothing")]))


def test_a_resumed_run_keeps_its_own_settings_and_the_line_overrides_them(monkeypatch: pytest.MonkeyPatch) -> None:
    began = load("cal-demo", ["data=/given", "batch.people=4", "batch.lanes=2", "method.epsilon=0.3"])
    monkeypatch.setattr(tracked_run, "open_run", lambda run: SimpleNamespace(store=run))
    monkeypatch.setattr(checkpoint, "latest", lambda store: SimpleNamespace(experiment=began.resolved()))
    for words in (["--resume", "x"], ["cal-demo", "--resume", "x"], ["cal-ltcc", "--resume", "x"]):
        assert requested_experiment(TRAIN.parse(words)) == began
        assert requested_experiment(TRAIN.parse([*words, "workers=2"])).workers == 2
    with pytest.raises(
        RequestError, match=r"began as 'cal-demo' with method 'cal', and 'baseline-demo' has 'baseline'"
    ):
        requested_experiment(TRAIN.parse(["baseline-demo", "--resume", "x"]))
    with pytest.raises(RequestError, match=r"no experiment 'cal-dem'. Did you mean cal-demo"):
        requested_experiment(TRAIN.parse(["cal-dem", "--resume", "x"]))


def test_a_run_that_was_cut_short_before_its_first_checkpoint_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = load("cal-demo", ["data=/given", "batch.people=4", "batch.lanes=2"])
    store = open_store(str(tmp_path / "run"))
    monkeypatch.setattr(tracked_run, "open_run", lambda run: SimpleNamespace(store=store))
    with pytest.raises(RequestError, match=r"run .*/run has neither a checkpoint nor artifacts/experiment\.json"):
        requested_experiment(TRAIN.parse(["--resume", "x"]))
    store.write("artifacts/experiment.json", json.dumps(began.resolved()).encode())
    assert requested_experiment(TRAIN.parse(["--resume", "x"])) == began


def test_the_run_of_a_run_file_is_continued_and_none_is_begun_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = load("cal-demo", ["data=/given", "batch.people=4", "batch.lanes=2", "method.epsilon=0.3"])
    file = tmp_path / "7.run"
    words = ["cal-demo", "data=/given", "--run-file", str(file)]
    fresh = requested_experiment(TRAIN.parse(words))
    assert fresh == load("cal-demo", ["data=/given"])
    asked: list[str] = []

    def open_run(run: str) -> SimpleNamespace:
        asked.append(run)
        return SimpleNamespace(store=run)

    monkeypatch.setattr(tracked_run, "open_run", open_run)
    monkeypatch.setattr(checkpoint, "latest", lambda store: SimpleNamespace(experiment=began.resolved()))
    file.write_text("/runs/first\n")
    assert requested_experiment(TRAIN.parse(words)) == began
    assert asked == ["/runs/first"]
    with pytest.raises(RequestError, match="both name a run"):
        requested_experiment(TRAIN.parse([*words, "--resume", "x"]))


def test_a_new_run_is_named_in_its_run_file_before_it_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from orchestration.training import train as module

    file, seen = tmp_path / "7.run", []

    def train(experiment: object, *, resume: str | None, on_run: Callable[[str], None], **_: object) -> dict[str, str]:
        seen.append(resume)
        on_run("/runs/first")
        return {}

    monkeypatch.setattr(module, "train", train)
    monkeypatch.setattr(tracked_run, "open_run", lambda run: SimpleNamespace(store=run))
    began = load("cal-demo", ["data=/given"]).resolved()
    monkeypatch.setattr(checkpoint, "latest", lambda store: SimpleNamespace(experiment=began))
    words = ["cal-demo", "data=/given", "--run-file", str(file)]
    for _ in range(2):
        TRAIN.call(TRAIN.parse(words))
    assert seen == [None, "/runs/first"]
    assert file.read_text() == "/runs/first\n"


def test_a_training_shows_metrics_and_where_everything_is(capsys: pytest.CaptureFixture[str]) -> None:
    answer = {"metrics": {"general/mAP": 0.25}, "run_id": "r", "run": "runs/r", "model": None, "pictures": ["a", "b"]}
    show_training(answer)
    shown = capsys.readouterr().out
    assert shown.startswith("evaluation, %")
    assert cells(shown) == [["mode", "mAP"], ["general", "25.0"]]
    assert shown.endswith("run       r\nstorage   runs/r\npictures  a\n          b\n")


def test_an_evaluation_names_model_and_data(capsys: pytest.CaptureFixture[str]) -> None:
    show_evaluation(
        {"model": "models:/m/1", "data": "d", "metrics": {"general/rank-1": 1.0}, "checkpoint": "c", "pictures": ["p"]}
    )
    shown = capsys.readouterr().out
    assert shown.startswith("models:/m/1 on d, %")
    assert cells(shown) == [["mode", "rank-1"], ["general", "100.0"]]
    assert shown.endswith("checkpoint  c\npictures    p\n")
