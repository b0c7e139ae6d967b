"""Odd files have the same pixels, or are refused, in training, in conversion, in a search and in a registered model."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from datasets.conversion.convert import Conversion, ConversionSettings, convert
from datasets.format.schema import Sample
from datasets.images.augment import Augmentation
from datasets.shards.dataset import Dataset
from orchestration.evaluation import explain
from orchestration.export import serving
from orchestration.progress import Progress
from orchestration.registry.publish import DECODE, sha256
from orchestration.search import gallery
from tests.datasets.streams import plan, stream
from tests.odd_images import SIZE, Pixels, odd_images

Outcomes = dict[str, Pixels | None]
ODD = odd_images()
NONE = Augmentation(*SIZE, pad=0, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("odd")
    for name, (data, _) in ODD.items():
        (folder / name).write_bytes(data)
    rows = [f"{name},{name},{split}" for name in ODD for split in ("train", "query", "gallery")]
    (folder / "table.csv").write_text("\n".join(["path,person,split", *rows]))
    return folder


@dataclass(frozen=True)
class Converted:
    conversion: Conversion
    dataset: Dataset


@pytest.fixture(scope="module")
def converted(crops: Path) -> Converted:
    address = str(crops.parent / "odd-shards")
    conversion = convert("table", crops, address, ConversionSettings(quarantine=True, threads=2))
    return Converted(conversion, Dataset.open(address))


def from_conversion(converted: Converted) -> Outcomes:
    """What is stored is the file itself; what is quarantined is refused."""
    stored = {sample.key: sample.image for sample in converted.dataset.samples("train")}
    refused = {offender.path for offender in converted.conversion.quarantined}
    assert not stored.keys() & refused
    assert stored.keys() | refused == ODD.keys()
    assert all(ODD[name][0] == data for name, data in stored.items())
    return {name: ODD[name][1] if name in stored else None for name in ODD}


def from_training(converted: Converted) -> Outcomes:
    dataset = converted.dataset
    index = dataset.index("train")
    whole = plan(dataset, people=len(index), images=1, lanes=1)
    [batch] = list(stream(dataset, parsing=False, size=SIZE).epoch(whole))
    names = index.keys(batch.rows.numpy())
    found = {name: as_pixels(image) for name, image in zip(names, batch.images, strict=True)}
    return {name: found.get(name) for name in ODD}


class PixelNetwork(gallery.Network):
    """A network whose descriptor is the input itself, prepared as a search does."""

    def __init__(self) -> None:
        self.masks = None
        self.method = cast(Any, SimpleNamespace(inputs=("images",)))

    def describe(self, samples: list[Sample]) -> Tensor:
        return explain.prepared(samples, self.method, NONE, torch.float32)[0]


def from_search(crops: Path) -> Outcomes:
    found = gallery.of_folder(PixelNetwork(), str(crops), Progress())
    assert len(found) + len(found.set_aside) == len(ODD)
    pixels = {name: as_pixels(image * 255) for name, image in zip(found.names, found.features, strict=True)}
    return {name: pixels.get(name) for name in ODD}


@functools.cache
def from_model() -> Outcomes:
    """By the file that is packed beside the serving file."""
    source = DECODE.read_bytes()
    model = serving.Embedder()
    model.decoder, (model.height, model.width) = serving.load_decoder(source, sha256(source)), SIZE
    found: Outcomes = {}
    for name, (data, _) in ODD.items():
        try:
            found[name] = as_pixels(model.images({"bytes": [data]})[0])
        except serving.InputError:
            found[name] = None
    return found


def as_pixels(image: Tensor) -> Pixels:
    return image.round().to(torch.uint8).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("place", ["conversion", "training", "search", "model"])
def test_every_odd_file_has_the_same_pixels_or_is_refused(place: str, crops: Path, converted: Converted) -> None:
    outcomes: dict[str, Callable[[], Outcomes]] = {
        "conversion": lambda: from_conversion(converted),
        "training": lambda: from_training(converted),
        "search": lambda: from_search(crops),
        "model": from_model,
    }
    found = outcomes[place]()
    for name, (_, expected) in ODD.items():
        outcome = found[name]
        if expected is None or outcome is None:
            assert (outcome is None) == (expected is None), f"{name} is refused in one place only"
        else:
            # libjpeg of torchvision and of Pillow differ by one in colours; all four places decode by the same
            np.testing.assert_allclose(outcome.astype(int), expected, atol=1 if name.endswith(("jpg", "mpo")) else 0)
            np.testing.assert_array_equal(outcome, from_model()[name])


def test_conversion_names_turned_images_and_kinds_that_are_not_read(converted: Converted) -> None:
    notes = [note for note in converted.conversion.notes if "EXIF" in note]
    assert len(notes) == 1
    assert notes[0].startswith("9 images have an EXIF orientation (6: 9), such as turned.")
    remedies = {offender.path: offender.remedy for offender in converted.conversion.quarantined}
    for name in ("other.png", "text.jpg", "float.tif", "integers.tif"):
        assert "JPEG, PNG, BMP, WEBP, GIF, TIFF, PPM" in remedies[name], name
    for name in ("truncated.jpg", "truncated.tif", "truncated.webp", "nothing.jpg", "huge.jpg", "huge.bmp"):
        assert "undamaged copy" in remedies[name], name
