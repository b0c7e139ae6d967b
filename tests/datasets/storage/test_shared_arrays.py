"""Arrays that processes of a node share: made once, the same bits, and nothing half after a kill, damage or a full disk."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from datasets.storage import shared_arrays
from datasets.storage.file_lock import locked
from datasets.storage.shared_arrays import SharedArrays, own_folder, read, write

ARRAYS: dict[str, np.ndarray] = {
    "labels": np.arange(-3, 100_000, dtype=np.int64),
    "rows": np.arange(24, dtype=np.int32).reshape(4, 6)[:, ::2],
    "digests": np.arange(64, dtype=np.uint8).reshape(2, 32),
    "none": np.empty((0, 3), np.float32),
    "share": np.array([0.1, np.nan, -0.0]),
}


def made() -> dict[str, np.ndarray]:
    return dict(ARRAYS)


def never() -> dict[str, np.ndarray]:
    raise AssertionError("made twice")


def check(found: shared_arrays.Arrays) -> None:
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def test_arrays_are_made_once_and_mapped_read_only(tmp_path: Path) -> None:
    check(SharedArrays(tmp_path / "a").fetch("index", made))
    found = SharedArrays(tmp_path / "a").fetch("index", never)
    check(found)
    with pytest.raises(ValueError, match="read-only"):
        found["labels"][0] = 7
    assert [path.suffix for path in files(tmp_path / "a")] == [".arrays"]
    maps = Path("/proc/self/maps").read_text().splitlines()
    assert any(line.endswith(str(files(tmp_path / "a")[0])) and " r--s " in line for line in maps)


def test_another_name_is_another_file(tmp_path: Path) -> None:
    shared = SharedArrays(tmp_path)
    shared.fetch("epoch 0", made)
    other = shared.fetch("epoch 1", lambda: {"rows": np.arange(3)})
    assert other["rows"].tolist() == [0, 1, 2]
    check(shared.fetch("epoch 0", never))


def test_what_making_raises_is_raised_and_leaves_nothing(tmp_path: Path) -> None:
    def fails() -> dict[str, np.ndarray]:
        raise OSError("the store is away")

    with pytest.raises(OSError, match="the store is away"):
        SharedArrays(tmp_path).fetch("index", fails)
    assert not files(tmp_path)
    check(SharedArrays(tmp_path).fetch("index", made))


@pytest.mark.parametrize("at", [0, 70_000, -1, -20, -41])
def test_a_damaged_file_is_made_again_and_named(tmp_path: Path, at: int, caplog: pytest.LogCaptureFixture) -> None:
    SharedArrays(tmp_path).fetch("index", made)
    [path] = files(tmp_path)
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    check(SharedArrays(tmp_path).fetch("index", made))
    assert f"{path} is damaged" in caplog.text
    caplog.clear()
    check(SharedArrays(tmp_path).fetch("index", never))
    assert not caplog.text


@pytest.mark.parametrize("length", [0, 39, 1000])
def test_a_file_cut_short_is_made_again(tmp_path: Path, length: int) -> None:
    SharedArrays(tmp_path).fetch("index", made)
    [path] = files(tmp_path)
    path.write_bytes(path.read_bytes()[:length])
    check(SharedArrays(tmp_path).fetch("index", made))


def test_a_removed_file_stays_readable_to_those_who_mapped_it(tmp_path: Path) -> None:
    found = SharedArrays(tmp_path).fetch("index", made)
    files(tmp_path)[0].unlink()
    check(found)


MAKER = """
import sys, time
from pathlib import Path
import numpy as np
from datasets.storage.shared_arrays import SharedArrays
folder, mark, then = sys.argv[1:]

def make():
    with open(mark, "a") as file:
        file.write("made\\n")
    if then == "hang":
        time.sleep(60)
    time.sleep(0.3)
    return {"labels": np.arange(1000)}

