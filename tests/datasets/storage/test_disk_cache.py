"""The disk cache never exceeds its bound or returns wrong bytes, whoever shares it; without it reads still succeed."""

from __future__ import annotations

import hashlib
import logging
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.storage.disk_cache import DiskCache

ROOT = Path(__file__).resolve().parents[3]


def content(number: int, size: int = 1000) -> tuple[str, bytes]:
    data = (b"%d." % number * size)[:size]
    return hashlib.sha256(data).hexdigest(), data


def kept(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("??/*")}


def cached_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("??/*"))


class Source:
    """What is behind the cache, and how often it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def read(self, digest: str, data: bytes) -> Callable[[], bytes]:
        def read() -> bytes:
            self.asked.append(digest)
            return data

        return read


@given(
    items=st.lists(st.integers(0, 60), min_size=3, max_size=8),
    uses=st.lists(st.integers(0, 7), max_size=40),
    bound=st.integers(1, 150),
)
@settings(max_examples=60)
def test_the_bound_holds_and_what_was_used_longest_ago_goes_first(
    items: list[int], uses: list[int], bound: int
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder, source = Path(name), Source()
        recent: list[str] = []
        for use in uses:
            size = items[use % len(items)]
            digest, data = content(use % len(items), size)
            before = kept(folder)
            num_asked = len(source.asked)
            # As another process would come: with nothing in memory.
            assert DiskCache(folder, bound).fetch(digest, source.read(digest, data)) == data
            assert cached_bytes(folder) <= bound
            assert (len(source.asked) > num_asked) == (digest not in before)
            if size <= bound:
                recent = [d for d in recent if d != digest] + [digest]
                assert kept(folder) == set(recent[len(recent) - len(kept(folder)) :])
                assert digest in kept(folder)


def test_what_fits_is_read_once(tmp_path: Path) -> None:
    cache, source = DiskCache(tmp_path / "new" / "folder", 10_000), Source()
    for _ in range(3):
        for number in range(10):
            digest, data = content(number)
            assert cache.fetch(digest, source.read(digest, data)) == data
    assert len(source.asked) == 10
    assert cache.hits == 20


@pytest.mark.parametrize("damage", [lambda data: data[:-1] + b"x", lambda data: data[:10], lambda data: b""])
def test_a_damaged_file_is_removed_and_read_from_the_store_again(
    tmp_path: Path, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    cache, source = DiskCache(tmp_path, 10_000), Source()
    digest, data = content(1)
    cache.fetch(digest, source.read(digest, data))
    path = tmp_path / digest[:2] / digest
    path.write_bytes(damage(data))
    assert cache.fetch(digest, source.read(digest, data)) == data
    assert f"{path} in the disk cache is damaged" in caplog.text
    assert len(source.asked) == 2
    assert path.read_bytes() == data


def test_what_the_source_raises_is_raised_and_nothing_kept(tmp_path: Path) -> None:
    def fail() -> bytes:
        raise OSError("the store is away")

    cache = DiskCache(tmp_path, 10_000)
    with pytest.raises(OSError, match="the store is away"):
        cache.fetch(content(1)[0], fail)
    assert kept(tmp_path) == set()
    assert not list(tmp_path.glob("*.lock")), "no lock is left"


def test_threads_that_want_the_same_fetch_it_once(tmp_path: Path) -> None:
    cache, asked = DiskCache(tmp_path, 10_000), []
    digest, data = content(1)

    def read() -> bytes:
        asked.append(threading.get_ident())
        time.sleep(0.1)
        return data

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: cache.fetch(digest, read), range(8))) == {data}
    assert len(asked) == 1


def test_those_who_want_others_do_not_wait(tmp_path: Path) -> None:
    cache, both = DiskCache(tmp_path, 10_000), threading.Barrier(2, timeout=20)

    def fetch(number: int) -> bytes:
        digest, data = content(number)
        return cache.fetch(digest, lambda: (both.wait(), data)[1])

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(fetch, range(2))) == [content(0)[1], content(1)[1]]


SHARED = """
import hashlib, random, sys, time
from pathlib import Path
from datasets.storage.disk_cache import DiskCache
from datasets.storage.file_lock import locked
def content(number):
    data = (b"%d." % number * 1000)[:1000]
    return hashlib.sha256(data).hexdigest(), data
folder, seed = Path(sys.argv[1]), int(sys.argv[2])
cache, rng = DiskCache(folder / "cache", 5_500), random.Random(seed)
def read(number):
    def now():
        with open(folder / "asked", "a") as file:
            file.write(f"{number}\\n")
        time.sleep(0.2 if number == 99 else 0)
        return content(number)[1]
    return now
def fetch(number):
    assert cache.fetch(content(number)[0], read(number)) == content(number)[1]
    with locked(folder / "cache" / "lock"):  # else files come and go while they are counted
        assert sum(path.stat().st_size for path in (folder / "cache").glob("??/*")) <= 5_500
def together(name):
    (folder / f"{name}-{seed}").touch()
    while len(list(folder.glob(f"{name}-*"))) < 3:
        time.sleep(0.005)
together("ready")
fetch(99)
together("fetched")
for _ in range(60):
    fetch(rng.randrange(9))
"""


def test_processes_share_the_bound_and_fetch_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SHARED, str(tmp_path)]
    running = [subprocess.Popen([*command, str(seed)], cwd=ROOT, stderr=subprocess.PIPE) for seed in range(3)]
    for process in running:
        errors = process.communicate(timeout=60)[1]
        assert process.returncode == 0, errors.decode()
    assert (tmp_path / "asked").read_text().split().count("99") == 1
    assert cached_bytes(tmp_path / "cache") <= 5_500
    assert {path.name for path in (tmp_path / "cache").iterdir() if path.is_file()} == {"lock"}


def test_a_lost_or_wrong_size_counter_is_recomputed_and_a_killed_writers_file_is_removed(tmp_path: Path) -> None:
    cache, source = DiskCache(tmp_path, 5_000), Source()
    for number in range(5):
        cache.fetch(content(number)[0], source.read(*content(number)))
    (tmp_path / "lock").write_bytes(b"scribble")
    left = next(iter(tmp_path.glob("??"))) / f".{'0' * 64}.tmp"
    left.write_bytes(bytes(3_000))
    cache.fetch(content(9)[0], source.read(*content(9)))
    assert cached_bytes(tmp_path) <= 5_000
    assert not left.exists()
    assert content(9)[0] in kept(tmp_path)


def test_without_a_usable_folder_reading_goes_on_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_bytes(b"")
    cache, source = DiskCache(tmp_path / "file" / "cache", 10_000), Source()
    for number in (1, 2, 1):
        assert cache.fetch(content(number)[0], source.read(*content(number))) == content(number)[1]
    assert len(source.asked) == 3
    assert caplog.text.count("cannot be used") == 1
    assert "Check stream.disk_cache" in caplog.text


def test_a_disk_that_takes_no_more_still_gives_what_it_has(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache, source = DiskCache(tmp_path, 1 << 20), Source()
    cache.fetch(content(1)[0], source.read(*content(1)))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, hard))  # the file system refuses larger files
    try:
        with caplog.at_level(logging.WARNING):
            for number in (2, 3, 2):
                assert cache.fetch(content(number)[0], source.read(*content(number))) == content(number)[1]
            assert cache.fetch(content(1)[0], source.read(*content(1))) == content(1)[1]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(source.asked) == 4
    assert caplog.text.count("cannot be used") == 1
    assert kept(tmp_path) == {content(1)[0]}, "and no half-written file"
