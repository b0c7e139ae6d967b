"""The review page in a browser: legible on a laptop and a phone, light and dark, by keyboard; and nothing goes wrong in it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from orchestration.cli.main import main
from tests.orchestration.reviewed_models import make_place, register_version
from tests.servers.chromium import LAPTOP, PHONE, Scheme, Watched

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

CONTRAST = """
() => {
  const channel = v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const colour = text => text.match(/[\\d.]+/g).map(Number);
  const luminance = c => 0.2126 * channel(c[0]) + 0.7152 * channel(c[1]) + 0.0722 * channel(c[2]);
  const behind = element => {
    for (let at = element; at; at = at.parentElement) {
      const c = colour(getComputedStyle(at).backgroundColor);
      if (c.length < 4 || c[3] > 0) return c;
    }
    return [255, 255, 255];
  };
  const poor = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || !element.getClientRects().length || element.closest("svg, .skip")) continue;
    const [a, b] = [colour(getComputedStyle(element).color), behind(element)].map(luminance).sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) poor.push(element.className + ": " + element.textContent.trim().slice(0, 40));
  }
  return poor;
}
"""


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("review")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home / 'mlflow.db'}")
        place = make_place(home)
        register_version(place, "shown", 1.6, seed=1)
        assert main(["registry", "compare", "shown"]) == 0
        assert main(["registry", "promote", "shown"]) == 0
        register_version(place, "shown", 0.9, "method.label_smoothing=0.2", seed=2)
        assert main(["registry", "compare", "shown", "--page", str(home / "review.html")]) == 0
        yield home / "review.html"


@pytest.fixture(params=[(LAPTOP, "light"), (LAPTOP, "dark"), (PHONE, "light"), (PHONE, "dark")], ids=str)
def watched(request: pytest.FixtureRequest, browser: Browser, page_file: Path) -> Iterator[Watched]:
    size, scheme = request.param
    found = open_page(browser, page_file, size, scheme)
    yield found
    found.close()


def open_page(browser: Browser, file: Path, size: tuple[int, int] = LAPTOP, scheme: Scheme = "light") -> Watched:
    found = Watched(browser, size, scheme)
    found.page.goto(file.as_uri())
    return found


def test_nothing_goes_wrong_and_nothing_is_asked_for(watched: Watched) -> None:
    assert not watched.complaints
    assert [url for url in watched.requests if not url.startswith(("file:", "data:"))] == []


def test_every_list_loads_and_nothing_runs_over_the_side(watched: Watched) -> None:
    page = watched.page
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert page.evaluate("document.images.length") > 60
    assert page.evaluate("[...document.images].filter(i => !i.complete || i.naturalWidth < 16).length") == 0
    lists = page.evaluate("[...document.querySelectorAll('ol.ranked')].map(one => one.children.length)")
    assert len(lists) >= 8
    assert set(lists) == {5}
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    cut = "[...document.querySelectorAll('ol.ranked')].filter(one => one.scrollWidth > one.clientWidth + 1).length"
    assert page.evaluate(cut) == 0


def test_words_stand_out_from_what_is_behind_them(watched: Watched) -> None:
    """At least 4.5 to 1 (WCAG 2, level AA)."""
    watched.page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert watched.page.evaluate(CONTRAST) == []


def test_the_verdict_is_seen_first(watched: Watched) -> None:
    box = watched.page.locator("#verdict h2").bounding_box()
    assert box
    assert box["y"] + box["height"] < watched.page.viewport_size["height"] / 2  # type: ignore[index]
    assert watched.page.locator("#verdict h2").inner_text() == "✓ Passes the gate"


def test_the_keyboard_reaches_everything(browser: Browser, page_file: Path) -> None:
    found = open_page(browser, page_file)
    page = found.page
    page.keyboard.press("Tab")
    assert focused(page) == "Skip to the verdict"
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#verdict"
    reached, closed = set(), page.locator("summary", has_text="general").last
    for _ in range(80):
        page.keyboard.press("Tab")
        reached.add(focused(page))
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle !== 'none'")
        if closed.evaluate("one => one === document.activeElement"):
            break
    assert {"Commands to decide", "Numbers by mode"} <= reached
    assert not closed.evaluate("one => one.parentElement.open")
    page.keyboard.press("Enter")
    assert closed.evaluate("one => one.parentElement.open")
    found.close()


def focused(page: Page) -> str:
    return str(
        page.evaluate("document.activeElement.getAttribute('aria-label') || document.activeElement.innerText.trim()")
    )


def test_what_is_told_by_colour_is_told_by_words_too(browser: Browser, page_file: Path) -> None:
    found = open_page(browser, page_file)
    page = found.page
    for kind, mark, style in (("right", "✓", "solid"), ("wrong", "✗", "dashed")):
        entry = page.locator(f"details[open] ol.ranked li.{kind}").first
        assert entry.locator(".mark-word").inner_text().startswith(mark)
        assert entry.locator("img").evaluate("one => getComputedStyle(one).borderTopStyle") == style
        assert kind in (entry.locator("img").get_attribute("alt") or "")
    assert page.locator("path.line.champion").first.evaluate("one => getComputedStyle(one).strokeDasharray") != "none"
    for chart in page.locator("svg.chart").all():
        label = chart.get_attribute("aria-label") or ""
        assert any(words in label for words in ("% at rank 1", "of the matches", "; δ ", "persons, ")), label
    headings = page.evaluate("[...document.querySelectorAll('h1,h2,h3,h4,h5,h6')].map(h => +h.tagName[1])")
    assert headings[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(headings))
    found.close()
