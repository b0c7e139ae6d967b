"""One attack: the command is struck, given again, and must end as an undisturbed one."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.campaign import facts
from tests.campaign.arena import DISK_BYTES, Arena, used
from tests.campaign.command import END_S, Running, kill, title, using
from tests.campaign.strikes import POLL_S, SIGNALS, Attack, Strike, Undisturbed, from_within, hit, is_moment
from tests.campaign.subjects import Subject

STATUS = {"Ctrl-C": 130, "SIGTERM": 143, "SIGTERM to all": 143}
SIGNAL_S = 180.0  # a command ends so soon after a signal
REFUSED = 2
HOW_TO_GO_ON = re.compile(r"redress \w+|same command|again")
FATAL = ("driver", "tree", *SIGNALS)


@dataclass
class Report:
    """What came of an attack. strikes: victim, phase, what was hit, how that command ended, what it said."""

    strikes: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    commands: int = 0


def undisturbed(subject: Subject, arena: Arena) -> Undisturbed:
    """Run a command once, without any attack. Raises: RuntimeError where it fails or leaves anything."""
    arena.restore(subject.ground)
    before, begun = used(arena.disk), time.monotonic()
    running = Running(arena, subject.words(arena), "undisturbed")
    status = running.wait()
    seconds = time.monotonic() - begun
    left = [*running.survivors(), *facts.rubbish(arena.disk)]
    if status != 0 or left:
        raise RuntimeError(f"undisturbed {' '.join(running.words)} ended with {status}, left {left}:\n{running.tail()}")
    progress = subject.progress(arena) if subject.progress else 0
    outcome = subject.outcome(arena, running.answer() or {})
    return Undisturbed(running.num_writes(), progress, used(arena.disk) - before, seconds, outcome)


class Performance:
    """An attack at work in the arena."""

    def __init__(self, attack: Attack, subject: Subject, arena: Arena, usual: Undisturbed) -> None:
        self.attack, self.subject, self.arena, self.usual = attack, subject, arena, usual
        self.pending, self.report = list(attack.strikes), Report()
        self.started: list[Running] = []

    def run(self) -> Report:
        """Commands until one succeeds; then what they left is compared with what an undisturbed one leaves."""
        disk = self.attack.strikes[0] if self.attack.strikes[0].when == "disk" else None
        if not self.arena.restore(self.subject.ground, round(self.usual.disk_bytes * disk.at) if disk else None):
            return self.report  # nobody may mount such a disk here: nothing was struck
        for attempt in range(len(self.pending) + 2):
            words = self.subject.again(self.arena) if attempt else self.subject.words(self.arena)
            if self.command(words, attempt) or self.report.problems:
                break
        else:
            self.report.problems.append(f"no success in {self.report.commands} commands")
        if not self.report.problems:
            self.report.problems += self.compared()
        alive = [one for running in self.started for one in running.survivors()]
        unseen = list(using(self.arena.temporary))
        kill(unseen)
        if alive or unseen:
            self.report.problems.append(f"left processes: {', '.join([*alive, *map(title, unseen)])}")
        return self.report

    def command(self, words: list[str], attempt: int) -> bool:
        """Run the command once, under the strikes that are due. Returns whether it succeeded."""
        upcoming = self.pending[0] if self.pending else None
        running = Running(self.arena, words, f"attempt-{attempt}", from_within(upcoming) if upcoming else None)
        self.report.commands += 1
        self.started.append(running)
        if upcoming and upcoming.when == "disk":
            last: dict[str, Any] | None = self.struck(upcoming, "the disk of runs and data sets", "")
        else:
            last = self.strike(running)
        status = running.wait(SIGNAL_S if last and last["victim"] in SIGNALS else END_S)
        if upcoming and from_within(upcoming) and running.num_writes() >= upcoming.at:
            last = self.struck(upcoming, "driver" if upcoming.victim != "tree" else "tree", running.last_write())
        answer = running.answer() or {}
        message = str((answer.get("error") or {}).get("message", ""))
        if last:
            last |= {"status": status, "message": message[:400]}
        self.report.problems += self.problems(running, status, last, message)
        if last and last["victim"] == "full disk":
            self.arena.resize(DISK_BYTES)
        self.answer = answer
        is_done = status == REFUSED and self.subject.done and re.search(self.subject.done, message)
        return status == 0 or bool(is_done and self.report.strikes)

    def strike(self, running: Running) -> dict[str, Any] | None:
        """Strike from outside, in turn, as long as the command lives. Returns the record of the last strike."""
        since: dict[str, float] = {}
        deadline = time.monotonic() + END_S
        last = None
        while self.pending and not from_within(self.pending[0]) and running.is_alive() and time.monotonic() < deadline:
            one = self.pending[0]
            if is_moment(one, self.subject, self.arena, running, since):
                phase = self.phase(running)
                what = self.twin() if one.victim == "twin" else hit(one, self.subject, running)
                if what is not None:
                    last = self.struck(one, what, phase)
                    if one.victim in FATAL:
                        break
            time.sleep(POLL_S)
            running.look()
        return last

    def struck(self, strike: Strike, what: str, phase: str) -> dict[str, Any]:
        self.pending.remove(strike)
        self.report.strikes.append({"victim": strike.victim, "when": strike.when, "phase": phase, "hit": what})
        return self.report.strikes[-1]

    def phase(self, running: Running) -> str:
        done = self.subject.progress(self.arena) if self.subject.progress else 0
        return f"{done} of {self.usual.progress}" if done else running.last_write()

    def twin(self) -> str:
        """A second process with the same request, while the first is at work: refused, or harmless."""
        second = Running(self.arena, self.subject.again(self.arena), "twin")
        self.started.append(second)
        status = second.wait()
        message = str(((second.answer() or {}).get("error") or {}).get("message", ""))
        if status not in (0, REFUSED) or (status == REFUSED and not message):
            self.report.problems.append(f"a second process ended with {status}: {message or second.tail()}")
        return f"second process: {status} {message[:120]}"

    def problems(
        self, running: Running, status: int | None, last: dict[str, Any] | None, message: str
    ) -> Iterator[str]:
        """What is wrong with how a command ended."""
        name = f"{' '.join(running.words[:3])}"
        if status is None:
            yield f"{name} did not end"
        victim = last["victim"] if last else None
        if status == 0 or victim in ("driver", "tree"):
            return
        if not message:
            yield f"{name} ended with {status} without a JSON object that says why: {running.tail()}"
        elif victim is None and not (self.subject.done and re.search(self.subject.done, message)):
            yield f"{name} failed without an attack ({status}): {message}"
        elif victim in ("controller", "raylet", "gcs") and not HOW_TO_GO_ON.search(message):
            yield f"{victim}: the message does not say how to go on: {message}"
        elif victim == "full disk" and not re.search(r"[Ff]ree ", message):
            yield f"full disk, and the message does not say what to do: {message}"
        elif victim in SIGNALS:
            yield from self.problems_of_signal(str(victim), status, message)

    def problems_of_signal(self, victim: str, status: int | None, message: str) -> Iterator[str]:
        if status != STATUS[victim]:
            yield f"{victim}: ended with {status}, expected {STATUS[victim]}: {message}"
        if not HOW_TO_GO_ON.search(message):
            yield f"{victim}: the message does not say how to go on: {message}"
        if run := self.subject.run(self.arena):
            [(found,)] = facts.rows(self.arena, "SELECT status FROM runs WHERE run_uuid = ?", run)
            if found != "KILLED":
                yield f"{victim}: MLflow has the run as {found}, expected KILLED"

    def compared(self) -> Iterator[str]:
        try:
            found = self.subject.outcome(self.arena, self.answer)
        except Exception as error:  # of whatever an attack left
            yield f"what is there cannot be read: {type(error).__name__}: {error}"
            return
        yield from facts.differences(self.usual.outcome, found)
        if left := list(facts.rubbish(self.arena.disk)):
            yield f"left behind: {', '.join(left[:5])}"
