"""Which trial is next, of all points and seeds: a state machine without clock, cluster or files.

What an earlier process began comes first, what it came farther with before the rest, then the other seeds of points that
are under way, then new points. Where trials may be stopped, a point's scout runs first, and its other seeds when the scout
came to its end. The proposals hear of each point once, when it is complete.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from orchestration.sweeps.search_algorithms import Proposals
from orchestration.sweeps.state import Ledger, Outcome, Point, Trial


class Turns:
    """`next` gives a trial, or None where there is nothing to do now; `tell` takes what became of one."""

    def __init__(self, ledger: Ledger, proposals: Proposals, *, scouts: bool) -> None:
        self.ledger, self.proposals, self.scouts = ledger, proposals, scouts
        self.seeds: Sequence[int] = ledger.seeds
        self.queue: deque[Trial] = deque()
        self.running: dict[str, Trial] = {}
        self.exhausted = False
        for point in ledger:
            if point.is_closed(self.seeds):
                self.proposals.tell(point.values, mean(point))
        for point in sorted(ledger, key=lambda point: not point.outcomes):
            self.queue_rest(point)

    def next(self) -> Trial | None:
        if not self.queue and not self.exhausted:
            self.propose()
        if not self.queue:
            return None
        trial = self.queue.popleft()
        self.running[trial.name] = trial
        return trial

    @property
    def finished(self) -> bool:
        """Nothing runs and nothing will."""
        return self.exhausted and not self.queue and not self.running

    def tell(self, trial: Trial, outcome: Outcome) -> None:
        self.running.pop(trial.name, None)
        point = self.ledger.record(trial, outcome)
        if self.scouts and trial.is_scout:
            self.queue_rest(point)
        if point.is_closed(self.seeds):
            self.proposals.tell(point.values, mean(point))

    def propose(self) -> None:
        values = self.proposals.next()
        if values is None:
            self.exhausted = True
        else:
            self.queue_rest(self.ledger.point(values))

    def queue_rest(self, point: Point) -> None:
        """What of a point is to be trained next: its scout, or all seeds that have no outcome."""
        if point.stopped:
            return
        first, *others = self.seeds
        if self.scouts and first not in point.outcomes:
            self.queue.append(Trial(point.values, first, is_scout=True))
            return
        for seed in [first, *others]:
            if seed not in point.outcomes:
                self.queue.append(Trial(point.values, seed))


def mean(point: Point) -> float | None:
    return point.score.mean if point.score else None
