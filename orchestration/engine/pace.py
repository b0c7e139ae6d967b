"""Which worker is the slowest: the seconds of each worker's last step without those in which it waited for the others."""

from __future__ import annotations

from methods.distributed import waited_s

PACE = "pace/"  # a worker's own seconds, in its place of what travels with the step's mean


class Pace:
    """Of one worker. The others learn of a step with the mean of the next one, so nothing is communicated for it.

    On a GPU a collective does not block its worker: what differs there is what comes before, reading above all. Under fsdp and
    zero, collectives inside the backward pass count as a worker's own seconds.
    """

    def __init__(self, rank: int, workers: int) -> None:
        self.rank, self.workers = rank, workers
        self.own_s, self.wait_s = 0.0, 0.0
        self.waited_before = waited_s()

    def asides(self) -> dict[str, float]:
        """To be averaged over the workers with the step's other numbers."""
        if self.workers == 1:
            return {}
        return {f"{PACE}{rank}": self.own_s if rank == self.rank else 0.0 for rank in range(self.workers)}

    def finish(self, seconds: float) -> None:
        """A step took so many seconds."""
        waited = waited_s()
        self.wait_s, self.waited_before = waited - self.waited_before, waited
        self.own_s = seconds - self.wait_s

    def metrics(self, logs: dict[str, float]) -> dict[str, float]:
        """What the means of the asides tell, which are taken out of `logs`. Of a group's first step they tell nothing."""
        own = [logs.pop(f"{PACE}{rank}") * self.workers for rank in range(self.workers if self.workers > 1 else 0)]
        if not any(own):
            return {}
        slowest = max(own)
        return {
            "speed/slowest-rank": float(own.index(slowest)),
            "speed/slowest-step-s": slowest,
            "speed/mean-step-s": sum(own) / len(own),
            "speed/group-wait-s": self.wait_s,
        }
