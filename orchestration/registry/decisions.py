"""A reviewer's decisions: promote, reject, roll back. Each is made under the model's lock and recorded in tags.

Tag `decision.N` of the registered model is the N-th decision as JSON: what, version, who, when, why, evidence, and the
aliases before and after, which is all that a rollback needs. The tags `decision…` of a version describe the last decision
about it. The record is written before the aliases move: a process that dies in between leaves an unfinished decision, never
a champion without a recorded reason. Repeating the same command completes an interrupted decision.
"""

from __future__ import annotations

import getpass
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote, urlsplit

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.utils.credentials import read_mlflow_creds

from orchestration.errors import RequestError, ServiceUnavailableError, first_line
from orchestration.registry import gate
from orchestration.registry.lock import Lock, locked
from orchestration.registry.versions import (
    CANDIDATE,
    CHAMPION,
    PREVIOUS,
    Aliases,
    aliases,
    check_exists,
    find,
    registered,
    uri,
)
from orchestration.tracking import mlflow_client

EVIDENCE = "review.evidence"
RECORD = "decision."
REASON_LIMIT, NAME_LIMIT = 1000, 200  # characters; a registered model's tag holds 5000, and the record needs both


@dataclass(frozen=True)
class Verdict:
    """What a reviewer decides about a version. overridden: names of failed checks. undoes: the decision to roll back."""

    what: str
    who: str
    why: str
    overridden: list[str] = field(default_factory=list)
    undoes: int | None = None


@dataclass(frozen=True)
class Decision:
    """The record of a decision about `version`.

    when: ISO 8601, UTC. evidence: the review page's artifact path, "" where there is none. undoes: the number of the
    decision that a rollback undoes.
    """

    number: int
    what: str
    version: str
    who: str
    when: str
    why: str
    evidence: str
    overridden: list[str]
    before: Aliases
    after: Aliases
    undoes: int | None = None


def promote(
    model: str, *, override: str | None = None, who: str | None = None, tracking_uri: str | None = None
) -> dict[str, Any]:
    """Make a version the champion if its evidence passes the gate, or with the reason `override` if it does not.

    Raises: RequestError without evidence against the current champion, or where the gate is not passed.
    """
    client = mlflow_client.connect(tracking_uri, create=False)
    version = find(client, model)
    evidence_of(version)
    with locked(client, version.name, who := reviewer(who, client.tracking_uri)) as lock:
        number = str(version.version)
        version = client.get_model_version(
            version.name, number
        )  # read again: another reviewer may have decided meanwhile
        evidence, before = evidence_of(version), aliases(client, version.name)
        unfinished = interrupted(decisions(client, version.name), before)
        if unfinished and unfinished.what == "promoted" and unfinished.version == before[CHAMPION] == number:
            return resume_decision(client, lock, version.name, unfinished, before)
        check_fresh(version, evidence, before[CHAMPION])
        failed = [check for check in gate.run_checks(evidence, gate.gate_of(client, version.name)) if not check.passed]
        if version.tags.get("decision") == "rejected":
            failed.append(gate.Check("not rejected", False, describe_last(version.tags)))
        if failed and not override:
            listed = "\n".join(f"  {check.name}: {check.text}" for check in failed)
            raise RequestError(
                f"{uri(version)} does not pass the gate:\n{listed}\n"
                "Reject the version, or promote it despite the gate with --override REASON, which is recorded."
            )
        why = check_reason(override) if failed and override else "passes the gate"
        candidate = None if before[CANDIDATE] == number else before[CANDIDATE]
        after: Aliases = {CANDIDATE: candidate, CHAMPION: number, PREVIOUS: before[CHAMPION]}
        verdict = Verdict("promoted", who, why, overridden=[check.name for check in failed])
        return decide(client, lock, version, verdict, before, after)


def reject(model: str, reason: str, *, who: str | None = None, tracking_uri: str | None = None) -> dict[str, Any]:
    """Reject a version and remove the alias `candidate` from it. Raises: RequestError where it is the champion."""
    client = mlflow_client.connect(tracking_uri, create=False)
    version = find(client, model)
    with locked(client, version.name, who := reviewer(who, client.tracking_uri)) as lock:
        before = aliases(client, version.name)
        if before[CHAMPION] == str(version.version):
            raise RequestError(
                f"{uri(version)} is the champion. `redress registry rollback {version.name} --reason …` undoes its promotion."
            )
        kept = None if before[CANDIDATE] == str(version.version) else before[CANDIDATE]
        verdict = Verdict("rejected", who, check_reason(reason))
        return decide(client, lock, version, verdict, before, before | {CANDIDATE: kept})


