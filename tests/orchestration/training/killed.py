"""Workers that are killed together in the midst of training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from orchestration.training.recorder import Recorder


class Killed(BaseException):
    pass


@contextmanager
def killed_after(reports: int) -> Iterator[None]:
    """All workers at once, after so many reports of progress, once a checkpoint was begun: of steps and of epochs."""
    on_progress, left = Recorder.on_progress, reports

    def counted(self: Recorder, *args: Any, **named: Any) -> None:
        nonlocal left
        on_progress(self, *args, **named)
        left -= 1
        if not left:
            raise Killed

    Recorder.on_progress = counted  # type: ignore[method-assign]
    try:
        yield
    finally:
        Recorder.on_progress = on_progress  # type: ignore[method-assign]
