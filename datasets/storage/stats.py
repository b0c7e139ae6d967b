"""Counters of a store's reads since it was opened."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field


@dataclass
class StoreStats:
    """Counters of reads. Safe to use from several threads.

    reads: answered reads of objects or ranges. bytes: of these answers. retries: attempts after a failed one. hedges: second
    reads sent after a straggler. hedges_won: those that answered first. healed: reads whose first bytes were wrong.
    """

    reads: int = 0
    bytes: int = 0
    retries: int = 0
    hedges: int = 0
    hedges_won: int = 0
    healed: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def count(self, **more: int) -> None:
        """Adds to the counters of these names."""
        with self._lock:
            for name, number in more.items():
                setattr(self, name, getattr(self, name) + number)

    def __str__(self) -> str:
        problems = {"retried": self.retries, "hedged": self.hedges, "healed": self.healed}
        notes = ", ".join(f"{number} {name}" for name, number in problems.items() if number)
        return f"{self.bytes / 1e6:,.1f} MB in {self.reads:,} reads" + (f" ({notes})" if notes else "")
