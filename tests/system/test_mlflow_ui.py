"""MLflow's own pages, as a reviewer walks through them: run, trials, registered model with its aliases, review page."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from mlflow import MlflowClient
from playwright.sync_api import Browser, expect

from orchestration.cli.main import main
from tests.orchestration.reviewed_models import make_place, register_version
from tests.servers.chromium import Watched

pytestmark = [pytest.mark.system, pytest.mark.timeout(400)]

WAIT_MS = 30_000
NAME = "of-the-ui"


@dataclass(frozen=True)
class Seen:
    """address: of MLflow. run_id: the candidate's, which has the review page and two trials below it."""

    address: str
    experiment_id: str
    run_id: str
    run_name: str
    trials: list[str]


@pytest.fixture(scope="module")
def seen(tracking_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", tracking_server)
        place = make_place(tmp_path_factory.mktemp("ui"))
        register_version(place, NAME, 1.6, seed=1)
        assert main(["registry", "compare", NAME]) == 0
        assert main(["registry", "promote", NAME]) == 0
        register_version(place, NAME, 0.9, seed=2)
        assert main(["registry", "compare", NAME]) == 0
        client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
        run = client.get_run(client.get_model_version(NAME, "2").run_id or "")
        trials = []
        for number in (1, 2):
            tags = {"mlflow.parentRunId": run.info.run_id}
            trial = client.create_run(run.info.experiment_id, run_name=f"trial-{number}", tags=tags)
            client.log_metric(trial.info.run_id, "clothes-changing/mAP", 0.1 * number)
            client.set_terminated(trial.info.run_id)
            trials.append(trial.info.run_name)
        yield Seen(tracking_server, run.info.experiment_id, run.info.run_id, run.info.run_name, trials)


@pytest.fixture
def watched(browser: Browser) -> Iterator[Watched]:
    found = Watched(browser, (1600, 1000))
    found.page.set_default_timeout(WAIT_MS)
    expect.set_options(timeout=WAIT_MS)
    yield found
    found.close()


def test_the_run_and_its_trials_are_nested(seen: Seen, watched: Watched) -> None:
    page = watched.page
    page.goto(f"{seen.address}/#/experiments/{seen.experiment_id}/runs")
    expect(page.get_by_text(seen.run_name, exact=True).first).to_be_visible()
    for trial in seen.trials:  # folded away below their run
        expect(page.get_by_text(trial, exact=True)).to_have_count(0)
    row = page.get_by_role("gridcell").filter(has=page.get_by_text(seen.run_name, exact=True))
    row.get_by_role("button").first.click()
    for trial in seen.trials:
        expect(page.get_by_text(trial, exact=True).first).to_be_visible()


def test_the_registered_model_shows_its_aliases_and_leads_to_the_review_page(seen: Seen, watched: Watched) -> None:
    page = watched.page
    page.goto(f"{seen.address}/#/models/{NAME}")
    for alias in ("candidate", "champion"):
        expect(page.get_by_text(alias, exact=False).first).to_be_visible()
    page.goto(f"{seen.address}/#/models/{NAME}/versions/2")
    link = page.get_by_role("link", name="Review page")
    expect(link).to_be_visible()
    with page.context.expect_page() as opened:  # MLflow opens links of a description in a tab of their own
        link.click()
    frame = opened.value.frame_locator("iframe").first
    expect(frame.locator("#verdict h2")).to_contain_text("gate")
    images = frame.locator("ol.ranked img")
    assert images.count() >= 40
    assert images.evaluate_all("all => all.filter(one => !one.naturalWidth).length") == 0
    frame.locator("nav a", has_text="Model card").click()
    expect(frame.locator("#card h2")).to_be_in_viewport()


def test_no_lock_is_left_among_the_models(seen: Seen, watched: Watched) -> None:
    watched.page.goto(f"{seen.address}/#/models")
    expect(watched.page.get_by_text(NAME).first).to_be_visible()
    assert watched.page.get_by_text(".lock-").count() == 0


def test_the_run_page_lists_the_artifact(seen: Seen, watched: Watched) -> None:
    page = watched.page
    page.goto(f"{seen.address}/#/experiments/{seen.experiment_id}/runs/{seen.run_id}/artifacts")
    expect(page.get_by_text("reviews").first).to_be_visible()