def rollback(name: str, reason: str, *, who: str | None = None, tracking_uri: str | None = None) -> dict[str, Any]:
    """Undo the last decision about the registered model that is not undone yet: restore the aliases from before it.

    A candidate registered since then stays. Raises: RequestError where there is no such decision, or aliases were moved by
    hand.
    """
    client = mlflow_client.connect(tracking_uri, create=False)
    name = name.removeprefix("models:/").partition("@")[0].partition("/")[0]
    with locked(client, name, who := reviewer(who, client.tracking_uri)) as lock:
        made, now = decisions(client, name), aliases(client, name)
        unfinished = interrupted(made, now)
        if unfinished and unfinished.undoes:
            return resume_decision(client, lock, name, unfinished, now)
        undone = {one.undoes for one in made if one.undoes}
        standing = [one for one in made if one.undoes is None and one.number not in undone]
        if not standing:
            raise RequestError(
                f"{name}: there is no decision to roll back. `redress registry show {name}` lists all decisions."
            )
        last = standing[-1]
        # an interrupted decision may have moved some aliases, or none
        known = {alias: (last.after[alias], last.before[alias]) for alias in (CHAMPION, PREVIOUS)}
        if moved := [alias for alias, numbers in known.items() if now[alias] not in numbers]:
            raise RequestError(
                f"{name}: since decision {last.number} ({last.what} version {last.version}) the alias {moved[0]} was moved by "
                f"hand from {last.after[moved[0]]} to {now[moved[0]]}. Set it back in MLflow, then roll back."
            )
        after = last.before | {CANDIDATE: now[CANDIDATE] or last.before[CANDIDATE]}
        for alias, number in after.items():
            check_exists(client, name, alias, number)
        version = client.get_model_version(name, last.version)
        verdict = Verdict(f"{last.what}: rolled back", who, check_reason(reason), undoes=last.number)
        return decide(client, lock, version, verdict, now, after)


def decide(
    client: MlflowClient, lock: Lock, version: ModelVersion, verdict: Verdict, before: Aliases, after: Aliases
) -> dict[str, Any]:
    """Record a decision, then apply it; returns the command's answer. The same one that was interrupted is completed."""
    made = decisions(client, version.name)
    if (unfinished := interrupted(made, before)) and is_same(unfinished, version, verdict):
        return resume_decision(client, lock, version.name, unfinished, before)
    decision = Decision(
        number=1 + max((one.number for one in made), default=0),
        what=verdict.what,
        version=str(version.version),
        who=verdict.who,
        when=datetime.now(UTC).isoformat(timespec="seconds"),
        why=verdict.why,
        evidence=version.tags.get("review.page", ""),
        overridden=verdict.overridden,
        before=before,
        after=after,
        undoes=verdict.undoes,
    )
    record = json.dumps(
        asdict(decision), ensure_ascii=False
    )  # with escapes, some languages would exceed the limit of a tag
    lock.check()
    with report_interruption(version.name):
        client.set_registered_model_tag(version.name, f"{RECORD}{decision.number:04d}", record)
    return resume_decision(client, lock, version.name, decision, before)


def is_same(decision: Decision, version: ModelVersion, verdict: Verdict) -> bool:
    return decision.version == str(version.version) and asdict(verdict).items() <= asdict(decision).items()


def resume_decision(client: MlflowClient, lock: Lock, name: str, decision: Decision, now: Aliases) -> dict[str, Any]:
    """Apply a recorded decision: write the version's tags and move the aliases that are not moved yet."""
    tags = {"": decision.what, ".by": decision.who, ".at": decision.when, ".why": decision.why}
    tags |= {".evidence": decision.evidence, ".overrides": ", ".join(decision.overridden)}
    with report_interruption(name):
        for key, value in tags.items():
            client.set_model_version_tag(name, decision.version, f"decision{key}", value)
        for alias in (PREVIOUS, CHAMPION, CANDIDATE):
            number = decision.after[alias]
            if number == now[alias] or (alias == CANDIDATE and now[alias] != decision.before[alias]):
                continue  # a candidate registered since then stays
            lock.check()
            if number is not None:
                client.set_registered_model_alias(name, alias, number)
            else:
                client.delete_registered_model_alias(name, alias)
    return {
        "name": name,
        "model": f"models:/{name}/{decision.version}",
        "decision": asdict(decision),
        "aliases": {alias: number for alias, number in decision.after.items() if number is not None},
    }


