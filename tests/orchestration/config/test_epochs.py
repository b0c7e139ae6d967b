"""Which epochs a run trains, and which of them change a score."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from methods.method import Stage, ended_stage
from orchestration.config.epochs import end_epoch, end_of, first_epoch, scored_epochs
from orchestration.config.load import load
from tests.orchestration.two_stages import WORDS, as_baseline

STAGES = (
    Stage("first", 0, ("a",), changes_embedding=False),
    Stage("second", 3, ("b",), phase="one"),
    Stage("second", 5, ("b",), phase="two"),
    Stage("third", 8, ("b", "c"), changes_embedding=False),
)


def test_a_stage_ends_where_another_name_begins() -> None:
    assert [end_of(STAGES, name, 10) for name in ("first", "second", "third")] == [3, 8, 10]
    assert end_of(STAGES, "second", 6) == 6
    ends = {epoch: ended_stage(STAGES, epoch, 10) for epoch in range(11)}
    assert {epoch: name for epoch, name in ends.items() if name} == {3: "first", 8: "second", 10: "third"}


@given(st.integers(1, 12))
def test_every_stage_that_is_reached_ends_once(epochs: int) -> None:
    ended = [name for epoch in range(epochs + 1) if (name := ended_stage(STAGES, epoch, epochs))]
    reached = list(dict.fromkeys(stage.name for stage in STAGES if stage.first_epoch < epochs))
    assert ended == reached
    assert [end_of(STAGES, name, epochs) for name in reached] == [
        epoch for epoch in range(1, epochs + 1) if ended_stage(STAGES, epoch, epochs)
    ]


def test_epochs_that_leave_the_descriptor_are_not_scored() -> None:
    assert scored_epochs(STAGES, 0, 10) == [3, 4, 5, 6, 7]
    assert scored_epochs(STAGES, 4, 6) == [4, 5]


@pytest.mark.parametrize(
    ("words", "first", "end"),
    [([], 0, 4), (["until=anchors"], 0, 2), (["init_from=/run@anchors"], 2, 4), (["init_from=/run"], 0, 4)],
)
def test_the_epochs_of_a_run(words: list[str], first: int, end: int) -> None:
    with as_baseline():
        experiment = load("baseline-demo", ["data=/given", "epochs=4", *WORDS, *words])
    stages = (Stage("anchors", 0, ("anchors",)), Stage("identity", 2, ("model",)))
    assert (first_epoch(experiment, stages), end_epoch(experiment, stages)) == (first, end)
