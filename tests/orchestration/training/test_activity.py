"""A long survey is reported in the run's storage, and the driver says it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from datasets.storage.store import Store, open_store
from methods.method import Stage
from orchestration.training import activity
from orchestration.training.activity import ACTIVITY, EVERY_S, SurveyReport, said

STAGE = Stage("prompts", 0, ("prompts",))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path))


def test_a_long_survey_is_reported(store: Store) -> None:
    report = SurveyReport(store, images=200)
    report(STAGE, 10)
    assert not store.exists(ACTIVITY)
    report.next_report -= EVERY_S
    report(STAGE, 50)
    assert store.read(ACTIVITY) == b"stage 'prompts': looking at the training set, 25 %"
    report(STAGE, 60)
    assert store.read(ACTIVITY).endswith(b"25 %"), "at most once in EVERY_S seconds"


def test_what_is_reported_is_said_once_and_nothing_of_an_earlier_attempt(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(activity, "EVERY_S", 0.01)
    store.write(ACTIVITY, b"earlier")
    told: list[str] = []
    with said(store, told.append):
        for text in ("one", "two"):
            store.write(ACTIVITY, text.encode())
            deadline = time.monotonic() + 20
            while text not in told and time.monotonic() < deadline:
                time.sleep(0.01)
        time.sleep(0.1)
    assert told == ["one", "two"]


def test_training_does_not_depend_on_the_report(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file where the folder should be")
    report = SurveyReport(open_store(str(tmp_path / "run")), images=4)
    report.next_report -= EVERY_S
    report(STAGE, 2)
