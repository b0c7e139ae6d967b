"""Queries and galleries: images of folders and files with their masks, and a split's stored descriptors. No Ray."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from datasets.format.schema import Sample
from datasets.images.decode import DecodeError, decode_image
from datasets.protocols.protocols import PROTOCOLS
from datasets.shards.dataset import Dataset
from orchestration.engine import checkpoint
from orchestration.errors import RequestError
from orchestration.progress import Progress
from orchestration.registry.locate import Located
from orchestration.search import gallery
from orchestration.search.gallery import BATCH, Described, embedded, masks_below, of_files, of_folder, of_split, pixels
from tests.orchestration.checkpoints import checkpoint_of
from tests.orchestration.reviewed_models import Place, make_place, recipe, store_descriptors
from tests.tiny import tiny_samples


class Network:
    """Describes an image by its mean colour, and knows the masks that it is given."""

    label_map = "lip20"

    def __init__(self, masks: str | None = None, *, needs_masks: bool = False) -> None:
        self.masks, self.needs_masks = masks, needs_masks
        self.sizes: list[int] = []
        self.seen: list[Sample] = []

    def describe(self, samples: list[Sample]) -> Tensor:
        self.sizes.append(len(samples))
        self.seen += samples
        return torch.stack([decode_image(s.image, s.key).float().mean((1, 2)) for s in samples])


def network(masks: str | None = None, *, needs_masks: bool = False) -> Any:
    return Network(masks, needs_masks=needs_masks)


SAMPLES = list(tiny_samples("gallery"))
BROKEN = b"\xff\xd8 hardly an image"


def mean_colour(sample: Sample) -> Tensor:
    return decode_image(sample.image).float().mean((1, 2))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images a/0.jpg … in two folders, one broken, and a text."""
    for number, sample in enumerate(SAMPLES[:5]):
        path = tmp_path / "crops" / ("a" if number < 3 else "b") / f"{number}.JPG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sample.image)
    (tmp_path / "crops" / "a" / "broken.png").write_bytes(BROKEN)
    (tmp_path / "crops" / "notes.txt").write_text("no image")
    return tmp_path / "crops"


def test_a_folder_s_images_are_entries_and_broken_ones_are_set_aside(folder: Path) -> None:
    found = of_folder(network(), str(folder), Progress())
    assert list(found.names) == ["a/0.JPG", "a/1.JPG", "a/2.JPG", "b/3.JPG", "b/4.JPG"]
    torch.testing.assert_close(found.features, torch.stack([mean_colour(one) for one in SAMPLES[:5]]))
    assert [found.image(at) for at in range(len(found))] == [one.image for one in SAMPLES[:5]]
    [message] = found.set_aside
    assert "a/broken.png" in message
    assert found.labels is None
    assert found.facts(0) == {}


def test_a_large_folder_is_described_in_batches(tmp_path: Path) -> None:
    for number in range(BATCH + 3):
        (tmp_path / f"{number:03d}.jpg").write_bytes(SAMPLES[number % len(SAMPLES)].image)
    model = network()
    assert len(of_folder(model, str(tmp_path), Progress())) == BATCH + 3
    assert model.sizes == [BATCH, 3]


def test_a_folder_without_images_and_one_of_broken_images_are_wrong_requests(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(
        RequestError, match=r"is neither a data set \(manifest.json is missing\) nor a folder with images"
    ):
        of_folder(network(), str(tmp_path), Progress())
    (tmp_path / "a.jpg").write_bytes(BROKEN)
    with pytest.raises(RequestError, match=r"none of its 1 images can be decoded: .*a\.jpg"):
        of_folder(network(), str(tmp_path), Progress())


def test_one_broken_image_costs_only_itself() -> None:
    samples = [SAMPLES[0], Sample(BROKEN, None, "", None, None, None, None, "broken"), SAMPLES[1]]
    found = dict(embedded(network(), samples))
    assert list(found) == [SAMPLES[0].key, "broken", SAMPLES[1].key]
    assert isinstance(found["broken"], DecodeError)
    torch.testing.assert_close(found[SAMPLES[1].key], mean_colour(SAMPLES[1]))


def test_files_are_entries_under_their_paths(folder: Path) -> None:
    paths = [str(folder / "b" / "4.JPG"), str(folder / "a" / "0.JPG")]
    found = of_files(network(), paths)
    assert list(found.names) == paths
    assert found.image(1) == SAMPLES[0].image
    torch.testing.assert_close(found.features, torch.stack([mean_colour(SAMPLES[4]), mean_colour(SAMPLES[0])]))


def test_files_that_cannot_be_queries_are_named(folder: Path) -> None:
    with pytest.raises(RequestError, match=r"crops is a folder. Expected files; a folder can only be the GALLERY"):
        of_files(network(), [str(folder)])
    with pytest.raises(RequestError, match=r"nowhere\.jpg cannot be read: No such file"):
        of_files(network(), [str(folder / "nowhere.jpg")])
    with pytest.raises(RequestError, match=r"broken\.png cannot be decoded"):
        of_files(network(), [str(folder / "a" / "0.JPG"), str(folder / "a" / "broken.png")])


def test_a_model_that_needs_masks_gets_each_image_s_own(folder: Path, tmp_path: Path) -> None:
    for number, sample in enumerate(SAMPLES[:5]):
        path = tmp_path / "masks" / ("a" if number < 3 else "b") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sample.parsing or b"")
    (tmp_path / "masks" / "a" / "broken.png").write_bytes(SAMPLES[0].parsing or b"")
    model = network(str(tmp_path / "masks"), needs_masks=True)
    of_folder(model, str(folder), Progress())
    masks = {sample.key: sample.parsing for sample in model.seen}
    assert [masks[f"{'a' if n < 3 else 'b'}/{n}.JPG"] for n in range(5)] == [one.parsing for one in SAMPLES[:5]]


