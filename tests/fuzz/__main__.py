"""`make fuzz`: many inputs for each target, a table of what came of them, and each failure as a file that repeats it."""

from __future__ import annotations

import argparse
import faulthandler
import hashlib
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase, given

from tests.fuzz.target import judge
from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / "build" / "fuzz"
HANGS_S = 300  # an input that takes longer ends its process; machines are shared
SHOWN = 5  # failures of a target that are described


@dataclass
class Tally:
    """What came of a target's inputs. failures: kind → the first input of it and its description."""

    inputs: int = 0
    accepted: int = 0
    failed: int = 0
    failures: dict[str, tuple[Any, str]] = field(default_factory=dict)

    def add(self, given: Any, error: BaseException) -> None:
        self.failed += 1
        frame = traceback.extract_tb(error.__traceback__)[-1]
        kind = f"{type(error).__name__} {frame.filename}:{frame.lineno}"
        text = "".join(traceback.format_exception(error)[-6:])
        self.failures.setdefault(kind, (given, text))


def draw(name: str, number: int, seed: int, current: Path) -> Tally:
    """Judge inputs of one target in this process. current: the file that holds the input at work."""
    target, tally = TARGETS[name], Tally()
    with tempfile.TemporaryDirectory(prefix="fuzz") as folder:

        @hypothesis.seed(seed)
        @hypothesis.settings(
            max_examples=number,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(target.inputs)
        def one(drawn: Any) -> None:
            current.write_text(json.dumps(drawn))
            faulthandler.dump_traceback_later(HANGS_S, exit=True)
            tally.inputs += 1
            try:
                tally.accepted += judge(target, drawn, Path(folder) / "room")
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # a panic of Rust is no Exception
                tally.add(drawn, error)
            faulthandler.cancel_dump_traceback_later()

        one()
    return tally


def in_process(name: str, number: int, seed: int) -> Tally:
    """As `draw`, in a process that may die: a fork, because imports take longer than thousands of inputs."""
    with tempfile.TemporaryDirectory(prefix="fuzz") as folder:
        current, result, errors = (Path(folder) / name for name in ("current.json", "result.json", "errors.txt"))

        def work() -> None:
            os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT), 2)
            faulthandler.enable()
            result.write_text(json.dumps(vars(draw(name, number, seed, current))))

        process = multiprocessing.get_context("fork").Process(target=work)
        process.start()
        process.join()
        if result.exists():
            return Tally(**json.loads(result.read_text()))
        lost = json.loads(current.read_text()) if current.exists() else None
        told = f"the process ended with status {process.exitcode}\n{errors.read_text()[-2000:]}"
        return Tally(0, 0, 1, {f"death {process.exitcode}": (lost, told)})


def keep(name: str, given: Any) -> Path:
    """Write an input to a file that `--repeat` takes; tests/fuzz/seeds.json keeps it in its target's list."""
    text = json.dumps({"target": name, "input": given})
    KEPT.mkdir(parents=True, exist_ok=True)
    path = KEPT / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}.json"
    path.write_text(text)
    return path


def repeat(path: Path) -> None:
    """Judge the input in a file. Raises: what the judgement raised."""
    kept = json.loads(path.read_text())
    with tempfile.TemporaryDirectory(prefix="fuzz") as folder:
        print("accepted" if judge(TARGETS[kept["target"]], kept["input"], Path(folder) / "room") else "refused")


def fuzz(names: Sequence[str], number: int, seed: int) -> int:
    """Every target with its share of the inputs. Returns the number of failures."""
    share, total = max(1, number // len(names)), 0
    rows = []
    for name in names:
        begun = cpu_of_children()
        tally = in_process(name, share, seed)
        refused = tally.inputs - tally.accepted - tally.failed
        rows.append(
            (name, tally.inputs, tally.accepted, max(0, refused), tally.failed, round(cpu_of_children() - begun))
        )
        total += tally.failed
        for given_, told in list(tally.failures.values())[:SHOWN]:
            path = keep(name, given_).relative_to(ROOT)
            print(f"\n{name}, seed {seed}:\n{told}", flush=True)
            print(f"repeat: {os.path.relpath(sys.executable, ROOT)} -m tests.fuzz --repeat {path}", flush=True)
    print_table(rows)
    print(f"seed {seed}; `make fuzz N={number} SEED={seed}` repeats all")
    return total


def cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def print_table(rows: Sequence[tuple[str, int, int, int, int, int]]) -> None:
    sums = ("all", *(sum(row[column] for row in rows) for column in range(1, 6)))  # type: ignore[misc]
    print()
    print(
        f"{'target':<12}"
        + "".join(f"{title:>10}" for title in ("inputs", "accepted", "refused", "failures", "seconds"))
    )
    for row in (*rows, sums):
        print(f"{row[0]:<12}" + "".join(f"{value:>10}" for value in row[1:]))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", help="names of targets; all if none is given")
    parser.add_argument("--inputs", type=int, default=10_000, help="number of inputs, shared among the targets")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeat", type=Path, metavar="FILE", help="judge the input that a failure was kept as")
    options = parser.parse_args()
    if options.repeat:
        repeat(options.repeat)
        return 0
    if unknown := [name for name in options.targets if name not in TARGETS]:
        parser.error(f"there is no target {unknown[0]}; there are {', '.join(TARGETS)}")
    return 1 if fuzz(options.targets or list(TARGETS), options.inputs, options.seed) else 0


if __name__ == "__main__":
    sys.exit(main())
