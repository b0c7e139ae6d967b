"""`make campaign`: commands are killed, interrupted and starved of disk at seeded moments, until so many were killed.

After each attack the same command is given again, and must end as an undisturbed one: the same bits of the model, each step
once in MLflow, one registered version, the same files, no process, no temporary file. The ledger in the folder keeps what
ended; a second call goes on from there.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from tests.campaign.arena import ROOT, Arena, furnish
from tests.campaign.command import Running, kill, using
from tests.campaign.ledger import Ledger, table
from tests.campaign.perform import Performance, undisturbed
from tests.campaign.strikes import Attack, Strike, Undisturbed, plan
from tests.campaign.subjects import NAME, SUBJECTS, Subject, run_folder

OUT = ROOT / "build" / "campaign"


class Campaign:
    """Attacks in one arena, kept in one ledger."""

    def __init__(self, out: Path, seed: int) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.out, self.arena, self.ledger = out, Arena(out.resolve()), Ledger(out, seed)

    def measure(self, subject: Subject) -> Undisturbed:
        """The undisturbed command's outcome; it is run once in a campaign, and its place of work may be another's ground."""
        if found := self.ledger.undisturbed(subject.name):
            return found
        self.prepare(subject.ground)
        say(f"undisturbed: {subject.name}")
        usual = undisturbed(subject, self.arena)
        if any(other.ground == subject.name for other in SUBJECTS.values()) and not self.arena.has(subject.name):
            self.arena.keep(subject.name)
        return self.ledger.keep_undisturbed(subject.name, usual)

    def prepare(self, ground: str) -> None:
        if self.arena.has(ground):
            return
        if ground == "base":
            say("preparing data sets")
            furnish(self.arena)
        elif ground == "compared":
            self.compare()
        else:
            self.measure(SUBJECTS[ground])
            if not self.arena.has(ground):
                self.ledger.file_of(ground).unlink()
                self.measure(SUBJECTS[ground])

    def compare(self) -> None:
        """Two registered versions: a champion, and a candidate with evidence."""
        self.prepare("train baseline")
        say("preparing a champion and a candidate")
        self.arena.restore("train baseline")
        run = run_folder(self.arena)
        assert run is not None
        name, last = f"models:/{NAME}/1", ["--by", "campaign", "--override", "preparing"]
        self.do("registry", "register", run.name, NAME)
        self.do("registry", "compare", name, "--by", "campaign")
        self.do("registry", "promote", name, *last)
        self.do("train", "baseline-demo", *self.shorter(run))
        self.do("registry", "compare", f"models:/{NAME}/2", "--by", "campaign")
        self.arena.keep("compared")

    def shorter(self, run: Path) -> list[str]:
        words = SUBJECTS["train baseline"].words(self.arena)[2:]
        kept = [word for word in words if not word.startswith(("epochs=", "seed="))]
        return [*kept, "epochs=1", "seed=4", f"register={NAME}"]

    def do(self, *words: str) -> None:
        running = Running(self.arena, words, "preparation")
        status = running.wait()
        if status != 0:
            raise RuntimeError(f"redress {' '.join(words)} ended with {status}: {running.tail()}")

    def attack(self, one: Attack) -> list[str]:
        """Perform an attack that is not in the ledger; returns what was wrong."""
        begun = time.monotonic()
        report = Performance(one, SUBJECTS[one.subject], self.arena, self.measure(SUBJECTS[one.subject])).run()
        folder = ""
        if report.problems:
            folder = self.keep_failed(one)
        entry = {
            "seed": self.ledger.seed,
            "number": one.number,
            "subject": one.subject,
            "drawn": [strike.plain() for strike in one.strikes],
            "strikes": report.strikes,
            "problems": report.problems,
            "commands": report.commands,
            "seconds": round(time.monotonic() - begun, 1),
            "folder": folder,
        }
        self.ledger.add(entry)
        say(line(entry, self.ledger.num_kills()))
        for problem in report.problems:
            say(f"     {problem}")
        return report.problems

    def keep_failed(self, one: Attack) -> str:
        target = self.out / "failed" / f"{self.ledger.seed}-{one.number}-{one.subject.replace(' ', '-')}"
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(exist_ok=True)
        shutil.copytree(self.arena.work, target, symlinks=True)
        logs = self.arena.temporary / "ray"
        if logs.is_dir():
            shutil.copytree(logs, target / "ray", symlinks=True, ignore=lambda folder, names: {"sockets"} & set(names))
        return str(target)


def line(entry: Mapping[str, Any], kills: int) -> str:
    """One attack, as it is reported while the campaign runs."""
    told = "; ".join(f"{s['victim']} ({s['phase']}) → {s.get('status', 'went on')}" for s in entry["strikes"])
    came_out = "FAILED" if entry["problems"] else "ok"
    end = f"{came_out}, {entry['seconds']} s, {kills} kills"
    return f"{entry['number']:>4} {entry['subject']}: {told or 'nothing struck'}: {end}"


def campaign(
    out: Path, seed: int, kills: int, only: Sequence[str], until: float | None = None, repeat: int | None = None
) -> int:
    """Attack until so many processes were killed, or the time is up; returns the number of attacks that failed.

    repeat: the number of an attack in the ledger that is made again, and no other.
    """
    work = Campaign(out, seed)
    try:
        attacks = plan(seed, work.measure, list(only)) if repeat is None else ()
        for entry in work.ledger.of_seed() if repeat is not None else ():
            if entry["number"] == repeat:
                work.attack(Attack(entry["number"], entry["subject"], tuple(Strike(**one) for one in entry["drawn"])))
        for one in attacks:
            if work.ledger.num_kills() >= kills or (until is not None and time.time() > until):
                break
            if not work.ledger.has(one.number, one.subject):
                work.attack(one)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        kill([*using(work.arena.work), *using(work.arena.temporary)])  # of an attack that was interrupted
        work.arena.close()
    entries = work.ledger.of_seed()
    print(f"\n{table(entries)}")
    for entry in entries:
        if entry["problems"]:
            print(f"FAILED seed {seed}, attack {entry['number']}, {entry['subject']}: {entry['problems'][0]}")
            print(
                f"  {entry['folder']}; `python -m tests.campaign --seed {seed} --repeat {entry['number']}` repeats it"
            )
    return sum(bool(entry["problems"]) for entry in entries)


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> int:
    signal.signal(signal.SIGTERM, interrupt)  # the command at work ends with the campaign
    parser = argparse.ArgumentParser(prog="python -m tests.campaign", description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="number of processes to kill (default: 100)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the campaign (default: build/campaign)")
    parser.add_argument("--only", action="append", default=[], metavar="COMMAND", help="attack these commands alone")
    parser.add_argument("--minutes", type=float, help="begin no attack after so many minutes")
    parser.add_argument(
        "--repeat", type=int, metavar="ATTACK", help="make this attack of the ledger again, and no other"
    )
    options = parser.parse_args()
    until = time.time() + 60 * options.minutes if options.minutes else None
    try:
        return 1 if campaign(options.out, options.seed, options.kills, options.only, until, options.repeat) else 0
    except KeyboardInterrupt:
        say("interrupted: the same line goes on with the attack that was at work")
        return 130


if __name__ == "__main__":
    sys.exit(main())
