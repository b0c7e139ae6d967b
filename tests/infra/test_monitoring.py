"""Prometheus and Grafana of the compose file: every series on the dashboard is one that somebody exports."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestration.training.live_metrics import EXPERIMENT, HELP, RUN

INFRA = Path(__file__).resolve().parents[2] / "infra"
SERIES = re.compile(r"\b(?:ray|mlflow)_[a-z0-9_]+(?=[{)\[ ,]|$)")
# Of MLflow 3.17 with --expose-prometheus, which forms them from its prefix.
OF_MLFLOW = {
    "mlflow_http_request_total",
    "mlflow_http_request_duration_seconds_sum",
    "mlflow_http_request_duration_seconds_count",
}


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    return dict(json.loads((INFRA / "grafana" / "redress.json").read_text()))


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return dict(yaml.safe_load((INFRA / "compose.yaml").read_text()))


def contents(compose: dict[str, Any], name: str) -> Any:
    """A configuration that the compose file holds, with its variables filled in."""
    return yaml.safe_load(re.sub(r"\$\{(\w+)\}", r"\1", compose["configs"][name]["content"]))


def queries(dashboard: dict[str, Any]) -> list[str]:
    found = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    return found + [variable["definition"] for variable in dashboard["templating"]["list"]]


def series(query: str) -> set[str]:
    """The series that a query reads: labels stand behind `by`."""
    return set(SERIES.findall(re.sub(r"\bby \([^)]*\)", "", query)))


def exported() -> Iterator[str]:
    from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES
    from ray.train.v2._internal.metrics.controller import ControllerMetrics

    yield from (f"ray_{name}" for name in HELP)
    yield from (f"ray_{gauge.name}" for gauge in METRICS_GAUGES.values())
    yield f"ray_{ControllerMetrics.CONTROLLER_STATE}"
    yield f"ray_{ControllerMetrics.WORKER_GROUP_START_TOTAL_TIME_S}"
    yield from OF_MLFLOW


def test_every_series_on_the_dashboard_is_exported(dashboard: dict[str, Any]) -> None:
    known = set(exported())
    for query in queries(dashboard):
        assert series(query), query
        assert series(query) <= known, f"{query}: {series(query) - known}"


def test_everything_that_a_run_exports_is_on_the_dashboard(dashboard: dict[str, Any]) -> None:
    shown = set[str]().union(*map(series, queries(dashboard)))
    assert {f"ray_{name}" for name in HELP} <= shown
    assert shown >= OF_MLFLOW


def test_series_of_runs_are_chosen_and_grouped_by_the_tags_that_they_have(dashboard: dict[str, Any]) -> None:
    for query in queries(dashboard):
        labels = [label for group in re.findall(r"by \(([^)]*)\)", query) for label in group.split(", ")]
        if "ray_redress_" in query and "label_values" not in query:
            assert set(labels) == {RUN, EXPERIMENT}, query
            assert set(re.findall(r"\{(\w+)=~", query)) == {RUN}, query
    [variable] = dashboard["templating"]["list"]
    assert variable["definition"].endswith(f", {RUN})")


def test_gpus_are_told_apart_by_labels_that_ray_gives(dashboard: dict[str, Any]) -> None:
    from ray.dashboard.modules.reporter.reporter_agent import GPU_TAG_KEYS

    of_gpus = [query for query in queries(dashboard) if "GpuIndex" in query]
    assert len(of_gpus) == 2
    for query in of_gpus:
        labels = set(re.findall(r"by \(([^)]*)\)", query)[0].split(", "))
        assert labels - {"instance"} <= set(GPU_TAG_KEYS)


def test_queries_are_closed_and_panels_do_not_overlap(dashboard: dict[str, Any]) -> None:
    for query in queries(dashboard):
        for opening, closing in ("()", "[]", "{}"):
            assert query.count(opening) == query.count(closing), query
    cells: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        taken = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not taken & cells, panel["title"]
        assert max(x for x, _ in taken) < 24
        cells |= taken
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_grafana_starts_with_the_data_source_and_the_dashboard(
    dashboard: dict[str, Any], compose: dict[str, Any]
) -> None:
    [source] = contents(compose, "grafana-prometheus")["datasources"]
    used = [panel["datasource"] for panel in dashboard["panels"]]
    used += [target["datasource"] for panel in dashboard["panels"] for target in panel["targets"]]
    used += [variable["datasource"] for variable in dashboard["templating"]["list"]]
    assert all(one == {"type": source["type"], "uid": source["uid"]} for one in used)
    assert source["url"] == "http://prometheus:9090"
    [provider] = contents(compose, "grafana-dashboards")["providers"]
    targets = {one["source"]: one["target"] for one in compose["services"]["grafana"]["configs"]}
    assert targets["dashboard"].startswith(provider["options"]["path"])
    assert (
        targets["dashboard"]
        == compose["services"]["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    )
    assert (INFRA / compose["configs"]["dashboard"]["file"]).is_file()
    for name in ("grafana-prometheus", "grafana-dashboards"):
        assert targets[name].startswith("/etc/grafana/provisioning/")


def test_every_endpoint_is_scraped_at_the_port_where_it_listens(compose: dict[str, Any]) -> None:
    jobs = {job["job_name"]: job for job in contents(compose, "prometheus")["scrape_configs"]}
    assert jobs.keys() == {"ray", "mlflow"}
    [ray] = jobs["ray"]["dns_sd_configs"]
    assert set(ray["names"]) == {
        name for name, one in compose["services"].items() if "ray start" in str(one.get("command"))
    }
    for name in ray["names"]:
        assert f"--metrics-export-port={ray['port']}" in compose["services"][name]["command"]
    [mlflow] = jobs["mlflow"]["static_configs"]
    command = compose["services"]["mlflow"]["command"]
    assert mlflow["targets"] == ["mlflow:5000"]
    assert "--port 5000" in command
    assert "mlflow:5000" in command.partition("--allowed-hosts ")[2].split()[0].split(",")
    assert re.findall(r"--expose-prometheus (\S+)", command) == compose["services"]["mlflow"]["tmpfs"]
    login = jobs["mlflow"]["basic_auth"]
    assert login["username"] == "MLFLOW_TRACKING_USERNAME"
    files = {one["target"]: compose["configs"][one["source"]] for one in compose["services"]["prometheus"]["configs"]}
    assert files[login["password_file"]] == {"content": "${MLFLOW_TRACKING_PASSWORD}"}


def test_prometheus_is_reached_by_grafana_alone(compose: dict[str, Any]) -> None:
    """It asks nobody for a password."""
    assert "ports" not in compose["services"]["prometheus"]
    assert compose["services"]["grafana"]["ports"] == ["127.0.0.1:3000:3000"]
