"""One writer at a time: another process waits for its turn, and a process that ended holds nothing."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from datasets.errors import DataError
from datasets.shards.exclusive import _is_at, _name, exclusive

HOLDER = """
import sys
from datasets.shards.exclusive import exclusive
with exclusive(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def locks() -> set[str]:
    return {path.name for path in Path(tempfile.gettempdir()).glob("redress-*.lock")}


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    address = str(tmp_path / "data")
    with exclusive(address):
        [mine] = [name for name in locks() if _name(address) == name]
    assert mine not in locks()
    with pytest.raises(KeyError), exclusive(address):
        raise KeyError
    assert mine not in locks()


def test_a_lock_whose_file_was_removed_is_none(tmp_path: Path) -> None:
    """The last writer removed the file after this one had opened it."""
    path = tmp_path / "lock"
    with path.open("a+") as file:
        assert _is_at(file, str(path))
        path.unlink()
        assert not _is_at(file, str(path))
        path.touch()
        assert not _is_at(file, str(path))


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
