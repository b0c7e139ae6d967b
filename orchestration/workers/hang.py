"""Training that stands still: the report of each rank, whom they point to, and the sentence that the driver says.

In the run's storage `hang/<start>/<rank>.txt` holds a rank's stacks, `<rank>.json` its report, and `hang.json` the last
summary.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field

from datasets.storage.store import Store, StoreError

FOLDER, SUMMARY = "hang", "hang.json"
EXIT_STATUS = 70  # of a worker that ended its group


@dataclass(frozen=True)
class Report:
    """One rank of a group that stands still.

    by: the rank that read this one's stack, None for itself. trouble: why nobody could. collectives: of each process group the
    number of collectives that this rank has entered.
    """

    rank: int
    host: str
    pid: int
    step: int
    phase: str
    where: str
    by: int | None = None
    trouble: str = ""
    collectives: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Summary:
    """attempt: the start of the group that stood still. step: the number of finished steps. ranks: those waited for."""

    attempt: str
    step: int
    ranks: list[int]
    message: str


def write(store: Store, attempt: str, report: Report, text: str) -> None:
    folder = f"{FOLDER}/{attempt}/{report.rank}"
    store.write(f"{folder}.txt", f"{told(report)}\n\n{text}".encode())
    store.write(f"{folder}.json", json.dumps(asdict(report)).encode())


def read(store: Store, attempt: str) -> dict[int, Report]:
    names = [name for name in store.children(f"{FOLDER}/{attempt}") if name.endswith(".json")]
    reports = (Report(**json.loads(store.read(f"{FOLDER}/{attempt}/{name}"))) for name in names)
    return {report.rank: report for report in reports}


def read_summary(store: Store) -> Summary | None:
    """Of the last hang of a run; None where there was none."""
    return Summary(**json.loads(store.read(SUMMARY))) if store.exists(SUMMARY) else None


def summarise(attempt: str, reports: Mapping[int, Report], workers: int, seconds: float, place: str) -> Summary:
    """seconds: without progress. place: the address of the stacks."""
    ranks = culprits(reports, workers)
    step = max((report.step for report in reports.values()), default=0)
    held = [told(reports[rank]) if rank in reports else f"rank {rank} does not answer" for rank in ranks]
    waiting = by_place(report for rank, report in reports.items() if rank not in ranks)
    parts = [
        f"training stood still for {seconds:.0f} s after {step} steps",
        "; ".join(held) or "no rank is behind the others",
    ]
    if waiting:
        parts.append(
            "; ".join(f"{names(them)} {'wait' if len(them) > 1 else 'waits'} at {at}" for at, them in waiting.items())
        )
    return Summary(attempt, step, ranks, f"{': '.join(parts[:2])}. {'. '.join([*parts[2:], f'Stacks: {place}'])}")


def culprits(reports: Mapping[int, Report], workers: int) -> list[int]:
    """The ranks that the others wait for: those that could not report themselves; else those that have entered fewer
    collectives of a group; else those of the fewest steps. None where all are equally far."""
    absent = [rank for rank in range(workers) if rank not in reports or reports[rank].by is not None]
    if absent or workers == 1:
        return absent or [0]
    most: dict[str, int] = defaultdict(int)
    for report in reports.values():
        for group, entered in report.collectives.items():
            most[group] = max(most[group], entered)
    behind = [r for r, report in reports.items() if any(report.collectives.get(g, 0) < n for g, n in most.items())]
    last = max(report.step for report in reports.values())
    return sorted(behind or [rank for rank, report in reports.items() if report.step < last])


def told(report: Report) -> str:
    spied = report.by is not None
    stands, phase = ("its process does not run", f"last heard {report.phase}") if spied else ("it stands", report.phase)
    at = f"{stands}, at {report.where}" if report.where else f"{stands}; no stack: {report.trouble}"
    return f"rank {report.rank} on {report.host} (process {report.pid}, {phase}): {at}"


def by_place(reports: Iterable[Report]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for report in reports:
        found[report.where].append(report.rank)
    return found


def names(ranks: list[int]) -> str:
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, sorted(ranks)))}"


class Hangs:
    """The hangs of a run from now on, as the driver learns of them."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.messages: list[str] = []
        earlier = read_summary(store)
        self.last = earlier.attempt if earlier else ""

    def look(self) -> str | None:
        """What stood still since the last look; None where nothing did, or storage does not answer."""
        try:
            found = read_summary(self.store)
        except StoreError:
            return None
        if found is None or found.attempt == self.last:
            return None
        self.last = found.attempt
        self.messages.append(found.message)
        return found.message