def test_a_model_that_needs_no_masks_reads_none(tmp_path: Path) -> None:
    find = masks_below(network(str(tmp_path / "nowhere")), "the images")
    assert find("a.jpg") is None


def test_masks_that_are_missing_or_broken_are_reported_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(RequestError) as raised:
        masks_below(network(needs_masks=True), "the images")
    assert str(raised.value).startswith(
        "this model needs a parsing mask for each image, and the images have none. Set --parsing"
    )
    assert "by label map lip20" in str(raised.value)
    find = masks_below(network(str(tmp_path), needs_masks=True), "the images")
    with pytest.raises(RequestError, match=r"^a/0\.jpg has no mask at .*a/0\.png \("):
        find("a/0.jpg")
    (tmp_path / "0.png").write_bytes(BROKEN)
    with pytest.raises(RequestError, match=r"^0\.jpg has no mask at .*0\.png \("):
        find("0.jpg")


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> tuple[Described, Path]:
    """A data set and a model whose evaluation left its descriptors in the run's storage."""
    place: Place = make_place(tmp_path_factory.mktemp("gallery"), persons=4)
    experiment, run = recipe(place), place.runs / "r"
    address = checkpoint_of(experiment, str(run), 1)
    store_descriptors(str(run), address, experiment, 0.5, 1)
    located = Located(checkpoint.find(address), str(run), None)
    return Described(located, experiment, Dataset.open(place.data), PROTOCOLS["ltcc"]), run


def test_a_split_has_its_stored_descriptors_images_and_labels(
    described: tuple[Described, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def embed_again(*_: object, **__: object) -> None:
        raise AssertionError("the descriptors are stored")

    monkeypatch.setattr(gallery, "embed", embed_again)
    data, _ = described
    index = data.dataset.index("gallery")
    found = of_split(data, index, Progress())
    samples = {sample.key: sample for sample in data.dataset.samples("gallery")}
    assert list(found.names) == index.keys()
    torch.testing.assert_close(found.features.norm(dim=1), torch.ones(len(index)))
    for at in (0, len(index) // 2, len(index) - 1):
        sample = samples[found.names[at]]
        assert found.image(at) == sample.image
        assert found.facts(at) == {"person": sample.person, "clothes": sample.clothes, "camera": sample.camera}
    assert found.labels is not None
    np.testing.assert_array_equal(found.labels.person, index.person)


def test_a_split_without_stored_descriptors_is_embedded_into_the_folder_of_its_cache_key(
    described: tuple[Described, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, run = described
    other = Described(data.located, data.experiment.model_copy(
        update={"evaluate": data.experiment.evaluate.model_copy(update={"flip": False})}
    ), data.dataset, data.protocol)  # fmt: skip
    jobs: list[Any] = []
    monkeypatch.setattr(gallery, "embed", lambda job, splits, **_: jobs.append((job, splits)))
    expected = SimpleNamespace(rows=np.arange(3))
    monkeypatch.setattr(gallery, "load_features", lambda *_: expected)
    assert gallery.stored_or_computed(other, data.dataset.index("query"), Progress()) is expected
    [(job, splits)] = jobs
    assert splits == ["query"]
    assert job.model == data.located.checkpoint.address
    assert not job.flip
    destination = Path(job.destination)
    assert destination.parent.parent == run / "evaluations"
    assert (destination.parent / "embedding.json").is_file()


def test_pixels_are_height_by_width_by_colour() -> None:
    assert pixels(SAMPLES[0].image).shape == (32, 16, 3)
