"""Runs of an older version, whose stored experiments lack the settings that were added since."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from datasets.storage.store import Store, open_store
from orchestration.config.load import Experiment, load
from orchestration.config.settings import completed
from orchestration.errors import RequestError
from orchestration.review.models import ReviewedModel
from orchestration.review.review import changes
from orchestration.training.preparation import check_same_experiment
from tests.orchestration.checkpoints import checkpoint_of
from tests.tiny import tiny_dataset

ADDED = ("identity_loss", "identity_scale", "identity_margin", "pair_loss", "pair_scale")  # in 0.2.0
SMALL = ["method.backbone=resnet18", "method.width=0.0625", "workers=1", "batch={people: 4, images: 2, lanes: 1}"]


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    return load("cal-demo", [f"data={tiny_dataset(tmp_path / 'data')}", f"storage={tmp_path}", *SMALL])


@pytest.fixture
def stored(experiment: Experiment) -> dict[str, Any]:
    """The experiment as 0.1.0 resolved it."""
    tree = experiment.resolved()
    for key in ADDED:
        del tree["method"][key]
    return tree


@pytest.fixture
def run(experiment: Experiment, stored: dict[str, Any], tmp_path: Path) -> Store:
    """A run with a checkpoint that carries that experiment."""
    address = checkpoint_of(experiment, str(tmp_path / "run"), seed=1)
    file = Path(address.removeprefix("file://"), "checkpoint.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"experiment": stored}))
    return open_store(str(tmp_path / "run"))


def test_it_resumes_under_the_same_settings(experiment: Experiment, run: Store) -> None:
    check_same_experiment(experiment, run)


def test_it_does_not_resume_under_an_added_setting_with_another_value(experiment: Experiment, run: Store) -> None:
    other = load(
        "cal-demo", [f"data={experiment.data}", f"storage={experiment.storage}", *SMALL, "method.pair_scale=8"]
    )
    with pytest.raises(RequestError, match=r"method\.pair_scale: began with 16\.0, now 8\.0"):
        check_same_experiment(other, run)


def test_a_stored_experiment_gets_the_defaults_of_what_was_added(
    experiment: Experiment, stored: dict[str, Any]
) -> None:
    assert completed(stored) == experiment.resolved()


@pytest.mark.parametrize("body", ["global", "mgn", "pcb"])
def test_the_former_default_of_pcbs_descriptor_is_kept_by_pcb_alone(body: str, tmp_path: Path) -> None:
    """It was stored for every body, and other bodies refuse what is not their default."""
    words = [f"data={tmp_path}", "method.width=0.0625", f"method.body={body}", "epochs=12"]
    now = load("baseline-demo", words).resolved()
    stored = now | {"method": now["method"] | {"descriptor": "G"}}
    assert completed(stored) == (stored if body == "pcb" else now)


def test_a_stored_experiment_whose_settings_are_gone_stays_as_it_is(stored: dict[str, Any]) -> None:
    stored["method"]["once_there"] = 1
    assert completed(stored) == stored


def test_a_review_lists_no_difference_for_what_was_added(experiment: Experiment, stored: dict[str, Any]) -> None:
    def reviewed(tree: dict[str, Any]) -> ReviewedModel:
        return cast(
            ReviewedModel, SimpleNamespace(located=SimpleNamespace(checkpoint=SimpleNamespace(experiment=tree)))
        )

    new = experiment.resolved()
    new["method"]["tau"] = 0.5
    assert changes(reviewed(stored), reviewed(new)) == {"method.tau": ("0.0625", "0.5")}
