"""A damaged description of a checkpoint is named, whoever reads it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestration.config.load import Experiment, load
from orchestration.config.stored import experiment_of, facts_of, trained_model
from orchestration.engine import checkpoint
from orchestration.errors import RequestError
from orchestration.evaluation.score import score
from orchestration.training.preparation import check_initial_weights, prepare
from tests.orchestration.checkpoints import checkpoint_of
from tests.tiny import tiny_dataset


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    data = tiny_dataset(tmp_path / "data")
    small = ["method.width=0.0625", "workers=1", "batch={people: 4, images: 2, lanes: 2}"]
    return load("baseline-demo", [f"data={data}", f"storage={tmp_path}", *small])


@pytest.fixture
def place(experiment: Experiment, tmp_path: Path) -> Path:
    """The folder of a checkpoint."""
    return Path(checkpoint_of(experiment, str(tmp_path / "run"), seed=1))


def change(place: Path, **changes: Any) -> None:
    file = place / checkpoint.DESCRIPTION
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_a_checkpoint_gives_its_experiment_and_its_model(experiment: Experiment, place: Path) -> None:
    found = checkpoint.find(str(place))
    assert experiment_of(found) == experiment
    assert experiment_of(found, ["evaluate.batch=3"]).evaluate.batch == 3
    assert facts_of(found)["num_persons"] == 6
    of_the_run, method = trained_model(found)
    assert of_the_run == experiment
    tensors = checkpoint.load_tensors(found, checkpoint.FILES[0])
    assert all((tensors[name] == value).all() for name, value in method.state_dict().items())


def test_a_checkpoint_from_before_images_were_counted_gives_its_model(experiment: Experiment, place: Path) -> None:
    told = json.loads((place / checkpoint.DESCRIPTION).read_text())["facts"]
    assert told.pop("num_images") == 6 * 2 * 4
    change(place, facts=told)
    _, method = trained_model(checkpoint.find(str(place)))
    assert method.state_dict()["classifier.weight"].shape[0] == 6


def test_a_checkpoint_keeps_the_table_of_classes_beside_its_description(experiment: Experiment, place: Path) -> None:
    description = json.loads((place / checkpoint.DESCRIPTION).read_text())
    assert description["format"] == 2
    assert description["facts"]["num_clothes"] == 12
    assert "clothes_owner" not in description["facts"]
    assert facts_of(checkpoint.find(str(place)))["clothes_owner"].tolist() == [n // 2 for n in range(12)]


def test_a_checkpoint_of_the_first_format_gives_its_model(experiment: Experiment, place: Path) -> None:
    description = json.loads((place / checkpoint.DESCRIPTION).read_text())
    del description["digests"][checkpoint.FACTS], description["facts"]["num_clothes"]
    facts = description["facts"] | {"clothes_owner": [n // 2 for n in range(12)]}
    (place / checkpoint.DESCRIPTION).write_text(json.dumps(description | {"format": 1, "facts": facts}))
    (place / checkpoint.FACTS).unlink()
    _, method = trained_model(checkpoint.find(str(place)))
    assert method.state_dict()["classifier.weight"].shape[0] == 6
    assert check_initial_weights(prepare(experiment), str(place)) == (str(place), [])


@pytest.mark.parametrize("damage", ["missing", "altered"])
def test_a_damaged_table_is_named(damage: str, place: Path) -> None:
    file = place / checkpoint.FACTS
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-1] + b"\x07")
    with pytest.raises(checkpoint.CorruptCheckpointError, match=rf"^{file}"):
        trained_model(checkpoint.find(str(place)))


DAMAGE: list[Callable[[dict[str, Any]], dict[str, Any]]] = [
    lambda tree: {},
    lambda tree: tree | {"method": 3},
    lambda tree: tree | {"method": [1]},
    lambda tree: tree | {"method": {"name": "baseline", "body": []}},
    lambda tree: tree | {"epochs": "many"},
    lambda tree: tree | {"frobnicate": 1},
]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_experiment_is_named(
    damage: Callable[[dict[str, Any]], dict[str, Any]], experiment: Experiment, place: Path
) -> None:
    change(place, experiment=damage(experiment.resolved()))
    for read in (lambda: trained_model(checkpoint.find(str(place))), lambda: score(str(place))):
        with pytest.raises(
            RequestError, match=rf"^{place}/checkpoint\.json: .*another version of redress, or is damaged"
        ):
            read()


@pytest.mark.parametrize("facts", [{}, {"num_persons": 3}, {"num_persons": 0, "clothes_owner": [], "label_map": None}])
def test_damaged_facts_are_named(facts: dict[str, Any], experiment: Experiment, place: Path) -> None:
    change(place, facts=facts)
    told = rf"{place}/checkpoint\.json is damaged: its facts do not describe training data"
    with pytest.raises(RequestError, match=told):
        trained_model(checkpoint.find(str(place)))
    with pytest.raises(RequestError, match=f"init_from = .*{told}"):
        check_initial_weights(prepare(experiment), str(place))
