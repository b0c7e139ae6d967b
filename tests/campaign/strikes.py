"""A strike: whom it hits and at which moment. Drawn from a seed; the moments of a command are those of its undisturbed run."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import psutil

from tests.campaign.arena import Arena
from tests.campaign.command import TITLES, Running, kill, send
from tests.campaign.subjects import SUBJECTS, Subject

SIGNALS = {"Ctrl-C": signal.SIGINT, "SIGTERM": signal.SIGTERM, "SIGTERM to all": signal.SIGTERM}
POLL_S = 0.01
FEW = 0.25  # of the strikes on a run come before its first step


@dataclass(frozen=True)
class Strike:
    """victim: driver, tree, worker, controller, raylet, gcs; Ctrl-C, SIGTERM, SIGTERM to all processes at once, as Slurm
    ends a job; full disk; twin (a second process).

    when: "write" (the command's own writes are counted), "step" (its progress), "start" (seconds after Ray is there),
    "checkpoint" (while one is written, after so much progress) or "disk" (a fraction of the space that it needs).
    """

    victim: str
    when: str
    at: float
    delay_s: float = 0.0
    chosen: int = 0  # among several workers

    def plain(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Attack:
    number: int
    subject: str
    strikes: tuple[Strike, ...]


@dataclass(frozen=True)
class Undisturbed:
    """What an undisturbed command does. writes, progress: how many. disk_bytes: what it adds to its disk."""

    writes: int
    progress: int
    disk_bytes: int
    seconds: float
    outcome: dict[str, Any]


Measure = Callable[[Subject], Undisturbed]


def kills(subject: Subject) -> list[tuple[str, ...]]:
    """The victims of attacks that kill, each hit in turn while the command is given again and again."""
    if subject.name.startswith("train"):
        return [("worker", "controller", "driver", "tree"), ("worker", "raylet", "gcs", "driver at its end")]
    if subject.worker:
        return [("worker", "tree"), ("raylet", "driver")]
    return [("driver", "driver", "tree"), ("driver", "driver")]


OTHERS = (("Ctrl-C",), ("SIGTERM",), ("full disk",), ("twin",))
OF_RAY = (("SIGTERM to all",),)  # elsewhere the command is the only process


def plan(seed: int, measure: Measure, only: list[str]) -> Iterator[Attack]:
    """Attacks without end, in rounds: first all that kill, then the others, each time in another order."""
    subjects = [subject for subject in SUBJECTS.values() if not only or subject.name.startswith(tuple(only))]
    number = 0
    for turn in range(1_000_000):
        rng = random.Random(f"{seed} {turn}")
        killing = [(subject.name, victims) for subject in subjects for victims in kills(subject)]
        others = [(one.name, victims) for one in subjects for victims in (*OTHERS, *(OF_RAY if one.worker else ()))]
        rng.shuffle(killing)
        rng.shuffle(others)
        for name, victims in (*killing, *others):
            yield attack(seed, number, name, victims, measure)
            number += 1


def attack(seed: int, number: int, name: str, victims: tuple[str, ...], measure: Measure) -> Attack:
    rng = random.Random(f"{seed} {number} {name}")
    subject = SUBJECTS[name]
    usual = measure(subject)
    strikes = [draw(rng, subject, victim, usual) for victim in victims]
    is_late = [strike.when == "write" for strike in strikes]
    ordered = sorted(strikes, key=lambda s: (is_late[strikes.index(s)], s.when != "start", s.at))
    return Attack(number, name, tuple(ordered))


def draw(rng: random.Random, subject: Subject, victim: str, usual: Undisturbed) -> Strike:
    chosen = rng.randrange(8)
    if victim == "full disk":
        return Strike(victim, "disk", round(rng.uniform(0.1, 0.9), 3))
    if subject.progress is None or victim == "driver at its end" or (victim in SIGNALS and rng.random() < 0.5):
        delay_s = rng.choice([0.0, round(rng.uniform(0, 0.03), 4)])
        # the last writes are those of the end: evaluation, pictures, registration
        first = usual.writes // 4 if victim == "driver at its end" else 1
        return Strike(victim.removesuffix(" at its end"), "write", rng.randint(max(1, first), usual.writes), delay_s)
    if rng.random() < FEW:
        return Strike(victim, "start", round(rng.uniform(0, 8), 2), chosen=chosen)
    step = rng.randint(1, max(1, usual.progress - 1))
    is_checkpoint = subject.name.startswith("train") and rng.random() < 0.4
    return Strike(victim, "checkpoint" if is_checkpoint else "step", step, chosen=chosen)


def is_moment(strike: Strike, subject: Subject, arena: Arena, running: Running, since: dict[str, float]) -> bool:
    """Whether the moment of a strike from outside has come. since: keeps when Ray was seen."""
    if strike.when == "write":
        return running.num_writes() >= strike.at
    if strike.when == "start":
        if "ray" not in since and running.find(TITLES["raylet"]):
            since["ray"] = time.monotonic()
        return "ray" in since and time.monotonic() - since["ray"] >= strike.at
    assert subject.progress is not None
    if subject.progress(arena) < strike.at:
        return False
    return strike.when == "step" or any(arena.runs.glob("*/checkpoints/*/.*.tmp"))


def hit(strike: Strike, subject: Subject, running: Running) -> str | None:
    """Strike from outside; returns what was hit, or None if there is no such process now."""
    if strike.victim in SIGNALS:
        processes = running.look() if strike.victim == "SIGTERM to all" else [psutil.Process(running.popen.pid)]
        send(processes, SIGNALS[strike.victim])
        return f"{len(processes)} processes"
    if strike.victim in ("driver", "tree"):
        processes = running.look()
        kill(processes if strike.victim == "tree" else [p for p in processes if p.pid == running.popen.pid])
        return f"{len(processes)} processes" if strike.victim == "tree" else "driver"
    pattern = subject.worker if strike.victim == "worker" else TITLES[strike.victim]
    found = running.find(str(pattern))
    if not found:
        return None
    one = found[strike.chosen % len(found)]
    kill([one])
    return f"{strike.victim} {strike.chosen % len(found) + 1} of {len(found)}"


def from_within(strike: Strike) -> Mapping[str, Any] | None:
    """What `launch` does for a strike at one of the command's writes."""
    if strike.when != "write" or strike.victim == "twin":
        return None
    number, is_all = SIGNALS.get(strike.victim, signal.SIGKILL), strike.victim in ("tree", "SIGTERM to all")
    return {"write": int(strike.at), "delay_s": strike.delay_s, "signal": int(number), "tree": is_all}
