"""What a command left: compared between an attacked command and an undisturbed one, and searched for rubbish."""

from __future__ import annotations

import hashlib
import json
import math
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from datasets.storage.store import open_store
from orchestration.engine import checkpoint
from orchestration.tracking.journal import read_steps
from tests.campaign.arena import Arena

UNEQUAL = ("speed/", "system/")  # metrics that measure this machine
Row = tuple[Any, ...]


def rows(arena: Arena, query: str, *values: Any) -> list[Row]:
    """Of MLflow's database, read without MLflow."""
    with closing(sqlite3.connect(arena.database)) as database:
        return [tuple(row) for row in database.execute(query, values).fetchall()]


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def files(folder: Path) -> dict[str, str]:
    """Every file below a folder with the digest of its bytes."""
    return {p.relative_to(folder).as_posix(): digest(p.read_bytes()) for p in sorted(folder.rglob("*")) if p.is_file()}


def model(run: Path) -> dict[str, str]:
    """The digests of the run's newest checkpoint, from its files."""
    found = checkpoint.latest(open_store(str(run)))
    if found is None:
        return {}
    return {name: digest((run / found.folder / name).read_bytes()) for name in checkpoint.FILES}


def history(arena: Arena, run_id: str) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of each point that MLflow has of a run, each as often as it is there."""
    found: dict[str, list[tuple[int, float]]] = {}
    query = "SELECT key, step, value, is_nan FROM metrics WHERE run_uuid = ? ORDER BY key, step, timestamp"
    for key, step, value, is_nan in rows(arena, query, run_id):
        if not key.startswith(UNEQUAL):
            found.setdefault(key, []).append((step, math.inf if is_nan else value))
    return found


def tracked(arena: Arena, run_id: str) -> dict[str, Any]:
    """A run in MLflow: status, the digest of its history, the parameters' number, its artifacts' names."""
    [(status, artifacts)] = rows(arena, "SELECT status, artifact_uri FROM runs WHERE run_uuid = ?", run_id)
    points = history(arena, run_id)
    repeated = [key for key, found in points.items() if len({step for step, _ in found}) < len(found)]
    folder = Path(artifacts.removeprefix("file://"))
    return {
        "status": status,
        "history": digest(json.dumps(points).encode()),
        "repeated": repeated,
        "points": {key: len(found) for key, found in points.items()},
        "params": rows(arena, "SELECT count(*) FROM params WHERE run_uuid = ?", run_id)[0][0],
        "artifacts": sorted(name for name in files(folder) if "reviews/" not in name),
    }


def trained(run: Path, arena: Arena) -> dict[str, Any]:
    """Everything of a trained run that an attack must not change."""
    steps = [record["step"] for _, record in read_steps(open_store(str(run)))]
    assert steps == list(range(len(steps)))
    return {"model": model(run), "steps": len(steps), "mlflow": tracked(arena, run.name)}


def versions(arena: Arena) -> dict[str, Any]:
    """Registered models: versions, aliases, decisions, without what depends on time."""
    versions = rows(arena, "SELECT name, version, run_id FROM model_versions ORDER BY name, version")
    aliases = rows(arena, "SELECT name, alias, version FROM registered_model_aliases ORDER BY name, alias")
    tags = rows(arena, "SELECT name, version, key, value FROM model_version_tags ORDER BY name, version, key")
    records = rows(arena, "SELECT name, key, value FROM registered_model_tags WHERE key LIKE '%decision%' ORDER BY key")
    decided = [(name, key, without_time(json.loads(value))) for name, key, value in records]
    kept = [tag for tag in tags if tag[2] in ("decision", "decision.why", "weights", "graph_sha256", "select")]
    logged = rows(arena, "SELECT name, count(*) FROM logged_models GROUP BY name ORDER BY name")
    return {
        "versions": [[name, number] for name, number, _ in versions],
        "aliases": aliases,
        "decisions": decided,
        "tags": kept,
        "logged": logged,
    }


def without_time(record: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in ("when", "evidence")}


def rubbish(folder: Path) -> Iterator[str]:
    """Temporary files, notes of unfinished work and empty checkpoints below a folder."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        is_note = path.name in ("_unfinished", "unfinished", "registration.json", "request", "listening")
        is_empty = path.is_dir() and path.parent.name in ("checkpoints", "stopped") and not any(path.iterdir())
        if (path.name.startswith(".") and path.name.endswith(".tmp")) or is_note or is_empty:
            yield name


def differences(expected: Mapping[str, Any], found: Mapping[str, Any], where: str = "") -> list[str]:
    """Where two trees of facts differ."""
    told = []
    for key in sorted({*expected, *found}):
        a, b = expected.get(key), found.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            told += differences(a, b, f"{where}{key}.")
        elif json.dumps(a) != json.dumps(b):
            told.append(f"{where}{key}: undisturbed {shortened(a)}, attacked {shortened(b)}")
    return told


def shortened(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 200 else f"{text[:200]}…"