print(SharedArrays(Path(folder)).fetch("index", make)["labels"].sum(), flush=True)
"""


def maker(folder: Path, mark: Path, then: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", MAKER, str(folder), str(mark), then]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3])


def test_of_processes_that_ask_at_once_one_makes_and_one_killed_leaves_nothing_half(tmp_path: Path) -> None:
    folder, mark = tmp_path / "index", tmp_path / "mark"
    killed = maker(folder, mark, "hang")
    deadline = time.monotonic() + 30
    while not mark.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    waiting = [maker(folder, mark, "finish") for _ in range(3)]
    time.sleep(0.1)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert [process.communicate()[0] for process in waiting] == ["499500\n"] * 3
    assert mark.read_text() == "made\n" * 2, "the killed one, and one of the three that waited"
    assert [path.suffix for path in files(folder)] == [".arrays"]


def test_the_wait_for_another_maker_has_an_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shared = SharedArrays(tmp_path, wait_s=0.05)
    key = shared_arrays.hashlib.sha256(b"index").hexdigest()
    with locked(tmp_path / f"{key}.lock"):
        check(shared.fetch("index", made))
        check(shared.fetch("index", made))
    assert len(caplog.records) == 1, "said once"
    assert "this worker holds its own copy" in caplog.text
    assert "another process held" in caplog.text


def test_a_full_disk_costs_the_sharing_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, arrays: shared_arrays.Arrays) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shared_arrays, "write", full)
    shared = SharedArrays(tmp_path)
    check(shared.fetch("index", made))
    check(shared.fetch("plan", made))
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "No space left on device" in caplog.text
    assert not files(tmp_path)


def test_a_write_that_fails_leaves_no_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(one: str, other: str) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(shared_arrays.os, "replace", fails)
        with pytest.raises(OSError, match="No space left"):
            write(tmp_path / "a.arrays", ARRAYS)
    assert not files(tmp_path)
    write(tmp_path / "a.arrays", ARRAYS)
    check(read(tmp_path / "a.arrays"))


@pytest.mark.parametrize("kind", ["writable by others", "symbolic link", "file"])
def test_a_folder_that_others_can_write_to_is_not_used(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "index"
    if kind == "file":
        folder.write_bytes(b"")
    elif kind == "symbolic link":
        folder.symlink_to(tmp_path)
    else:
        folder.mkdir()
        folder.chmod(0o777)
    with pytest.raises(PermissionError, match="no folder that this user alone can write to"):
        own_folder(folder)
    check(SharedArrays(folder).fetch("index", made))
    assert "cannot be shared" in caplog.text
    assert not list(tmp_path.glob("*.arrays"))


def test_files_are_removed_by_age_and_by_bytes_the_least_recently_mapped_first(tmp_path: Path) -> None:
    shared = SharedArrays(tmp_path, max_bytes=2_500_000)
    for number in range(3):  # 0.8 MB each
        shared.fetch(f"epoch {number}", made)
        time.sleep(0.01)
    shared.fetch("epoch 0", never)  # mapped later than epoch 1
    shared.fetch("epoch 3", made)
    assert len(files(tmp_path)) == 3
    shared.fetch("epoch 0", never)
    again: list[int] = []
    shared.fetch("epoch 1", lambda: again.append(1) or made())  # type: ignore[func-returns-value]
    assert again == [1]

    for path in files(tmp_path):
        os.utime(path, (time.time() - shared_arrays.AGE_S - 60,) * 2)
    (tmp_path / ".killed.arrays.tmp").write_bytes(b"half")
    (tmp_path / "killed.lock").write_bytes(b"")
    (tmp_path / ".new.arrays.tmp").write_bytes(b"half")
    for name in (".killed.arrays.tmp", "killed.lock"):
        os.utime(tmp_path / name, (time.time() - shared_arrays.TEMPORARY_AGE_S - 60,) * 2)
    shared.fetch("the newest", made)
    left = {path.name for path in files(tmp_path)}
    assert len(left) == 2
    assert ".new.arrays.tmp" in left


def test_one_larger_than_the_bound_is_kept_alone(tmp_path: Path) -> None:
    shared = SharedArrays(tmp_path, max_bytes=1000)
    shared.fetch("index", made)
    shared.fetch("plan", made)
    assert len(files(tmp_path)) == 1
    check(shared.fetch("plan", never))


def test_the_file_tells_types_and_shapes(tmp_path: Path) -> None:
    """A reader of another version finds what it needs without this code: arrays, their table, its length, the digest."""
    path = tmp_path / "a.arrays"
    write(path, ARRAYS)
    data = path.read_bytes()
    end = len(data) - 40
    length = int.from_bytes(data[end : end + 8], "little")
    table = json.loads(data[end - length : end])
    assert table["rows"][:2] == ["<i4", [4, 3]]
    assert all(place[2] % 64 == 0 for place in table.values())
