"""A lock in the registry: of two reviewers who decide at once, one proceeds and the other gets an error.

Moving an alias is last-write-wins, but creating a registered model fails for the second of two processes. So the lock of
NAME is a registered model NAME.lock-N, created in one transaction with its holder and expiry in tags. A process that finds
no active lock creates the next number: after an expired 3, number 4. Then it lists the locks again, and releases its own
where another is active beside it (of a process that had listed them long before). Each of two processes writes before it
reads, so at least one of them sees the other, and never do both hold the lock. Only its holder deletes an active lock; the
holder also deletes the others. A lock ends with its process where that can be known, on the same machine, else when it expires.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from orchestration.errors import RequestError
from orchestration.tracking.mlflow_filters import quoted

HELD_S = 120.0  # a decision takes a second or two; clocks of reviewers may differ by less than a minute
MARGIN_S = 60.0
HOLDER, EXPIRES, TOKEN, PROCESS = "lock.holder", "lock.expires", "lock.token", "lock.process"
EXPLANATION = "A lock of redress while a reviewer decides about the model. It is deleted automatically."


class LockedError(RequestError):
    """Another reviewer is deciding about the model."""


@dataclass(frozen=True)
class Lock:
    """name: of the registered model that is the lock. expires: seconds since 1970. process: as `this_process` tells."""

    name: str
    holder: str
    expires: float
    token: str
    process: str = ""

    def check(self, now: float | None = None) -> None:
        """Raises: LockedError within MARGIN_S seconds of the expiry, when another process may soon acquire the lock."""
        if self.expires - (time.time() if now is None else now) < MARGIN_S:
            raise LockedError(
                "the decision took longer than its lock is valid; nothing further was changed. Try again."
            )


@contextmanager
def locked(client: MlflowClient, name: str, holder: str, *, held_s: float = HELD_S) -> Iterator[Lock]:
    """Hold the lock of the registered model `name`. Raises: LockedError naming its holder."""
    lock = acquire(client, name, holder, held_s=held_s)
    try:
        yield lock
    finally:
        release(client, lock)


def acquire(client: MlflowClient, name: str, holder: str, *, held_s: float = HELD_S) -> Lock:
    """Raises: LockedError naming the holder and the expiry."""
    there = locks(client, name)
    raise_if_held(name, active(there))
    number = 1 + max((int(lock.name.rpartition("-")[2]) for lock in there), default=0)
    mine = Lock(f"{name}.lock-{number}", holder, time.time() + held_s, secrets.token_hex(8), this_process())
    tags = {HOLDER: holder, EXPIRES: repr(mine.expires), TOKEN: mine.token, PROCESS: mine.process}
    try:
        client.create_registered_model(mine.name, tags=tags, description=EXPLANATION)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        there = locks(client, name)
        # our token is there where MLflow's client repeated a request whose answer was lost
        if mine.token not in {lock.token for lock in there}:
            raise_if_held(name, active(there))
            raise LockedError(
                f"{name}: another reviewer decided at the same moment. Check its aliases and try again."
            ) from error
    others = [lock for lock in locks(client, name) if lock.token != mine.token]
    if holders := active(others):
        release(client, mine)
        raise_if_held(name, holders)
    for lock in others:
        delete(client, lock)
    return mine


def release(client: MlflowClient, lock: Lock) -> None:
    """Delete the lock, unless it expired and another process holds that name now."""
    with suppress(MlflowException):
        if client.get_registered_model(lock.name).tags.get(TOKEN) == lock.token:
            delete(client, lock)


def delete(client: MlflowClient, lock: Lock) -> None:
    with suppress(MlflowException):  # already deleted
        client.delete_registered_model(lock.name)


def locks(client: MlflowClient, name: str) -> list[Lock]:
    """Every lock of `name`, expired ones included."""
    prefix, found, page = f"{name}.lock-", [], None
    while True:
        listed = client.search_registered_models(f"name LIKE {quoted(f'{prefix}%')}", max_results=100, page_token=page)
        for model in listed:
            if model.name.startswith(prefix) and is_lock(model.tags) and model.name.removeprefix(prefix).isdigit():
                tags = model.tags
                process = tags.get(PROCESS, "")
                found.append(Lock(model.name, tags[HOLDER], float(tags[EXPIRES]), tags.get(TOKEN, ""), process))
        if not (page := listed.token):
            return found


def is_lock(tags: dict[str, str]) -> bool:
    return HOLDER in tags and EXPIRES in tags


def active(found: list[Lock]) -> list[Lock]:
    return [lock for lock in found if lock.expires > time.time() and not is_known_dead(lock.process)]


def this_process() -> str:
    """The words machine, id and start: the boot of this machine and the namespace in which the process has its id, the id,
    and its start in ticks since the boot. Empty on a system that does not tell these."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = Path("/proc/self/ns/pid").readlink()
    except OSError:
        return ""
    return f"{boot},{namespace} {os.getpid()} {started(os.getpid())}"


def started(number: int) -> str:
    """Ticks from the boot to the start of a process, which no change of the clock alters; "" where that is not told."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def is_known_dead(process: str) -> bool:
    """Whether a process of this machine, as `this_process` told it, has ended. Of another machine's nothing is known."""
    machine, _, rest = process.partition(" ")
    number, _, since = rest.partition(" ")
    if machine != this_process().partition(" ")[0] or not number.isdigit():
        return False
    try:
        os.kill(int(number), 0)  # /proc may hide what belongs to others
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return started(int(number)) not in ("", since)


def raise_if_held(name: str, holders: list[Lock]) -> None:
    """Raises: LockedError where there is a holder."""
    for lock in holders:
        until = datetime.fromtimestamp(lock.expires, UTC).strftime("%H:%M:%S UTC")
        raise LockedError(
            f"{name}: locked by {lock.holder}, who is deciding about it (at most until {until}). Nothing was changed. Check "
            f"the decision with `redress registry show {name}`, then try again."
        )
