"""What rank 0 does between steps, as the driver says it: a look at the whole training set may take minutes."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from datasets.storage.store import Store, StoreError
from methods.method import Stage

ACTIVITY = "activity.txt"
EVERY_S = 5.0


class SurveyReport:
    """Rank 0's report of a stage's survey, in the run's storage. images: the length of its share of the training set."""

    def __init__(self, store: Store, images: int) -> None:
        self.store, self.images = store, images
        self.next_report = time.monotonic() + EVERY_S  # short ones are not reported

    def __call__(self, stage: Stage, images: int) -> None:
        if time.monotonic() < self.next_report:
            return
        self.next_report = time.monotonic() + EVERY_S
        text = f"stage {stage.name!r}: looking at the training set, {100 * images / max(self.images, 1):.0f} %"
        with contextlib.suppress(StoreError):  # training does not depend on it
            self.store.write(ACTIVITY, text.encode())


@contextlib.contextmanager
def said(store: Store, say: Callable[[str], None]) -> Iterator[None]:
    """Within this context, say what rank 0 reports, once each."""
    ended = threading.Event()

    def follow() -> None:
        last = b""
        while not ended.wait(EVERY_S):
            with contextlib.suppress(StoreError):
                text = store.read(ACTIVITY) if store.exists(ACTIVITY) else b""
                if text and text != last:
                    say(text.decode())
                    last = text

    store.delete(ACTIVITY)  # of an earlier attempt
    thread = threading.Thread(target=follow, name="say the activity", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
