"""The environments that a run's weights went through: where these are the same, a repeated step has the same bits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Chain:
    """environment: the last one. digest: of all of them, and of the steps at which they changed."""

    environment: dict[str, Any]
    digest: str


def continued(before: Chain | None, environment: Mapping[str, Any], step: int) -> Chain:
    """The chain of weights that were trained on in `environment` from `step` on.

    before: of the weights at that step; None at the beginning, and for checkpoints of versions that kept no chain.
    """
    if before is not None and before.environment == dict(environment):
        return before
    link = [before.digest if before else None, dict(environment), step]
    return Chain(dict(environment), hashlib.sha256(json.dumps(link, sort_keys=True).encode()).hexdigest())


def chain_of(described: Any) -> Chain | None:
    """From plain JSON, as `dataclasses.asdict` makes it. Raises: ValueError where it is none."""
    if described is None:
        return None
    if not isinstance(described, dict) or not isinstance(described.get("environment"), dict):
        raise ValueError(f"chain {described!r}")
    return Chain(described["environment"], str(described["digest"]))
