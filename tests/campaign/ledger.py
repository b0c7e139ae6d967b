"""The ledger of a campaign: a line for each attack that ended, so that a second call goes on where the first stopped."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.campaign.strikes import SIGNALS, Undisturbed

SIGNALS_AND_SHORTAGES = (*SIGNALS, "full disk", "twin")


class Ledger:
    def __init__(self, out: Path, seed: int) -> None:
        self.out, self.seed, self.path = out, seed, out / "ledger.jsonl"
        self.entries: list[dict[str, Any]] = []
        if self.path.exists():
            lines = self.path.read_bytes().split(b"\n")
            # the last line is incomplete where the campaign itself was killed
            self.entries = [json.loads(line) for line in lines[:-1]]
            self.path.write_bytes(b"\n".join([*lines[:-1], b""]))

    def add(self, entry: Mapping[str, Any]) -> None:
        self.entries.append(dict(entry))
        with self.path.open("ab") as file:
            file.write(json.dumps(entry).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def has(self, number: int, subject: str) -> bool:
        return any((one["seed"], one["number"], one["subject"]) == (self.seed, number, subject) for one in self.entries)

    def of_seed(self) -> list[dict[str, Any]]:
        """The attacks of this seed; of one that was repeated the last entry."""
        newest = {(one["number"], one["subject"]): one for one in self.entries if one["seed"] == self.seed}
        return list(newest.values())

    def num_kills(self) -> int:
        return sum(len(kills_of(entry)) for entry in self.of_seed())

    def undisturbed(self, subject: str) -> Undisturbed | None:
        path = self.file_of(subject)
        return Undisturbed(**json.loads(path.read_text())) if path.exists() else None

    def keep_undisturbed(self, subject: str, usual: Undisturbed) -> Undisturbed:
        path = self.file_of(subject)
        path.parent.mkdir(exist_ok=True)
        temp = path.with_suffix(".tmp")
        temp.write_text(json.dumps(asdict(usual), indent=1))
        temp.rename(path)
        return Undisturbed(**json.loads(path.read_text()))  # as a resumed campaign reads it

    def file_of(self, subject: str) -> Path:
        return self.out / "undisturbed" / f"{subject.replace(' ', '-')}.json"


def kills_of(entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [strike for strike in entry["strikes"] if strike["victim"] not in SIGNALS_AND_SHORTAGES]


def table(entries: Sequence[Mapping[str, Any]]) -> str:
    """A line for each command and victim: strikes, attacks that came out right, and what of them was compared."""
    strikes: Counter[tuple[str, str]] = Counter()
    passed: Counter[tuple[str, str]] = Counter()
    phases: dict[tuple[str, str], list[str]] = {}
    for entry in entries:
        for strike in entry["strikes"]:
            key = entry["subject"], strike["victim"]
            strikes[key] += 1
            passed[key] += not entry["problems"]
            phases.setdefault(key, []).append(strike["phase"])
    lines = [f"{'command':<22}{'struck':<12}{'strikes':>8}{'survived':>10}  when"]
    for key in sorted(strikes):
        when = ", ".join(dict.fromkeys(phases[key]))
        lines.append(f"{key[0]:<22}{key[1]:<12}{strikes[key]:>8}{passed[key]:>10}  {when[:90]}")
    kills = sum(len(kills_of(entry)) for entry in entries)
    failed = sum(bool(entry["problems"]) for entry in entries)
    lines.append(
        f"{len(entries)} attacks, {sum(strikes.values())} strikes, {kills} of them kill -9; {failed} attacks failed"
    )
    return "\n".join(lines)
