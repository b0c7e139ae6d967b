"""Which trial is next, of all points and seeds: a state machine without clock, cluster or files.

What an earlier process began comes first, then the other seeds of points that are under way, then new points. Where
trials may be stopped, a point's scout runs first, and its other seeds when the scout came to its end.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence

from orchestration.points import Ledger, Outcome, Point, Trial
from orchestration.proposals import Proposals
from orchestration.space import point_id


class Turns:
    """`next` gives a trial, or None where there is nothing to do now; `tell` takes what became of one."""

    def __init__(self, ledger: Ledger, proposals: Proposals, *, scouts: bool) -> None:
        self.ledger, self.proposals, self.scouts = ledger, proposals, scouts
        self.seeds: Sequence[int] = ledger.seeds
        self.queue: deque[Trial] = deque()
        self.running: dict[str, Trial] = {}
        self.proposed: dict[str, str] = {}  # point's id → the name under which it was proposed
        self.exhausted = False
        self.numbers = itertools.count()
        for point in ledger:
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
        if point.is_closed(self.seeds) and point.id in self.proposed:
            self.proposals.tell(self.proposed[point.id], mean(point))

    def propose(self) -> None:
        """The next point of the proposals; one that came up before is answered for and passed over."""
        while True:
            name = f"proposal-{next(self.numbers)}"
            values = self.proposals.next(name)
            if values is None:
                self.exhausted = True
                return
            known = point_id(values) in self.ledger.points
            point = self.ledger.point(values)
            if not known:
                self.proposed[point.id] = name
                self.queue_rest(point)
                return
            self.proposals.tell(name, mean(point))

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
