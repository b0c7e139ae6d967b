"""From words to a registered model: train, evaluate, runs and registry as a researcher types them, on a real Ray."""

from __future__ import annotations

import json
import os
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from orchestration.cli.main import main
from orchestration.registry import register
from orchestration.registry.locate import locate
from orchestration.registry.models import show_model
from tests.tiny import tiny_dataset

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

SMALL = [
    "epochs=1", "workers=2", "resources.cpus=0.5", "batch={people: 4, images: 2, lanes: 2}", "augment.height=32",
    "augment.width=16", "method.width=0.125", "optimizers.model.schedule=null",
]  # fmt: skip
MODES = ("general", "same-clothes", "clothes-changing")


def ask(*words: str, result: Path) -> dict[str, Any]:
    """The answer of a command that works."""
    assert main([*words, "--result", str(result)]) == 0
    return dict(json.loads(result.read_text()))


@pytest.fixture(scope="module")
def trained(place: Path, ray_cluster: str) -> dict[str, Any]:
    data = tiny_dataset(place / "data", persons=8)
    words = ["train", "baseline-demo", f"data={data}", f"storage={place / 'runs'}", "experiment=commands", *SMALL]
    return ask(*words, "register=of-commands", result=place / "train.json")


def test_training_tells_run_model_and_metrics(trained: dict[str, Any]) -> None:
    assert trained["command"] == "train"
    assert len(trained["run_id"]) == 32
    assert trained["model"] == "models:/of-commands/1"
    for mode in MODES:
        assert 0 <= trained["metrics"][f"{mode}/rank-1"] <= 1
    assert all(Path(picture).is_file() for picture in trained["pictures"])


def test_a_model_has_several_names(trained: dict[str, Any]) -> None:
    for name in ("run_id", "run", "checkpoint", "model"):
        located = locate(trained[name])
        assert located.checkpoint.address == trained["checkpoint"]
        assert located.run == trained["run"]
        assert located.run_id == trained["run_id"]


def test_evaluating_again_gives_the_same_metrics(
    trained: dict[str, Any], place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    told = ask("evaluate", trained["model"], "evaluate.batch=16", result=place / "evaluate.json")
    assert told["run_id"] == trained["run_id"]
    assert told["metrics"] == pytest.approx(trained["metrics"], abs=1e-6)
    shown = capfd.readouterr().out
    assert "clothes-changing" in shown
    assert f"{100 * trained['metrics']['general/mAP']:.1f}" in shown
    assert f"delta {trained['metrics']['distance/delta']:.3f}" in shown


def test_pictures_of_training_and_of_a_later_evaluation_are_in_mlflow(trained: dict[str, Any], place: Path) -> None:
    told = ask("evaluate", trained["run_id"], "evaluate.batch=16", result=place / "evaluate.json")
    shown = ask("runs", "show", trained["run_id"], result=place / "runs.json")
    names = ("cmc", "distances", "hard-triples", "t-sne")
    assert {f"pictures/{name}.png" for name in names} <= set(shown["files"])
    assert shown["state"] == "FINISHED"
    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    for picture in map(Path, told["pictures"]):
        name = f"pictures/evaluations/{picture.parent.name}/{picture.name}"
        there = client.download_artifacts(trained["run_id"], name, str(place))
        assert Path(there).read_bytes() == picture.read_bytes()
    assert any(picture.endswith("hard-triples.png") for picture in told["pictures"])


def test_other_data_have_an_evaluation_of_their_own(
    trained: dict[str, Any], place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    other = tiny_dataset(place / "other", persons=4, splits="prcc", seed=5)
    words = trained["run_id"], f"data={other}", "evaluate.rerank.k1=3"
    told = ask("evaluate", *words, result=place / "evaluate.json")
    shown = capfd.readouterr().out
    for mode, kind, way in product(("same-clothes", "clothes-changing"), ("", "-single-shot"), ("", "-reranked")):
        assert f"{mode}{kind}{way}/mAP" in told["metrics"]
        assert f"{mode}{kind}{way} " in shown
    assert "general/mAP" not in told["metrics"]


def test_runs_are_listed_and_shown(trained: dict[str, Any], place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    listed = ask("runs", "list", "--experiment", "commands", result=place / "runs.json")["runs"]
    assert [run["run_id"] for run in listed] == [trained["run_id"]]
    shown = ask("runs", "show", trained["run_id"], result=place / "runs.json")
    assert shown["status"] == 0
    assert shown["state"] == "FINISHED"
    assert shown["metrics"] == pytest.approx(trained["metrics"])
    assert shown["settings"]["batch.people"] == "4"
    assert ask("runs", "sync", trained["run_id"], result=place / "runs.json")["waiting"] == 0
    assert "FINISHED" in capfd.readouterr().out


def test_a_run_is_registered_listed_and_shown(
    trained: dict[str, Any], place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    made = ask("registry", "register", trained["run"], "of-commands", result=place / "registry.json")
    assert made["model"] == "models:/of-commands/1", "training registered these weights already"
    listed = ask("registry", "list", result=place / "registry.json")["models"]
    aliases = {
        model["model"]: model["aliases"] for model in listed if model["model"].startswith("models:/of-commands/")
    }
    assert aliases == {"models:/of-commands/1": ["candidate"]}
    shown = ask("registry", "show", "models:/of-commands@candidate", result=place / "registry.json")
    assert shown["run_id"] == trained["run_id"]
    assert shown["metrics"] == pytest.approx(trained["metrics"], abs=1e-5)
    assert shown["card"] in capfd.readouterr().out


def test_a_run_preferred_for_its_test_results_is_registered_as_chosen_on_test(trained: dict[str, Any]) -> None:
    made = [trained["checkpoint"], "of-tests", trained["run_id"], trained["metrics"]]
    told = [show_model(uri) for uri in (trained["model"], register.register_checkpoint(*made, chosen_on_test=True))]
    assert [version["tags"]["select_on_test"] for version in told] == ["false", "true"]
    assert ["selected on the test set" in version["card"] for version in told] == [False, True]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["runs", "show", "0" * 32], "has no run 000"),
        (["runs", "list", "--experiment", "nobody's"], "no MLflow experiment"),
        (["registry", "show", "models:/nobody/1"], "Expected models:/NAME/VERSION"),
        (["evaluate", "models:/nobody@champion"], "Expected models:/NAME/VERSION"),
    ],
)
def test_what_is_not_there_is_a_wrong_request(
    words: list[str], told: str, place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert told in capfd.readouterr().err


def test_evaluation_with_a_mistake_ends_before_work(trained: dict[str, Any], capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", trained["run_id"], "evaluate.bach=3"]) == 2
    assert "Did you mean batch?" in capfd.readouterr().err


def test_resuming_with_other_settings_is_a_wrong_request(
    trained: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--resume", trained["run_id"], "seed=77"]) == 2
    assert "seed" in capfd.readouterr().err
