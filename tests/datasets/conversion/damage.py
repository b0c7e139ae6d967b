"""What tests of conversions share: converting a tree, what is said about it, and ways to damage it."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datasets.conversion.convert import Conversion, ConversionSettings, DamagedSource, Progress, convert
from datasets.errors import DataError
from datasets.format.schema import Sample
from datasets.shards.dataset import Dataset
from tests.layouts import Fixture

Damage = Callable[[Fixture], object]


def run(fixture: Fixture, out: Path | str, progress: Progress | None = None, **settings: Any) -> Conversion:
    chosen = ConversionSettings(**{"parsing": fixture.parsing, **settings})
    return convert(fixture.name, fixture.root, str(out), chosen, progress=progress)


def offenders(fixture: Fixture, **settings: Any) -> DamagedSource:
    """The report of a conversion that stops, nothing having been written."""
    out = fixture.root.parent / "out"
    with pytest.raises(DamagedSource) as caught:
        run(fixture, out, **settings)
    assert not out.exists()
    found = caught.value.offenders
    assert all(str(offender) in str(caught.value) for offender in (found if len(found) <= 10 else found[:1]))
    return caught.value


def refusal(fixture: Fixture, **settings: Any) -> str:
    """The message of a conversion that cannot begin."""
    with pytest.raises(DataError) as caught:
        run(fixture, fixture.root.parent / "out", **settings)
    assert not isinstance(caught.value, DamagedSource)
    assert not (fixture.root.parent / "out").exists()
    return str(caught.value)


def rows(address: Path | str) -> dict[tuple[str, str], Sample]:
    dataset = Dataset.open(str(address))
    return {(split, sample.key): sample for split in dataset.splits for sample in dataset.samples(split)}


def first(fixture: Fixture, split: str = "train") -> str:
    return min(image["path"] for image in fixture.expected["images"] if image["split"] == split)


def mask_of(fixture: Fixture, path: str) -> Path:
    return (fixture.parsing / path).with_suffix(".png")


def png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def relabel(path: Path) -> None:
    pixels = np.array(Image.open(path))
    pixels[0, 0] = 20
    path.write_bytes(png(pixels))


def first_line(fixture: Fixture, path: str) -> str:
    return (fixture.root / path).read_text().splitlines()[0]


def add_line(fixture: Fixture, path: str, line: str) -> None:
    text = (fixture.root / path).read_text()
    (fixture.root / path).write_text(text.rstrip("\n") + f"\n{line}\n")


def copy(fixture: Fixture, old: str, new: str) -> None:
    for source in (fixture.root, fixture.parsing):
        if (source / old).is_dir():
            shutil.copytree(source / old, source / new)
    if (fixture.root / old).is_file():
        shutil.copy(fixture.root / old, fixture.root / new)
        shutil.copy(mask_of(fixture, old), mask_of(fixture, new))


def walk(fixture: Fixture, split: str) -> str:
    """A tracklet's folder in CCVID."""
    return first_line(fixture, f"{split}.txt").split()[0]