@contextmanager
def report_interruption(name: str) -> Iterator[None]:
    """Raises: ServiceUnavailableError where MLflow fails inside the block."""
    try:
        yield
    except MlflowException as error:
        raise ServiceUnavailableError(
            f"{name}: MLflow failed while the decision was written and may have stored only a part of it: "
            f"{first_line(error)}. Repeat the same command when MLflow is available: it completes the decision."
        ) from error


def interrupted(made: list[Decision], now: Aliases) -> Decision | None:
    """The last decision if some aliases are still as before it; None if it is complete or aliases were moved since."""
    if not made:
        return None
    last, settled = made[-1], (CHAMPION, PREVIOUS)
    if any(now[alias] not in (last.before[alias], last.after[alias]) for alias in settled):
        return None
    was, becomes = last.before[CANDIDATE], last.after[CANDIDATE]
    lacks_candidate = was != becomes and now[CANDIDATE] == was
    return last if lacks_candidate or any(now[alias] != last.after[alias] for alias in settled) else None


def decisions(client: MlflowClient, name: str) -> list[Decision]:
    """Every decision about a registered model, oldest first. Raises: RequestError where there is no such model."""
    tags = registered(client, name).tags
    records = sorted(key for key in tags if key.startswith(RECORD))
    return [Decision(**json.loads(tags[key])) for key in records]


def evidence_of(version: ModelVersion) -> dict[str, Any]:
    """The evidence that a comparison left in the version's tags. Raises: RequestError where there is none."""
    if text := version.tags.get(EVIDENCE):
        return dict(json.loads(text))
    raise RequestError(
        f"{uri(version)} has no evidence: it was not compared with the champion. "
        f"Compare it first: redress registry compare {uri(version)}"
    )


def check_fresh(version: ModelVersion, evidence: dict[str, Any], champion: str | None) -> None:
    """Check that the evidence is against the current champion. Raises: RequestError."""
    if champion == str(version.version):
        raise RequestError(f"{uri(version)} is the champion already ({describe_last(version.tags)}).")
    if evidence["against"] != champion:
        compared = f"version {evidence['against']}" if evidence["against"] else "no champion"
        now = f"version {champion} is the champion now" if champion else "there is no champion now"
        raise RequestError(
            f"{uri(version)} was compared with {compared}, and {now}. The evidence is out of date; nothing was changed. "
            f"Compare again: redress registry compare {uri(version)}"
        )


def check_reason(reason: str) -> str:
    """The reason, stripped. Raises: RequestError where it is empty or too long for a tag."""
    reason = reason.strip()
    if not reason or len(reason) > REASON_LIMIT:
        raise RequestError(
            f"a decision needs a reason of 1 to {REASON_LIMIT} characters; the given one has {len(reason)}."
        )
    return reason


def describe_last(tags: dict[str, str]) -> str:
    """The last decision about a version, as a phrase."""
    if "decision" not in tags:
        return "no decision is recorded"
    return f"{tags['decision']} by {tags['decision.by']} at {tags['decision.at']}: {tags['decision.why']}"


def reviewer(name: str | None, tracking_uri: str) -> str:
    """The reviewer's name: that of the user at MLflow's server where one is logged in, else `name`, else the local user's.

    Raises: RequestError where `name` is not the one logged in, there is none, or it is empty, too long for a tag or not
    printable.
    """
    user = logged_in(tracking_uri)
    if user and name and name.strip() != user:
        raise RequestError(
            f"decisions are recorded under the MLflow user {user!r}, and --by is {name.strip()[:40]!r}. Leave out --by, or "
            "log in as that user (MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD)."
        )
    try:
        found = (user or name or getpass.getuser()).strip()
    except (OSError, KeyError):
        raise RequestError("the reviewer is unknown: the local user has no name. Set it with --by NAME.") from None
    if not found or len(found) > NAME_LIMIT or not found.isprintable():
        raise RequestError(
            f"expected a reviewer's name of 1 to {NAME_LIMIT} printable characters; got {len(found)}: {found[:40]!r}…. "
            "Set another with --by NAME."
        )
    return found


def logged_in(tracking_uri: str) -> str | None:
    """The name that requests to MLflow's server carry with a password; None without a server or a name."""
    address = urlsplit(tracking_uri)
    if address.scheme not in ("http", "https"):
        return None
    return unquote(address.username or "") or read_mlflow_creds().username or None
