"""A lock in the registry, so that of two reviewers who decide at once one wins and the other is told.

An alias is last-write-wins, but of two who create a registered model of one name, one fails. So the lock of NAME is a
registered model NAME.lock-N that carries holder and expiry in tags, made with it in one transaction. Who finds none that is
in force creates the next number: after 3 that expired, number 4. Then it looks again: where another is in force beside its own
(someone who had looked long ago), it gives way. Each of two writes before it looks, so at least one of them sees the other and
never do both hold. Nobody deletes a lock in force but its holder; its holder also deletes the expired ones.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from orchestration.errors import RequestError
from orchestration.tracking.mlflow_filters import quoted

HELD_S = 120.0  # a decision takes a second or two; clocks of reviewers may differ by less than a minute
MARGIN_S = 60.0
HOLDER, EXPIRES, TOKEN = "lock.holder", "lock.expires", "lock.token"
EXPLANATION = "A reviewer is deciding at this moment: this name is a lock of redress, and goes away by itself."


class LockedError(RequestError):
    """Somebody else is deciding about the model now."""


@dataclass(frozen=True)
class Lock:
    """name: the registered name that is the lock. expires: seconds since 1970."""

    name: str
    holder: str
    expires: float
    token: str

    def check(self, now: float | None = None) -> None:
        """Raises: LockedError where so little is left that it may be taken over while its holder works."""
        if self.expires - (time.time() if now is None else now) < MARGIN_S:
            raise LockedError(
                "the decision took so long that its lock ran out: nothing further was changed. Try again."
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
    """Raises: LockedError naming who holds it, and until when."""
    there = locks(client, name)
    raise_if_held(name, active(there))
    number = 1 + max((int(lock.name.rpartition("-")[2]) for lock in there), default=0)
    mine = Lock(f"{name}.lock-{number}", holder, time.time() + held_s, secrets.token_hex(8))
    tags = {HOLDER: holder, EXPIRES: repr(mine.expires), TOKEN: mine.token}
    try:
        client.create_registered_model(mine.name, tags=tags, description=EXPLANATION)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        there = locks(client, name)
        if mine.token not in {
            lock.token for lock in there
        }:  # else it is ours: an answer was lost, and MLflow asked again
            raise_if_held(name, active(there))
            raise LockedError(
                f"{name}: somebody else decided at this very moment. Look at its aliases and try again."
            ) from error
    others = [lock for lock in locks(client, name) if lock.token != mine.token]
    if holders := active(others):
        release(client, mine)
        raise_if_held(name, holders)
    for lock in others:
        delete(client, lock)
    return mine


def release(client: MlflowClient, lock: Lock) -> None:
    """Give it up; where it was taken over meanwhile, it is another's and stays."""
    with suppress(MlflowException):
        if client.get_registered_model(lock.name).tags.get(TOKEN) == lock.token:
            delete(client, lock)


def delete(client: MlflowClient, lock: Lock) -> None:
    with suppress(MlflowException):  # it is gone already
        client.delete_registered_model(lock.name)


def locks(client: MlflowClient, name: str) -> list[Lock]:
    """Every lock of `name` that there is, expired ones too."""
    prefix, found, page = f"{name}.lock-", [], None
    while True:
        listed = client.search_registered_models(f"name LIKE {quoted(f'{prefix}%')}", max_results=100, page_token=page)
        for model in listed:
            if model.name.startswith(prefix) and is_lock(model.tags) and model.name.removeprefix(prefix).isdigit():
                tags = model.tags
                found.append(Lock(model.name, tags[HOLDER], float(tags[EXPIRES]), tags.get(TOKEN, "")))
        if not (page := listed.token):
            return found


def is_lock(tags: dict[str, str]) -> bool:
    return HOLDER in tags and EXPIRES in tags


def active(found: list[Lock]) -> list[Lock]:
    return [lock for lock in found if lock.expires > time.time()]


def raise_if_held(name: str, holders: list[Lock]) -> None:
    """Raises: LockedError where there is one."""
    for lock in holders:
        until = datetime.fromtimestamp(lock.expires, UTC).strftime("%H:%M:%S UTC")
        raise LockedError(
            f"{name}: {lock.holder} is deciding about it now (at most until {until}). Nothing was changed; look at what was "
            f"decided (`redress registry show {name}`) and try again."
        )
