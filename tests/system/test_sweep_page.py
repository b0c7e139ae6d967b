"""A sweep's page of parallel coordinates in a browser: every point has its line and its row, and nothing goes wrong in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from orchestration.sweeps.report import parallel_coordinates
from orchestration.sweeps.space import read_space
from orchestration.sweeps.state import Result, SweepState, Trial
from tests.servers.chromium import LAPTOP, PHONE, Watched

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

TAUS, EPSILONS = (0.02, 0.05, 0.1), (0, 0.1, 1)


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    space = read_space(["method.tau=log(0.01, 0.2)", "method.epsilon=[0, 0.1, 1]"])
    sweep_state = SweepState((1, 2))
    for tau in TAUS:
        for epsilon in EPSILONS:
            values = {"method.tau": tau, "method.epsilon": epsilon}
            if (tau, epsilon) == (0.1, 1):
                sweep_state.record(Trial(values, 1, True), Result("stopped", epoch=2, score=0.1))
                continue
            for seed in (1, 2):
                sweep_state.record(
                    Trial(values, seed, seed == 1), Result("finished", score=0.5 - tau + epsilon / 10 + seed / 99)
                )
    path = tmp_path_factory.mktemp("sweep") / "parallel-coordinates.html"
    path.write_bytes(parallel_coordinates(space, sweep_state, "clothes-changing/mAP"))
    return path


@pytest.fixture(params=[(LAPTOP, "light"), (PHONE, "dark")], ids=str)
def watched(request: pytest.FixtureRequest, browser: Browser, page_file: Path) -> Iterator[Watched]:
    found = Watched(browser, *request.param)
    found.page.goto(page_file.as_uri())
    yield found
    found.close()


def test_every_point_has_a_line_and_a_row_and_one_that_was_stopped_is_dashed(watched: Watched) -> None:
    assert watched.page.locator("polyline.line").count() == watched.page.locator("tbody tr").count() == 9
    assert watched.page.locator("polyline.stopped").count() == 1
    assert watched.page.locator("svg .axis").count() == 3
    assert watched.complaints == []
    assert len(watched.requests) == 1


def test_the_row_that_has_the_focus_shows_its_line(watched: Watched) -> None:
    watched.page.locator("tbody tr").nth(2).focus()
    assert watched.page.locator("polyline.chosen").count() == 1
    assert watched.page.locator("polyline.faded").count() == 8


def test_nothing_but_the_plot_and_the_table_scrolls_sideways(watched: Watched) -> None:
    assert watched.page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
