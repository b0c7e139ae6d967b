"""Progress on stderr: a bar on a terminal, a line every few seconds elsewhere (job logs, CI)."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

LINE_EVERY_S = 5.0
RATE_OVER_S = 20.0


_silent: list[threading.Timer] = []  # they would break the silence of work that has said nothing yet


@contextmanager
def doing(what: str, console: Console | None = None) -> Iterator[None]:
    """Say on stderr what the block does, if it takes longer than LINE_EVERY_S and says nothing itself."""
    break_silence()

    def say() -> None:
        (console or Console(file=sys.stderr)).print(f"{what} …", highlight=False, soft_wrap=True)

    timer = threading.Timer(LINE_EVERY_S, say)
    timer.daemon = True
    _silent.append(timer)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        _silent.remove(timer)


def break_silence() -> None:
    """Something is said: what is going on needs no more words."""
    for timer in list(_silent):
        timer.cancel()


class Bar:
    """Progress of one task: call it with (done, total). unit: what is counted, "" where its rate says nothing."""

    def __init__(self, console: Console, label: str, note: str = "", unit: str = "") -> None:
        break_silence()
        self.console, self.label, self.note, self.unit = console, label, note, unit
        self.started = self.spoke = time.monotonic()
        self.done = self.total = 0
        self.pace = Pace()
        self.rich: RichProgress | None = None
        if console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}"))
            self.rich = RichProgress(*columns, TimeElapsedColumn(), console=console)
            self.rich.start()
            self.task = self.rich.add_task(label, total=None, text=note)
        else:
            self.line(f"{label} …")

    def __call__(self, done: int, total: int, note: str = "") -> None:
        self.done, self.total, self.note = done, total, note
        now = time.monotonic()
        self.pace.note(now, done)
        if self.rich:
            self.rich.update(self.task, completed=done, total=total, text=self.text())
        elif now - self.spoke >= LINE_EVERY_S:
            self.spoke = now
            self.line(f"{self.label} {self.text()}")

    def text(self) -> str:
        """As in 12,000/17,000 (70 %)  2,310 images/s  2 s left."""
        done, total = amount(self.done, self.unit), amount(self.total, self.unit)
        parts = [f"{done}/{total} ({100 * self.done / max(self.total, 1):.0f} %)"]
        if rate := self.pace.rate():
            if self.unit:
                parts.append(f"{amount(rate, self.unit)}{'' if self.unit == 'bytes' else f' {self.unit}'}/s")
            if self.done < self.total:
                parts.append(f"{duration((self.total - self.done) / rate)} left")
        return "  ".join([*parts, *([self.note] if self.note else [])])

    def line(self, text: str) -> None:
        self.console.print(text.rstrip(), highlight=False, soft_wrap=True)

    def close(self) -> None:
        if self.rich:
            self.rich.stop()
        else:
            seconds = time.monotonic() - self.started
            counted = f" {self.unit}" if self.unit not in ("", "bytes") else ""
            self.line(f"{self.label}: {amount(self.done, self.unit)}{counted} in {seconds:.1f} s  {self.note}")


class Pace:
    """The recent rate; work done before the first call does not count."""

    def __init__(self) -> None:
        self.seen: deque[tuple[float, int]] = deque()

    def note(self, now: float, done: int) -> None:
        if not self.seen or now - self.seen[-1][0] > 0.1:
            self.seen.append((now, done))
            while now - self.seen[0][0] > RATE_OVER_S and len(self.seen) > 2:
                self.seen.popleft()

    def rate(self) -> float | None:
        """Units per second; None until two counts are known."""
        if len(self.seen) < 2:
            return None
        (began, before), (now, done) = self.seen[0], self.seen[-1]
        return (done - before) / (now - began) if done > before else None


def amount(number: float, unit: str) -> str:
    if unit != "bytes":
        return f"{number:,.0f}" if number >= 10 or number == int(number) else f"{number:.1f}"
    for name, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= size:
            return f"{number / size:.1f} {name}"
    return f"{number:.0f} B"


def duration(seconds: float) -> str:
    """As in 45 s, 12 min, 3 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


class Progress:
    """Messages and bars of one command. `console` writes to stderr by default."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(file=sys.stderr)
        self.training: Bar | None = None
        self.steps = 0

    def say(self, text: str) -> None:
        break_silence()
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def bar(self, label: str, unit: str = "") -> Iterator[Callable[..., None]]:
        bar = Bar(self.console, label, unit=unit)
        try:
            yield bar
        finally:
            bar.close()

    @contextmanager
    def stages(self, labels: Mapping[str, tuple[str, str]]) -> Iterator[Callable[[str, int, int], None]]:
        """One bar after another, for work in stages. labels: stage → label and unit."""
        bars: dict[str, Bar] = {}

        def advance(stage: str, done: int, total: int) -> None:
            if stage not in bars:
                for bar in list(bars.values())[-1:]:
                    bar.close()
                label, unit = labels[stage]
                bars[stage] = Bar(self.console, label, unit=unit)
            bars[stage](done, total)

        try:
            yield advance
        finally:
            for bar in list(bars.values())[-1:]:
                bar.close()

    @contextmanager
    def training_bar(self, label: str, total_steps: int) -> Iterator[Callable[[Sequence[dict[str, Any]]], None]]:
        """Yields a function of new journal records: its bar counts steps and shows loss and speed."""
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
    speeds = [f"  {value:.0f} {unit}/s" for unit in ("images", "rows") if (value := metrics.get(f"speed/{unit}-per-s"))]
    return f"epoch {record['epoch'] + 1}  loss {', '.join(losses)}" + "".join(speeds)
