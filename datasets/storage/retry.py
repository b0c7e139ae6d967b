"""Bounded retries: full jitter, a maximum number of attempts, a deadline for each attempt and one for all together."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")
_jitter = random.SystemRandom()  # never the global state: a training's draws must not depend on the network


@dataclass(frozen=True)
class Retry:
    """The number of attempts and their deadlines. The wait before attempt n+1 is uniform in [0, min(cap_s, base_s · 2ⁿ)].

    attempts: at most. deadline_s: seconds for all attempts together. An attempt to read n bytes may take
    attempt_s + n / slowest seconds: a slower connection is abandoned for a new one.
    """

    attempts: int = 6
    base_s: float = 0.25
    cap_s: float = 8.0
    deadline_s: float = 60.0
    attempt_s: float = 20.0
    slowest: int = 256 << 10  # bytes per second

    def limit_s(self, num_bytes: int) -> float:
        """Seconds after which an attempt to read num_bytes has failed."""
        return self.attempt_s + num_bytes / self.slowest

    def call(self, operation: Callable[[], T], is_retryable: Callable[[OSError], bool]) -> T:
        """Returns operation()'s result.

        Raises: GaveUp from the last error when attempts or time are used up, or when the error is not retryable.
        """
        start = time.monotonic()
        attempt = 0
        while True:
            attempt += 1
            try:
                return operation()
            except OSError as error:
                wait = _jitter.uniform(0, min(self.cap_s, self.base_s * 2 ** (attempt - 1)))
                elapsed = time.monotonic() - start
                if not is_retryable(error) or attempt >= self.attempts or elapsed + wait > self.deadline_s:
                    raise GaveUp(error, attempt, elapsed) from error
            time.sleep(wait)


class GaveUp(Exception):  # noqa: N818
    """The last error, the number of attempts and the seconds they took; the caller words the message."""

    def __init__(self, error: OSError, attempts: int, elapsed_s: float) -> None:
        super().__init__(str(error))
        self.error, self.attempts, self.elapsed_s = error, attempts, elapsed_s
