"""Debian's Chromium without a window, whose pages tell what went wrong in them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from playwright.sync_api import Browser, Page, sync_playwright

Scheme = Literal["light", "dark"]
LAPTOP, PHONE = (1280, 800), (390, 844)


class MissingChromiumError(RuntimeError):
    """There is no Chromium on this machine."""


@contextmanager
def chromium() -> Iterator[Browser]:
    """Raises: MissingChromiumError naming the package."""
    path = shutil.which("chromium")
    if path is None:
        raise MissingChromiumError("no chromium on the path; on Debian: apt-get install chromium")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])  # as root there is no sandbox
        yield browser
        browser.close()


class Watched:
    """A page and what it complained of. requests: addresses that it asked for, but its own and data in it."""

    def __init__(self, browser: Browser, size: tuple[int, int] = LAPTOP, scheme: Scheme = "light") -> None:
        self.context = browser.new_context(
            viewport={"width": size[0], "height": size[1]}, color_scheme=scheme, reduced_motion="reduce"
        )
        self.page: Page = self.context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", self.on_console)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))

    def on_console(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"{message.type}: {message.text}")

    def close(self) -> None:
        self.context.close()
