"""What is said about an experiment that cannot be."""

from __future__ import annotations

import re

import pytest

from orchestration.config.load import load
from orchestration.errors import RequestError

DATA = "data=s3://reid/ltcc"


def complaint(*words: str, name: str = "cal-ltcc", data: bool = True) -> str:
    """What `load` says."""
    with pytest.raises(RequestError) as raised:
        load(name, [*([DATA] if data else []), *words])
    return str(raised.value)


def line(report: str, key: str) -> str:
    """The report's line about a key."""
    found = [row for row in report.splitlines() if re.match(rf"  {re.escape(key)}( |$)", row)]
    assert len(found) == 1, report
    return found[0]
