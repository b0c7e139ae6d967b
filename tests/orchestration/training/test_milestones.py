"""The epochs at which a trial is validated."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orchestration.training.milestones import milestones, remaining


@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 30), st.integers(0, 1))
def test_a_trial_is_validated_after_its_last_epoch_and_at_every_interval(
    epochs: int, every: int, epoch: int, batch: int
) -> None:
    found = milestones(range(epochs), every, epochs)
    assert found[-1] == epochs
    assert all(at % every == 0 or at == epochs for at in found)
    left = remaining(found, epoch, batch)
    assert left == [at for at in found if at > epoch or (at == epoch and not batch)]


def test_epochs_that_change_no_score_do_not_count() -> None:
    assert milestones(range(4, 10), 2, 10) == [6, 8, 10]
    assert milestones([0, 1, 6, 7], 2, 8) == [2, 8]
    assert milestones([], 2, 3) == [3]
