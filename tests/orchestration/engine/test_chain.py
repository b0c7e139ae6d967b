"""The chain of environments: the same where nothing changed, another one where and when something did."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from orchestration.engine.chain import chain_of, continued

THREE, TWO = {"workers": 3, "device": "cpu"}, {"workers": 2, "device": "cpu"}


def test_it_is_the_same_while_the_environment_is() -> None:
    begun = continued(None, THREE, 0)
    assert continued(begun, dict(reversed(THREE.items())), 7) is begun
    assert continued(None, dict(reversed(THREE.items())), 0) == begun


def test_a_change_is_known_by_what_was_before_by_what_came_and_by_the_step() -> None:
    begun = continued(None, THREE, 0)
    two = continued(begun, TWO, 5)
    digests = [begun, two, continued(begun, TWO, 6), continued(two, THREE, 8), continued(None, TWO, 5)]
    assert len({chain.digest for chain in digests}) == 5
    assert continued(begun, TWO, 5) == two


def test_it_survives_json() -> None:
    begun = continued(None, THREE, 0)
    assert chain_of(json.loads(json.dumps(asdict(begun)))) == begun
    assert chain_of(None) is None


@pytest.mark.parametrize("described", ["text", [], {}, {"environment": 3, "digest": "x"}])
def test_what_is_none_is_refused(described: object) -> None:
    with pytest.raises(ValueError, match="chain"):
        chain_of(described)
