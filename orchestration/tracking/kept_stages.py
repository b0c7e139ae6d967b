"""What the stages of a run came to tell apart, in its storage: a file for each stage, written before its last step."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict

import torch

from datasets.storage.store import Store
from methods.separation import Separation

FOLDER, SUFFIX = "stages", ".json"


def keep(store: Store, stage: str, found: Mapping[str, Separation]) -> None:
    """A step that is repeated after a crash writes the same again."""
    plain = {name: asdict(one) | {"own": one.own.tolist(), "other": one.other.tolist()} for name, one in found.items()}
    store.write(f"{FOLDER}/{stage}{SUFFIX}", json.dumps(plain).encode())


def stages(store: Store) -> list[str]:
    """The stages that have ended and told something apart."""
    return [name.removesuffix(SUFFIX) for name in store.children(FOLDER) if name.endswith(SUFFIX)]


def read(store: Store, stage: str) -> dict[str, Separation]:
    """By name; nothing where the stage has not ended, or told nothing apart."""
    path = f"{FOLDER}/{stage}{SUFFIX}"
    if not store.exists(path):
        return {}
    plain = json.loads(store.read(path))
    counts = ("own", "other")
    return {
        name: Separation(**one | {which: torch.tensor(one[which], dtype=torch.int64) for which in counts})
        for name, one in plain.items()
    }
