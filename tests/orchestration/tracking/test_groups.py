"""What the list of a run's groups says: tags, and marks on the training curve."""

from __future__ import annotations

from pathlib import Path

from datasets.storage.store import open_store
from orchestration.tracking.groups import After, add, marks, read, tags


def test_restarts_resizes_and_marks_follow_from_the_groups(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    assert read(store) == []
    for workers, step, after in (
        (4, 0, After.START), (4, 8, After.LOSS), (2, 20, After.PREEMPTION), (4, 31, After.GROWTH), (4, 40, After.START),
    ):  # fmt: skip
        found = add(store, workers, step, after)
    assert read(store) == found
    assert [group.workers for group in found] == [4, 4, 2, 4, 4]
    assert tags(found) == {"workers": 4, "restarts": 2, "resizes": 2}
    assert tags(found[:1]) == {"workers": 4, "restarts": 0, "resizes": 0}
    assert marks(found) == [(8, "loss"), (20, "pre-emption 4 → 2"), (31, "growth 2 → 4"), (40, "start")]
