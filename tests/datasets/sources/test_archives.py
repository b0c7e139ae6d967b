"""An archive converts as its unpacked folder does."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datasets.conversion.convert import ConversionSettings, DamagedSource, Progress, convert
from datasets.errors import DataError
from datasets.format.manifest import Manifest
from datasets.shards.dataset import Dataset
from tests import layouts
from tests.datasets.sources.packing import pack, refused
from tests.layouts import Fixture


@pytest.fixture(scope="module")
def fixtures(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Fixture, Manifest]]:
    """A data set's tree, unpacked, and the manifest of its conversion."""
    made: dict[str, tuple[Fixture, Manifest]] = {}

    def of(name: str) -> tuple[Fixture, Manifest]:
        if name not in made:
            place = tmp_path_factory.mktemp(name)
            fixture = layouts.unpack(name, place)
            made[name] = fixture, run(fixture, fixture.root, fixture.parsing, place / "out")
        return made[name]

    return of


def run(
    fixture: Fixture, source: Path, parsing: Path | None, out: Path, progress: Progress | None = None, **options: Any
) -> Manifest:
    settings = ConversionSettings(parsing=parsing, **options)
    manifest = convert(fixture.name, source, str(out), settings, progress=progress).manifest
    assert manifest is not None
    return manifest


@pytest.mark.parametrize("name", layouts.names())
def test_the_archive_as_it_comes_gives_the_data_set_of_the_folder(
    fixtures: Callable[[str], tuple[Fixture, Manifest]], name: str, tmp_path: Path
) -> None:
    """One archive holds data set and masks, as the fixtures' do."""
    fixture, whole = fixtures(name)
    packed = layouts.folder() / f"{name}.tar.gz"
    assert run(fixture, packed, packed, tmp_path / "out") == whole


@pytest.mark.parametrize("name", layouts.names())
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_tar_and_zip_give_the_data_set_of_the_folder(
    fixtures: Callable[[str], tuple[Fixture, Manifest]], name: str, kind: str, tmp_path: Path
) -> None:
    fixture, whole = fixtures(name)
    source = pack(fixture.root, tmp_path / f"source.{kind}", top=fixture.root.name)
    masks = pack(fixture.parsing, tmp_path / f"masks.{kind}")
    before = sorted(tmp_path.iterdir())
    assert run(fixture, source, masks, tmp_path / "out") == whole
    assert sorted(tmp_path.iterdir()) == sorted([*before, tmp_path / "out"])


@pytest.mark.parametrize("top", ["", "LTCC_ReID", "some/where"])
@pytest.mark.parametrize("kind", ["tar.xz", "tar.bz2", "zip"])
def test_the_root_is_found_in_the_archive(
    fixtures: Callable[[str], tuple[Fixture, Manifest]], kind: str, top: str, tmp_path: Path
) -> None:
    fixture, whole = fixtures("ltcc")
    source = pack(fixture.root, tmp_path / f"source.{kind}", top=top)
    assert run(fixture, source, fixture.parsing, tmp_path / "out") == whole
    masks = pack(fixture.parsing, tmp_path / f"masks.{kind}", top=top)
    assert run(fixture, fixture.root, masks, tmp_path / "again") == whole


def test_a_table_in_an_archive_converts(fixtures: Callable[[str], tuple[Fixture, Manifest]], tmp_path: Path) -> None:
    fixture, _ = fixtures("ltcc")
    shutil.copytree(fixture.root, tmp_path / "tree")
    lines = [f"{image['path']},{image['split']},{image['person']}" for image in fixture.expected["images"]]
    (tmp_path / "tree" / "table.csv").write_text("\n".join(["path,split,person", *lines]))
    source = pack(tmp_path / "tree", tmp_path / "source.zip", top="mine")
    table = Fixture("table", fixture.root, fixture.parsing, fixture.expected)
    manifest = run(table, source, None, tmp_path / "out")
    assert manifest.fingerprint == run(table, tmp_path / "tree", None, tmp_path / "whole").fingerprint


