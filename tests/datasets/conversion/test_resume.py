"""A conversion that was killed goes on where it ended, writes no finished shard again, and ends as an undisturbed one."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from datasets.conversion import findings
from datasets.errors import DataError
from datasets.format.manifest import MANIFEST, Manifest
from datasets.format.schema import Sample
from datasets.shards.dataset import Dataset, write_dataset
from datasets.shards.grouping import cluster_key
from datasets.shards.unfinished import FOLDER, Unfinished
from datasets.shards.writer import Resumption
from datasets.storage.store import Store, open_store
from tests import layouts
from tests.datasets.conversion import damage
from tests.layouts import Fixture
from tests.servers.moto_s3 import BUCKET, moto_s3

ROOT = Path(__file__).resolve().parents[3]
SMALL: dict[str, Any] = {"row_group_bytes": 4 << 10, "shard_bytes": 12 << 10}
CHILD = """
import sys, time
from datasets.conversion.convert import ConversionSettings, convert
name, root, parsing, out, stop = sys.argv[1:]
def progress(stage, done, total):
    if stage == "write" and done == int(stop):
        print("now", flush=True)
        time.sleep(600)
settings = ConversionSettings(parsing=parsing, row_group_bytes=4 << 10, shard_bytes=12 << 10)
convert(name, root, out, settings, progress=progress)
"""


@pytest.fixture(scope="module")
def fixture(tmp_path_factory: pytest.TempPathFactory) -> Fixture:
    return layouts.unpack("prcc", tmp_path_factory.mktemp("prcc"))


@pytest.fixture
def tree(fixture: Fixture, tmp_path: Path) -> Fixture:
    """A copy to be changed."""
    shutil.copytree(fixture.root.parent, tmp_path / "tree")
    return dataclasses.replace(fixture, root=tmp_path / "tree" / fixture.root.name, parsing=tmp_path / "tree/parsing")


@pytest.fixture(params=["local", "s3"])
def address(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param == "local":
        yield str(tmp_path / "out")
        return
    with moto_s3() as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield f"s3://{BUCKET}/prcc"


@pytest.fixture
def created(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of the shards that this process writes."""
    paths: list[str] = []
    create = Store.create

    def noting(store: Store, path: str) -> Any:
        paths.append(path)
        return create(store, path)

    monkeypatch.setattr(Store, "create", noting)
    return paths


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of the images that this process decodes."""
    paths: list[str] = []
    check = findings.check

    def noting(source: Any, entry: Any, masks: Any) -> Any:
        paths.append(entry.path)
        return check(source, entry, masks)

    monkeypatch.setattr(findings, "check", noting)
    return paths


def run(fixture: Fixture, address: str | Path, **options: Any) -> Manifest:
    done = damage.run(fixture, address, **(SMALL | options))
    assert done.manifest is not None
    return done.manifest


def interrupt(fixture: Fixture, address: str | Path, **options: Any) -> list[str]:
    """Stops a conversion after two thirds of the images; the shards that are finished."""

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "write" and done == total * 2 // 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(fixture, address, progress=stop, **options)
    return shards(address)


def shards(address: str | Path) -> list[str]:
    return [path for path in open_store(str(address)).list() if path.endswith(".parquet")]


def test_after_a_kill_finished_shards_are_kept_and_the_rest_is_written(
    fixture: Fixture, address: str, tmp_path: Path, created: list[str], checked: list[str]
) -> None:
    undisturbed = run(fixture, tmp_path / "whole")
    stop = str(len(fixture.paths) * 2 // 3)
    words = [sys.executable, "-c", CHILD, fixture.name, str(fixture.root), str(fixture.parsing), address, stop]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, env=os.environ, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "now\n"
        os.kill(child.pid, signal.SIGKILL)
    finished = shards(address)
    assert 3 < len(finished) < sum(len(split.shards) for split in undisturbed.splits.values()) - 3
    with pytest.raises(DataError, match=r"no manifest\.json"):
        Dataset.open(address)

    created.clear()
    checked.clear()
    conversion = damage.run(fixture, address, **SMALL)
    assert conversion.manifest == undisturbed
    assert not set(created) & set(finished)
    assert sorted([*finished, *created]) == [path for path in shards(tmp_path / "whole") if "/" in path]
    assert checked == []
    assert any("resumed an interrupted conversion" in line for line in conversion.lines())
    assert Dataset.open(address).verify() == []
    assert open_store(address).list() == open_store(str(tmp_path / "whole")).list()
    assert not (tmp_path / "out" / FOLDER).exists()
    assert not list(tmp_path.rglob(".*.tmp"))


OTHER: dict[str, dict[str, Any]] = {
    "no-masks": {"parsing": None},
    "label-map": {"labels": "atr18"},
    "resized": {"resize_masks": True},
    "row-groups": {"row_group_bytes": 5 << 10},
    "shards": {"shard_bytes": 15 << 10},
    "splits": {"without": ["val"]},
}


@pytest.mark.parametrize("change", OTHER)
def test_other_options_take_up_nothing(tree: Fixture, tmp_path: Path, created: list[str], change: str) -> None:
    for mask in tree.parsing.rglob("*.png"):
        Image.open(mask).point(lambda label: min(label, 17)).save(mask)  # labels that each of the maps has
    interrupt(tree, tmp_path / "out")
    created.clear()
    manifest = run(tree, tmp_path / "out", **OTHER[change])
    assert sorted(created) == [path for path in shards(tmp_path / "out") if "/" in path]
    assert manifest.fingerprint == run(tree, tmp_path / "whole", **OTHER[change]).fingerprint
    assert open_store(str(tmp_path / "out")).list() == open_store(str(tmp_path / "whole")).list()


def test_a_changed_source_takes_up_nothing_and_only_what_changed_is_checked_again(
    tree: Fixture, tmp_path: Path, created: list[str], checked: list[str]
) -> None:
    interrupt(tree, tmp_path / "out")
    changed = tree.root / tree.paths[0]
    changed.write_bytes(changed.read_bytes() + b"\0")
    created.clear()
    checked.clear()
    manifest = run(tree, tmp_path / "out")
    assert checked == [tree.paths[0]]
    assert sorted(created) == [path for path in shards(tmp_path / "out") if "/" in path]
    assert manifest.fingerprint == run(tree, tmp_path / "whole").fingerprint


def test_what_changes_in_place_just_before_the_check_is_not_taken_for_settled(
    tree: Fixture, tmp_path: Path, checked: list[str]
) -> None:
    (tree.root / tree.paths[0]).touch()
    interrupt(tree, tmp_path / "out")
    checked.clear()
    run(tree, tmp_path / "out")
    assert checked == [tree.paths[0]]


@pytest.mark.parametrize("damage", ["shard-altered", "shard-gone", "note-altered", "note-cut"])
def test_a_damaged_shard_or_note_is_made_anew(
    fixture: Fixture, tmp_path: Path, created: list[str], damage: str
) -> None:
    finished = interrupt(fixture, tmp_path / "out")
    place = tmp_path / "out" / ("train/00001.parquet" if "shard" in damage else f"{FOLDER}/train/00001")
    data = place.read_bytes()
    if damage == "shard-gone":
        place.unlink()
    else:
        place.write_bytes(data[:-9] if damage == "note-cut" else data[:99] + bytes([data[99] ^ 1]) + data[100:])
    created.clear()
    manifest = run(fixture, tmp_path / "out")
    assert "train/00001.parquet" in created
    assert "train/00000.parquet" not in created
    assert not {path for path in created if not path.startswith("train/")} & set(finished)
    assert manifest.fingerprint == run(fixture, tmp_path / "whole").fingerprint


def test_an_overwriting_that_was_interrupted_goes_on_too(fixture: Fixture, tmp_path: Path, created: list[str]) -> None:
    run(fixture, tmp_path / "out", parsing=None)
    finished = interrupt(fixture, tmp_path / "out", overwrite=True)
    created.clear()
    manifest = run(fixture, tmp_path / "out", overwrite=True)
    assert created
    assert not set(created) & set(finished)
    assert manifest.fingerprint == run(fixture, tmp_path / "whole").fingerprint
    assert open_store(str(tmp_path / "out")).list() == open_store(str(tmp_path / "whole")).list()


def test_notes_that_outlive_a_finished_data_set_are_removed(fixture: Fixture, tmp_path: Path) -> None:
    interrupt(fixture, tmp_path / "out")
    shutil.copytree(tmp_path / "out" / FOLDER, tmp_path / "notes")
    run(fixture, tmp_path / "out")
    shutil.copytree(tmp_path / "notes", tmp_path / "out" / FOLDER)
    with pytest.raises(DataError, match="holds a finished data set"):
        run(fixture, tmp_path / "out")
    assert not (tmp_path / "out" / FOLDER).exists()
    assert Dataset.open(str(tmp_path / "out")).verify() == []


names = st.text(alphabet="012", min_size=1, max_size=2)
samples = st.builds(
    Sample,
    image=st.binary(min_size=1, max_size=60),
    parsing=st.none() | st.binary(max_size=30),
    person=st.sampled_from("012345"),
    clothes=st.none() | names,
    camera=st.none() | names,
    sequence=st.none() | names,
    frame=st.none(),
    key=st.text(alphabet="0123456789", min_size=3, max_size=5),
)
splits = st.lists(samples, min_size=1, max_size=40, unique_by=lambda s: s.key).map(lambda s: sorted(s, key=cluster_key))
ABOUT: dict[str, Any] = {"name": "x", "version": "1", "licence": "none", "label_map": None, "protocol": "general"}


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    content=st.dictionaries(st.sampled_from(["train", "query"]), splits, min_size=1),
    sizes=st.tuples(st.integers(30, 400), st.integers(500, 6000)),
    at=st.floats(0, 1, exclude_max=True),
)
def test_wherever_it_is_interrupted_the_data_set_is_the_same_byte_for_byte(
    tmp_path_factory: pytest.TempPathFactory,
    content: Mapping[str, Sequence[Sample]],
    sizes: tuple[int, int],
    at: float,
) -> None:
    whole, cut = (tmp_path_factory.mktemp(name) for name in ("whole", "cut"))
    options: dict[str, Any] = ABOUT | {"row_group_bytes": sizes[0], "shard_bytes": sizes[1]}
    write_dataset(str(whole), content, **options)

    left = int(at * sum(map(len, content.values())))

    def until(rows: Sequence[Sample]) -> Iterator[Sample]:
        nonlocal left
        for row in rows:
            if left == 0:
                raise InterruptedError
            left -= 1
            yield row

    notes = Unfinished(open_store(str(cut)), b"p" * 32)
    with pytest.raises(InterruptedError):
        write_dataset(
            str(cut), {s: until(rows) for s, rows in content.items()}, **options, resumption=Resumption(notes, {})
        )
    assert not (cut / MANIFEST).exists()
    resumption = Resumption(notes, notes.finished(content))
    rest = {split: rows[resumption.num_rows(split) :] for split, rows in content.items()}
    write_dataset(str(cut), rest, **options, resumption=resumption)
    files = {path.relative_to(whole): path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    assert files == {path.relative_to(cut): path.read_bytes() for path in cut.rglob("*") if path.is_file()}
