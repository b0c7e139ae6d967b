"""One writer at a time: another process waits for its turn, and a process that ended holds nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from datasets.errors import DataError
from datasets.shards.exclusive import exclusive

HOLDER = """
import sys
from datasets.shards.exclusive import exclusive
with exclusive(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_an_address_that_another_process_writes_to_is_refused_until_it_ends(tmp_path: Path) -> None:
    address = str(tmp_path / "data")
    root = Path(__file__).resolve().parents[3]
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, address], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(DataError, match=rf"process {holder.pid} is writing to .*data; wait for it"),
            exclusive(address),
        ):
            pass
        with exclusive(f"{address}-2"):
            pass
        holder.kill()
    with exclusive(address), exclusive(address):  # a converter's writer is no other one
        pass