def test_offenders_of_an_archive_are_told_and_set_aside_like_a_folders(
    fixtures: Callable[[str], tuple[Fixture, Manifest]], tmp_path: Path
) -> None:
    fixture, _ = fixtures("ltcc")
    shutil.copytree(fixture.root, tmp_path / "tree")
    bad = fixture.paths[0]
    (tmp_path / "tree" / bad).write_bytes(b"no image")
    source = pack(tmp_path / "tree", tmp_path / "source.tar.gz", top="LTCC_ReID")
    with pytest.raises(DamagedSource) as caught:
        run(fixture, source, fixture.parsing, tmp_path / "out")
    assert [offender.path for offender in caught.value.offenders] == [bad]
    assert f"ltcc at {source}: LTCC_ReID has 1 offender; nothing was written" in str(caught.value)
    run(fixture, source, fixture.parsing, tmp_path / "out", quarantine=True)
    quarantined = Dataset.open(str(tmp_path / "out")).manifest.extra["quarantined"]
    assert [entry["path"] for entry in quarantined] == [bad]


def test_a_wrong_layout_or_archive_is_told(fixtures: Callable[[str], tuple[Fixture, Manifest]], tmp_path: Path) -> None:
    fixture, _ = fixtures("vcclothes")
    source = pack(fixture.root, tmp_path / "source.zip", top="VC-Clothes")
    with pytest.raises(DataError, match="The tree looks like vcclothes"):
        convert("market1501", source, str(tmp_path / "out"))
    pack(fixture.root.parent, tmp_path / "both.tar")
    shutil.copytree(fixture.root, tmp_path / "two/a")
    shutil.copytree(fixture.root, tmp_path / "two/b")
    with pytest.raises(
        DataError, match=r"several folders that could be vcclothes: a, b. Rename the right one to VC-Clothes"
    ):
        convert("vcclothes", pack(tmp_path / "two", tmp_path / "two.zip"), str(tmp_path / "out"))
    (tmp_path / "x.7z").write_bytes(b"7z\xbc\xaf\x27\x1c" + bytes(600))
    (tmp_path / "x.zip").write_bytes(b"not at all" * 99)
    assert "a 7z file, which cannot be read in place; unpack it first" in refused(tmp_path / "x.7z")
    assert "is a file; expected a test's folder, or an archive of it (.zip, .tar" in refused(tmp_path / "x.zip")


def test_a_pipe_in_a_folder_is_an_offender_and_not_waited_for(
    fixtures: Callable[[str], tuple[Fixture, Manifest]], tmp_path: Path
) -> None:
    fixture, _ = fixtures("ltcc")
    shutil.copytree(fixture.root, tmp_path / "tree")
    shutil.copytree(fixture.parsing, tmp_path / "masks")
    os.mkfifo(tmp_path / "tree/train/900_1_c1_000001.png")
    mask = tmp_path / "masks" / fixture.paths[0]
    mask.unlink()
    os.mkfifo(mask)
    with pytest.raises(DamagedSource) as caught:
        run(fixture, tmp_path / "tree", tmp_path / "masks", tmp_path / "out")
    told = sorted(str(offender) for offender in caught.value.offenders)
    assert [offender.partition(":")[0] for offender in told] == sorted(["train/900_1_c1_000001.png", fixture.paths[0]])
    assert all("is no regular file" in offender for offender in told)


def test_reading_a_compressed_tar_tells_its_progress(
    fixtures: Callable[[str], tuple[Fixture, Manifest]], tmp_path: Path
) -> None:
    fixture, _ = fixtures("ltcc")
    packed = layouts.folder() / "ltcc.tar.gz"
    stages: dict[str, tuple[int, int]] = {}

    def note(stage: str, done: int, total: int) -> None:
        stages[stage] = done, total

    run(fixture, packed, packed, tmp_path / "out", progress=note)
    size = packed.stat().st_size
    assert stages == {"read": (size, size), "check": (49, 49), "write": (49, 49)}
