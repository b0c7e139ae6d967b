"""What long work shows on stderr: a bar that moves on a terminal, a line every few seconds elsewhere (job logs, CI)."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

LINE_EVERY_S = 5.0


class Bar:
    """Progress of one task: call it with (done, total)."""

    def __init__(self, console: Console, label: str, note: str = "") -> None:
        self.console, self.label, self.note = console, label, note
        self.started = self.spoke = time.monotonic()
        self.done = self.total = 0
        self.rich: RichProgress | None = None
        if console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
            times = (TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}"))
            self.rich = RichProgress(*columns, *times, console=console)
            self.rich.start()
            self.task = self.rich.add_task(label, total=None, note=note)
        else:
            self.line(f"{label} …")

    def __call__(self, done: int, total: int, note: str = "") -> None:
        self.done, self.total, self.note = done, total, note
        if self.rich:
            self.rich.update(self.task, completed=done, total=total, note=note)
        elif time.monotonic() - self.spoke >= LINE_EVERY_S:
            self.spoke = time.monotonic()
            self.line(f"{self.label} {done}/{total} ({100 * done / max(total, 1):.0f} %)  {note}")

    def line(self, text: str) -> None:
        self.console.print(text.rstrip(), highlight=False, soft_wrap=True)

    def close(self) -> None:
        if self.rich:
            self.rich.stop()
        else:
            seconds = time.monotonic() - self.started
            self.line(f"{self.label}: {self.done} in {seconds:.1f} s  {self.note}")


class Progress:
    """The story of one command. `console` writes to stderr unless another is given."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(file=sys.stderr)
        self.training: Bar | None = None
        self.steps = 0

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True)

    @contextmanager
    def bar(self, label: str) -> Iterator[Callable[..., None]]:
        bar = Bar(self.console, label)
        try:
            yield bar
        finally:
            bar.close()

    @contextmanager
    def training_bar(self, label: str, total_steps: int) -> Iterator[Callable[[Sequence[dict[str, Any]]], None]]:
        """Yields what takes the journal's records as they arrive: the bar counts steps and shows loss and speed."""
        with self.bar(label) as bar:

            def on_records(records: Sequence[dict[str, Any]]) -> None:
                if records:
                    last = records[-1]
                    bar(last["step"] + 1, total_steps, note=describe_step(last))

            yield on_records


def describe_step(record: dict[str, Any]) -> str:
    metrics = record["metrics"]
    losses = [
        f"{name.removeprefix('loss/')} {value:.3f}" for name, value in metrics.items() if name.startswith("loss/")
    ]
    speed = metrics.get("speed/images-per-s")
    return f"epoch {record['epoch'] + 1}  loss {', '.join(losses)}" + (f"  {speed:.0f} images/s" if speed else "")
