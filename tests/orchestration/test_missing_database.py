"""A request about something in MLflow creates no database where there is none: it says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from orchestration.errors import RequestError
from orchestration.registry import decisions, gate, models, register
from orchestration.registry.locate import locate
from orchestration.review.review import review
from orchestration.tracking.runs import list_runs, show_run
from orchestration.tuning import sweep_runs

RUN = "0123456789abcdef" * 2
CALLS: dict[str, Callable[[], object]] = {
    "runs list": list_runs,
    "runs show": lambda: show_run(RUN),
    "registry list": models.list_models,
    "registry show": lambda: models.show_model("models:/m/1"),
    "registry show NAME": lambda: models.show_model("m"),
    "registry promote": lambda: decisions.promote("models:/m/1"),
    "registry reject": lambda: decisions.reject("models:/m/1", "no"),
    "registry rollback": lambda: decisions.rollback("m", "no"),
    "registry gate": lambda: gate.show_gate("m"),
    "registry compare": lambda: review("models:/m/1"),
    "registry register": lambda: models.register_run(RUN, "m"),
    "evaluate": lambda: locate("models:/m/1"),
    "load": lambda: register.load("models:/m/1"),
    "tune --resume": lambda: sweep_runs.read_settings(RUN),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    "uri", ["sqlite:///{}/below/mlflow.db", "sqlite+pysqlite:///{}/below/mlflow.db", "{}/below/mlruns"]
)
def test_a_command_about_what_is_there_creates_no_database(
    name: str, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.format(tmp_path))
    with pytest.raises(RequestError, match=rf"there is no MLflow database at {tmp_path}/below/ml.*MLFLOW_TRACKING_URI"):
        CALLS[name]()
    assert not (tmp_path / "below").exists()
