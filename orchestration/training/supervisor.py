"""The supervisor of a training: groups of workers of fixed sizes, one after another, until the last epoch.

A group is as large as fits now, of the sizes that the batch's lanes allow. When one is lost, the next goes on from the newest
checkpoint. When there is room for a larger one, or a node is about to be taken away, all workers are asked to stop: they
leave after the same step, with a checkpoint, and no step is repeated. Ray Train's own range of workers takes any number and
asks nobody.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from datasets.storage.store import Store, StoreError
from orchestration import lost_cluster, signals
from orchestration.engine import checkpoint
from orchestration.tracking import groups
from orchestration.tracking.groups import After, Group
from orchestration.training import interrupt
from orchestration.training.endings import End, Ending, Failure, ending_of
from orchestration.workers.hang import Hangs

POLL_S = 0.2
LOOK_S = 1.0  # between two looks at the cluster or at the run's storage
SETTLE_S = 10.0  # Ray frees the places of a group that has ended within seconds
DETECTION_S = 90.0  # Ray drops a lost node after 30 to 65 s; one that is silent for longer is not waited for

Work = Callable[[], dict[str, Any]]


class Nodes(Protocol):
    """The cluster, as `orchestration.workers.nodes` shows it."""

    def places(self, needs: Mapping[str, float]) -> int: ...
    def capacity(self, needs: Mapping[str, float]) -> int: ...
    def leaving(self) -> list[str]: ...
    def silent(self) -> list[str]: ...


@dataclass(frozen=True)
class Limits:
    """sizes: numbers of workers, ascending. needs: resources of each. max_failures: losses in a row without a newer
    checkpoint. wait_s: for room for the smallest size. grow_s: how long there must be room for a larger one.
    end: the epoch that training ends with, from 1. may_grow: whether the cluster may get nodes on demand.
    """

    sizes: tuple[int, ...]
    needs: Mapping[str, float]
    max_failures: int
    wait_s: float
    grow_s: float
    end: int
    may_grow: bool


class NoRoomError(RuntimeError):
    """The smallest group did not fit for longer than the run waits."""


class Losses:
    """Counts losses in a row. A checkpoint that is newer than at the loss before begins a new row."""

    def __init__(self, allowed: int) -> None:
        self.allowed, self.in_a_row = allowed, 0
        self.step: int | None = None

    def add(self, step: int) -> bool:
        """step: of the newest checkpoint. Whether the run goes on."""
        self.in_a_row = 1 if step != self.step else self.in_a_row + 1
        self.step = step
        return self.in_a_row <= self.allowed


class Supervisor:
    """start: makes ready a group of so many workers, and returns what runs it. hangs: those of the run. on_group: called with
    all groups so far when one begins to train."""

    def __init__(
        self,
        limits: Limits,
        store: Store,
        nodes: Nodes,
        start: Callable[[int], Work],
        *,
        hangs: Hangs,
        say: Callable[[str], None],
        on_group: Callable[[list[Group]], None],
    ) -> None:
        self.limits, self.store, self.nodes, self.start = limits, store, nodes, start
        self.hangs, self.say, self.on_group = hangs, say, on_group
        self.losses = Losses(limits.max_failures)
        self.after = After.START
        self.idle_since: float | None = time.monotonic()  # None while a group trains
        self.told = ""

    def run(self) -> Failure | None:
        """Train to the last epoch; returns early after a signal. Returns the failure, if any."""
        size, hoped = 0, None
        while True:
            try:
                chosen = self.next_size(hoped)
            except NoRoomError as error:
                return Failure("No room", str(error), may_resume=True)
            if chosen is None:
                return None
            size = chosen
            ending, asked = self.run_group(size)
            if self.is_complete(ending, asked) or (is_over() and not ending.failure):
                return None
            if ending.end is End.FAILED or is_over():
                return ending.failure
            if ending.end is End.LOST and (failure := self.lost(size, ending)):
                return failure
            if ending.end is not End.NO_ROOM:
                self.after = asked or (After.PREEMPTION if ending.end is End.PREEMPTED else After.LOSS)
            if ending.end is End.PREEMPTED:
                self.say(f"{ending.what}; training goes on from step {self.step()}")
            hoped = None if asked is After.GROWTH else size

    def is_complete(self, ending: Ending, asked: After | None) -> bool:
        """A group that was asked to stop may have reached the end with that step."""
        if ending.end is not End.RETURNED:
            return False
        return asked is None or (ending.returned or {}).get("epoch", 0) >= self.limits.end

    def lost(self, size: int, ending: Ending) -> Failure | None:
        """Count a loss; returns the failure if it was one too many."""
        assert ending.failure is not None
        step, limit = self.step(), self.limits.max_failures
        if not self.losses.add(step):
            return Failure(
                ending.failure.type,
                f"{ending.failure.message.rstrip('.')}. The workers were lost {self.losses.in_a_row} times in a row without a "
                f"newer checkpoint (max_failures={limit}).",
                may_resume=True,
            )
        self.say(
            f"the group of {size} was lost: {ending.what}. Training goes on from step {step}: loss "
            f"{self.losses.in_a_row} of at most {limit} in a row without a newer checkpoint"
        )
        return None

    def step(self) -> int:
        """The step that the next group begins with."""
        found = checkpoint.latest(self.store)
        return found.progress.step if found else 0

    def next_size(self, hoped: int | None) -> int | None:
        """The largest size that fits, when Ray has dropped lost nodes and freed what is free; None after a signal.

        hoped: a size that is taken at once; None: the largest that the whole cluster could hold.
        Raises: NoRoomError.
        """
        began, limits = time.monotonic(), self.limits
        while not is_over():
            waited = time.monotonic() - began
            silent = self.nodes.silent() if waited < DETECTION_S else []
            places = self.nodes.places(limits.needs)
            if silent:
                self.say_once(f"waiting until Ray drops {', '.join(silent)}: no connection")
            elif (size := largest(limits.sizes, places)) and (waited > SETTLE_S or size >= self.wanted(hoped)):
                return size
            elif self.idle_since is not None and time.monotonic() - self.idle_since > limits.wait_s:
                raise NoRoomError(f"{self.lacking(places)}, for {limits.wait_s:g} s (resources.wait_s).")
            elif waited > SETTLE_S:
                self.say_once(f"{self.lacking(places)}: waiting for more")
                if limits.may_grow:
                    return limits.sizes[0]  # Ray's request for its places makes such a cluster grow
            time.sleep(LOOK_S)
        return None

    def wanted(self, hoped: int | None) -> int:
        """The size that is not waited for: what was hoped for, as far as the whole cluster could hold it."""
        could = largest(self.limits.sizes, self.nodes.capacity(self.limits.needs))
        return min(hoped or could, could)

    def lacking(self, places: int) -> str:
        needs = " and ".join(f"{amount:g} {name}" for name, amount in self.limits.needs.items())
        return f"training needs {self.limits.sizes[0]} workers of {needs}, and the Ray cluster has room for {places}"

    def say_once(self, text: str) -> None:
        if text != self.told:
            self.say(text)
        self.told = text

    def run_group(self, size: int) -> tuple[Ending, After | None]:
        """Run a group to its end. Returns the ending, and why the workers were asked to stop, if they were."""
        interrupt.forget(self.store)
        if is_over():
            return Ending(End.RETURNED), None
        work, step = self.start(size), self.step()  # now: a group may soon have a newer checkpoint
        returned: list[dict[str, Any]] = []
        errors: list[BaseException] = []

        def run() -> None:
            try:
                returned.append(work())
            except BaseException as error:  # Ray Train's own handlers exit
                errors.append(error)

        thread = threading.Thread(target=run, name=f"group of {size}", daemon=True)
        thread.start()
        asked = self.look_after(thread, size, step)
        self.idle_since = self.idle_since or time.monotonic()
        ending = ending_of(next(iter(returned), None), next(iter(errors), None), self.store, self.hangs)
        return ending, asked if ending.end is End.RETURNED else None

    def look_after(self, thread: threading.Thread, size: int, step: int) -> After | None:
        """Until a group has ended: note that it trains, and ask it to stop where that is better. Returns why it was asked."""
        is_training, asked, room = False, None, Room(self.limits.grow_s)
        next_look = 0.0
        while thread.is_alive():
            thread.join(POLL_S)
            if asked or time.monotonic() < next_look:
                continue
            next_look = time.monotonic() + LOOK_S
            with contextlib.suppress(StoreError):  # the next look may succeed
                if not is_training:
                    is_training = self.store.exists(interrupt.LISTENING)
                    if is_training:
                        self.note(size, step)
                elif asked := self.reason_to_stop(size, room):
                    self.store.write(interrupt.REQUEST, b"")
        return asked

    def note(self, size: int, step: int) -> None:
        """step: the first one that the group trains."""
        self.idle_since, self.told = None, ""
        if self.after is not After.START:
            self.say(f"training goes on with {size} workers from step {step}")
        self.on_group(groups.add(self.store, size, step, self.after))

    def reason_to_stop(self, size: int, room: Room) -> After | None:
        if leaving := self.nodes.leaving():
            self.say(f"{', '.join(leaving)} will be taken away: stopping after this step, with a checkpoint")
            return After.PREEMPTION
        if size == self.limits.sizes[-1]:
            return None
        larger = largest(self.limits.sizes, size + self.nodes.places(self.limits.needs))
        if room.lasts(larger > size) and not self.nodes.silent():
            self.say(f"room for {larger} workers: stopping the {size} after this step, with a checkpoint")
            return After.GROWTH
        return None


class Room:
    """Whether there has been room for a larger group for `grow_s` seconds without a break."""

    def __init__(self, grow_s: float) -> None:
        self.grow_s = grow_s
        self.since: float | None = None

    def lasts(self, is_there: bool) -> bool:
        if not is_there:
            self.since = None
            return False
        self.since = self.since or time.monotonic()
        return time.monotonic() - self.since >= self.grow_s


def largest(sizes: tuple[int, ...], places: int) -> int:
    """The largest size that so many places hold; 0 if none."""
    return max((size for size in sizes if size <= places), default=0)


def is_over() -> bool:
    """Whether a signal came, or the cluster is gone: no further group is started."""
    return signals.has_received() or lost_cluster.is_lost()
