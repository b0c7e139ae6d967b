"""`redress search`: the nearest of a folder or a data set, by the descriptors that evaluation would give, as a picture."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.images.augment import preprocess
from datasets.images.decode import decode_image
from datasets.shards.dataset import Dataset
from methods.ranking import describe
from orchestration.cli.main import main
from orchestration.config import build
from orchestration.config.load import Experiment, load
from orchestration.config.stored import facts_of
from orchestration.engine import checkpoint
from orchestration.engine.restore import load_method_state
from tests.orchestration.checkpoints import checkpoint_of
from tests.tiny import tiny_dataset, tiny_samples

pytestmark = pytest.mark.timeout(120)

SMALL = ["augment.height=32", "augment.width=16", "method.width=0.125", "workers=1", "resources.cpus=0.5"]


@dataclass(frozen=True)
class Searched:
    model: str
    experiment: Experiment
    folder: Path
    masks: Path
    query: Path
    answer: dict[str, Any]
    shown: str


@pytest.fixture(scope="module")
def data(place: Path) -> str:
    return tiny_dataset(place / "data", persons=4, test_persons=2)


@pytest.fixture(scope="module")
def folder(place: Path) -> Path:
    """Images below two folders, something that is none, and their masks in a tree of the same shape."""
    for sample in tiny_samples("gallery"):
        for below, content, suffix in (("crops", sample.image, ".jpg"), ("masks", sample.parsing or b"", ".png")):
            path = place / below / sample.person / Path(sample.key).with_suffix(suffix).name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    (place / "crops" / "broken.jpg").write_bytes(b"\xff\xd8 hardly an image")
    (place / "crops" / "notes.txt").write_text("no image, and passed over")
    return place / "crops"


@pytest.fixture(scope="module")
def experiment(data: str, place: Path) -> Experiment:
    return load("baseline-demo", [f"data={data}", f"storage={place / 'runs'}", *SMALL])


def ask(*words: str, result: Path) -> dict[str, Any]:
    assert main([*words, "--result", str(result)]) == 0
    return dict(json.loads(result.read_text()))


@pytest.fixture(scope="module")
def searched(experiment: Experiment, folder: Path, place: Path) -> Searched:
    model = checkpoint_of(experiment, str(place / "run"), seed=1)
    query = place / "query.jpg"
    query.write_bytes(next(iter(tiny_samples("query"))).image)
    out = place / "pictures" / "found.png"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", captured := io.StringIO())
        words = ["search", model, str(folder), str(query), "--top", "5", "--out", str(out)]
        answer = ask(*words, result=place / "search.json")
    return Searched(model, experiment, folder, place / "masks", query, answer, captured.getvalue())


def features_here(searched: Searched, paths: list[Path]) -> torch.Tensor:
    found = checkpoint.find(searched.model)
    method = build.build_method(searched.experiment, facts_of(found))
    load_method_state(method, found)
    images = torch.cat([decode_image(path.read_bytes())[None] for path in paths])
    with torch.no_grad():
        inputs = preprocess(images, build.build_augmentation(searched.experiment))
        return describe(method.eval().embed, inputs, flip=searched.experiment.evaluate.flip)


def test_the_nearest_of_a_folder_are_those_computed_in_this_process(searched: Searched) -> None:
    paths = sorted(path for path in searched.folder.rglob("*.jpg") if path.name != "broken.jpg")
    similarity = (features_here(searched, paths) @ features_here(searched, [searched.query])[0]).numpy()
    order = np.argsort(-similarity, kind="stable")[:5]
    [result] = searched.answer["results"]
    assert result["image"] == str(searched.query)
    assert [one["image"] for one in result["found"]] == [str(paths[at].relative_to(searched.folder)) for at in order]
    np.testing.assert_allclose([one["similarity"] for one in result["found"]], similarity[order], atol=1e-4)
    assert searched.answer["searched"] == len(paths)


def test_a_file_that_is_no_image_is_set_aside_and_named(searched: Searched) -> None:
    assert len(searched.answer["set_aside"]) == 1
    assert "broken.jpg" in searched.answer["set_aside"][0]
    assert "broken.jpg" in searched.shown


def test_the_picture_has_a_row_of_the_image_and_its_nearest(searched: Searched) -> None:
    with Image.open(searched.answer["picture"]) as picture:
        width, height = picture.size
    assert width > 600
    assert 200 < height < 500
    assert searched.answer["picture"] in searched.shown


@pytest.fixture(scope="module")
def with_masks(data: str, place: Path) -> str:
    wanted = load("ifd-demo", [f"data={data}", f"storage={place / 'runs'}", *SMALL])
    return checkpoint_of(wanted, str(place / "run-ifd"), seed=1)


def test_a_model_that_needs_masks_takes_them_from_a_folder(with_masks: str, searched: Searched, place: Path) -> None:
    images = [str(path) for path in sorted(searched.folder.rglob("*.jpg"))[:2]]
    masks = place / "of-queries"
    for path in map(Path, images):
        masks.mkdir(exist_ok=True)
        mask = searched.masks / path.relative_to(searched.folder).with_suffix(".png")
        (masks / mask.name).write_bytes(mask.read_bytes())
        (masks / path.parent.name).mkdir(exist_ok=True)
        (masks / path.parent.name / mask.name).write_bytes(mask.read_bytes())
    few = place / "few"
    for path in map(Path, images):
        (few / path.parent.name).mkdir(parents=True, exist_ok=True)
        (few / path.parent.name / path.name).write_bytes(path.read_bytes())
    words = ["search", with_masks, str(few), *images, "--parsing", str(masks), "--out", str(place / "masks.png")]
    answer = ask(*words, result=place / "search.json")
    assert [Path(one["found"][0]["image"]).name for one in answer["results"]] == [Path(p).name for p in images]
    assert all(one["found"][0]["similarity"] == pytest.approx(1, abs=1e-5) for one in answer["results"])


WRONG = {
    "no image": (["{folder}"], "Name one or more image files"),
    "not there": (["{folder}", "nowhere.jpg"], "nowhere.jpg cannot be read: No such file"),
    "a folder": (["{folder}", "{folder}"], "is a folder. Expected files"),
    "no picture": (["{folder}", "{folder}/broken.jpg"], "broken.jpg cannot be decoded"),
    "an empty gallery": (["{place}/empty", "{query}"], "neither a data set"),
    "only broken files": (["{place}/broken", "{query}"], "none of its 1 images can be decoded"),
    "a split of a folder": (["{folder}", "{query}", "--split", "val"], "has no splits"),
    "no such split": (["{data}", "{query}", "--split", "val"], "val"),
    "no such key": (["{data}", "query/nobody.jpg"], "neither a file nor a key of split 'query'"),
    "a file and a key": (
        ["{data}", "{query}", "query/nobody.jpg"],
        "Name either files or keys of the data set's queries",
    ),
    "no PNG": (["{folder}", "{query}", "--out", "found.jpg"], "expected a name that ends in .png"),
    "none found": (["{folder}", "{query}", "--top", "0"], "at least 1"),
}


@pytest.mark.parametrize("case", WRONG)
def test_invalid_requests_are_reported(
    case: str, searched: Searched, data: str, place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (place / "empty").mkdir(exist_ok=True)
    (place / "broken").mkdir(exist_ok=True)
    (place / "broken" / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    words, told = WRONG[case]
    names = {"folder": searched.folder, "place": place, "query": searched.query, "data": data}
    assert main(["search", searched.model, *(word.format(**names) for word in words)]) == 2
    assert told in capfd.readouterr().err


def test_missing_masks_are_reported_with_the_remedy(
    with_masks: str, searched: Searched, place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["search", with_masks, str(searched.folder), str(searched.query)]
    assert main(words) == 2
    told = capfd.readouterr().err
    assert "needs a parsing mask for each image" in told
    assert "--parsing MASKS" in told
    assert "lip20" in told
    assert main([*words, "--parsing", str(place / "empty")]) == 2
    assert "query.jpg has no mask at" in capfd.readouterr().err


def test_a_data_set_s_own_queries_have_frames_that_tell_right_from_wrong(
    searched: Searched, data: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["search", searched.model, data, "--top", "3", "--out", str(place / "data.png")]
    answer = ask(*words, result=place / "search.json")
    index = {sample.key: sample for split in ("query", "gallery") for sample in Dataset.open(data).samples(split)}
    assert {index[one["image"]].person for one in answer["results"]} == {"500", "501"}
    for one in answer["results"]:
        query = index[one["image"]]
        for found in one["found"]:
            entry = index[found["image"]]
            assert (found["person"], found["camera"]) == (entry.person, entry.camera)
            assert found["is_match"] == (entry.person == query.person)
            assert not found["is_match"] or (entry.camera != query.camera and entry.clothes != query.clothes)

    def embed_again(*_: object, **__: object) -> None:
        raise AssertionError("descriptors of this model and these data are there")

    monkeypatch.setattr("orchestration.search.gallery.embed", embed_again)
    [key] = {one["image"] for one in answer["results"][:1]}
    again = ask(*words[:3], key, str(words[-2]), str(words[-1]), result=place / "search.json")
    assert again["results"][0]["found"][:3] == answer["results"][0]["found"]
    by_file = ask(*words[:3], str(searched.query), *words[-2:], result=place / "search.json")
    assert "is_match" not in by_file["results"][0]["found"][0]
