"""Ctrl-C or SIGTERM during training: the driver leaves a request in the run's storage, and rank 0 looks for it.

Rank 0's answer is added to a step's collective, so all workers stop after the same step.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from datasets.storage.store import Store
from orchestration.signals import Interruption, first_signal_noted, is_main_thread

REQUEST, LISTENING = "interrupt/request", "interrupt/listening"
POLL_S = 1.0  # of rank 0: a request to the run's storage


class Listener:
    """Rank 0 of a running training: whether the driver asks it to stop."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.next_poll = time.monotonic()
        store.write(LISTENING, b"")

    def is_asked(self) -> bool:
        """Look at the storage at most once in `POLL_S` seconds; between two looks False."""
        if time.monotonic() < self.next_poll:
            return False
        asked = self.store.exists(REQUEST)
        self.next_poll = time.monotonic() + POLL_S
        return asked

    def close(self) -> None:
        self.store.delete(LISTENING)


def forget(store: Store) -> None:
    """Delete what an interrupted attempt left."""
    for path in (REQUEST, LISTENING):
        store.delete(path)


def run_interruptibly(work: Callable[[], None], store: Store, say: Callable[[str], None]) -> None:
    """Run `work`, a training, to its end, in a thread: on the main thread Ray Train would set handlers of its own.

    After the first signal, a training that runs stops after its next step, with a checkpoint. One that has not started is left.
    Called on another thread, `work` runs there, and no signal is handled. Raises: Interruption after a signal; at once after a
    second one.
    """
    if not is_main_thread():
        work()
        return
    thread = threading.Thread(target=work, name="Ray Train", daemon=True)
    with first_signal_noted() as received:
        thread.start()
        while thread.is_alive() and not received:
            thread.join(0.2)
        if thread.is_alive() and store.exists(LISTENING):
            store.write(REQUEST, b"")
            say("stopping after this step, with a checkpoint; a second signal stops at once")
            while thread.is_alive():
                thread.join(0.2)
    if received:
        raise Interruption(received[0], "interrupted")
