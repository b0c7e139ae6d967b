"""Runs as plain data. Listing and showing those of a database: tests/orchestration/tracking/test_tracked_run.py."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from orchestration.tracking.runs import files, summary


def run(metrics: dict[str, float], *, ended: int | None = 61_500, **tags: str) -> Any:
    info = SimpleNamespace(run_id="r", run_name="tiny-1", status="FINISHED", start_time=1_500, end_time=ended)
    return SimpleNamespace(info=info, data=SimpleNamespace(metrics=metrics, tags=tags))


def test_a_summary_has_evaluations_and_nothing_that_a_step_or_the_machine_measured() -> None:
    metrics = {
        "general/mAP": 0.5,
        "general/rank-1": 0.7,
        "clothes-changing/rank-20": 0.9,
        "general-reranked/mINP": 0.1,
        "distance/same-clothes": 0.3,
        "distance/delta": 0.6,
        "distance/loss": 0.7,
        "loss/model": 1.5,
        "accuracy": 0.5,
        "speed/rank-1": 3.0,
        "memory/mAP": 1.0,
        "system/cpu_utilization_percentage": 50.0,
        "system/rank-1": 1.0,
    }
    assert summary(run(metrics), "redress")["metrics"] == {
        "clothes-changing/rank-20": 0.9,
        "distance/delta": 0.6,
        "distance/same-clothes": 0.3,
        "general-reranked/mINP": 0.1,
        "general/mAP": 0.5,
        "general/rank-1": 0.7,
    }


def test_a_summary_says_when_it_began_how_long_it_took_and_where_it_lies() -> None:
    tags: dict[str, Any] = {"data.address": "s3://bucket/ltcc", "storage": "/runs/r"}
    found = summary(run({}, **tags), "redress")
    assert (found["started"], found["seconds"]) == ("1970-01-01T00:00:01+00:00", 60.0)
    assert (found["data"], found["storage"], found["experiment"]) == ("s3://bucket/ltcc", "/runs/r", "redress")


def test_a_running_run_has_no_duration() -> None:
    found = summary(run({}, ended=None), "redress")
    assert found["seconds"] is None
    assert found["data"] is None


def test_files_are_listed_through_all_folders() -> None:
    tree = {
        None: [("experiment.json", False), ("pictures", True)],
        "pictures": [("pictures/cmc.png", False), ("pictures/more", True)],
        "pictures/more": [("pictures/more/a.png", False)],
    }

    class Client:
        def list_artifacts(self, run_id: str, folder: str | None) -> list[Any]:
            assert run_id == "r"
            return [SimpleNamespace(path=path, is_dir=is_dir) for path, is_dir in tree[folder]]

    assert files(Client(), "r") == ["experiment.json", "pictures/cmc.png", "pictures/more/a.png"]  # type: ignore[arg-type]
