"""The cue study of an evaluation: descriptors of what a cue shows, names of results, what is kept apart, wrong requests."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import Tensor

from datasets.images.augment import preprocess, preprocess_parsing
from datasets.images.cues import CUES, CueName, mean_colour, show
from datasets.images.decode import decode_image, decode_parsing
from datasets.images.label_maps import LABEL_MAPS
from datasets.shards.dataset import Dataset, write_dataset
from datasets.storage.store import open_store
from methods.matches import Labels
from methods.ranking import describe, rank
from orchestration.config import build
from orchestration.config.load import Experiment, load
from orchestration.config.stored import facts_of
from orchestration.engine import checkpoint
from orchestration.engine.restore import load_method_state
from orchestration.errors import RequestError
from orchestration.evaluation.embed import load_features
from orchestration.evaluation.evaluate import evaluate, invalidate_stale_cache
from orchestration.evaluation.score import score
from orchestration.measures import DISTANCES
from tests.orchestration.checkpoints import checkpoint_of
from tests.tiny import tiny_dataset, tiny_samples

pytestmark = pytest.mark.timeout(300)

MODES = ("general", "same-clothes", "clothes-changing")
SMALL = [
    "workers=2", "resources.cpus=0.5", "augment.height=32", "augment.width=16", "method.width=0.125", "evaluate.batch=3",
]  # fmt: skip


def wanted(recipe: str, data: str, place: Path, *more: str) -> Experiment:
    return load(recipe, [f"data={data}", f"storage={place}", *SMALL, *more])


@dataclass(frozen=True)
class Scored:
    """A model that takes masks beside images, what `redress evaluate` answers of it and two cues, and where the results lie."""

    model: str
    experiment: Experiment
    answer: dict[str, Any]
    folder: Path


@pytest.fixture(scope="module")
def data(place: Path) -> str:
    return tiny_dataset(place / "data", test_persons=12, images=3, size=(40, 24), row_group_bytes=8 << 10)


@pytest.fixture(scope="module")
def scored(data: str, place: Path) -> Scored:
    experiment = wanted("ifd-demo", data, place, "method.mask_margin=0")
    model = checkpoint_of(experiment, str(place / "model"), seed=1)
    answer = score(model, ["evaluate.cues=[head,body-rows]"])
    return Scored(model, experiment, answer, Path(answer["pictures"][0]).parent)


def features_here(scored: Scored, split: str, cue: CueName | None) -> Tensor:
    """Descriptors of a split: image and mask painted over alike, before they are resized."""
    found = checkpoint.find(scored.model)
    method = build.build_method(scored.experiment, facts_of(found))
    load_method_state(method, found)
    settings = build.build_augmentation(scored.experiment)
    images, masks = [], []
    for sample in Dataset.open(scored.experiment.data).samples(split):
        image, mask = decode_image(sample.image)[None], decode_parsing(sample.parsing or b"")[None]
        if cue:
            image, left = show(CUES[cue], image, mask, LABEL_MAPS["lip20"], mean_colour(settings.mean))
            assert left is not None
            mask = left
        images.append(preprocess(image, settings))
        masks.append(preprocess_parsing(mask, settings))
    with torch.inference_mode():
        return describe(method.eval().embed, torch.cat(images), torch.cat(masks))


@pytest.mark.parametrize("cue", [None, "head", "body-rows"])
def test_descriptors_are_of_what_the_cue_shows_of_image_and_mask(scored: Scored, cue: CueName | None) -> None:
    for split in ("query", "gallery"):
        expected = features_here(scored, split, cue)
        store = open_store(str(scored.folder / "features"))
        found = load_features(store, split, np.arange(len(expected)), cue).features
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_each_cue_has_results_of_its_own_beside_those_of_whole_images(scored: Scored) -> None:
    measures = ("mAP", "mINP", "rank-1", "rank-5", "rank-10", "rank-20")
    expected = {f"{mode}{cue}/{one}" for mode in MODES for cue in ("", "-head", "-body-rows") for one in measures}
    assert set(scored.answer["metrics"]) == expected | set(DISTANCES)
    table = pq.read_table(scored.folder / "queries.parquet")
    assert list(dict.fromkeys(table["mode"].to_pylist())) == [
        f"{mode}{cue}" for mode in MODES for cue in ("", "-head", "-body-rows")
    ]
    for cue in (None, "head", "body-rows"):
        query, gallery = (features_here(scored, split, cue) for split in ("query", "gallery"))
        labels = [Dataset.open(scored.experiment.data).index(split) for split in ("query", "gallery")]
        of_query, of_gallery = (Labels(one.person, one.camera, one.clothes) for one in labels)
        ranking = rank(query, gallery, of_query, of_gallery, "clothes-changing")
        name = f"clothes-changing-{cue}/mAP" if cue else "clothes-changing/mAP"
        assert scored.answer["metrics"][name] == pytest.approx(ranking.mAP, abs=1e-6)


def test_pictures_show_the_lists_of_each_cue_and_a_sheet_of_what_the_model_saw(scored: Scored) -> None:
    lists = {f"ranked-lists-{mode}{cue}.png" for mode in MODES for cue in ("", "-head", "-body-rows")}
    names = {Path(path).name for path in scored.answer["pictures"]}
    assert names == {"cmc.png", "cues.png", "distances.png", "hard-triples.png", "t-sne.png", *lists}
    sheet = np.asarray(Image.open(scored.folder / "cues.png").convert("RGB")).astype(int)
    painted = (np.abs(sheet - mean_colour((0.485, 0.456, 0.406))).max(2) <= 1).mean()
    assert 0.1 < painted < 0.6


def test_what_was_described_is_taken_up_cue_by_cue_also_for_ranking_again(scored: Scored, place: Path) -> None:
    before = written(scored.folder)
    asked = ["evaluate.cues=[body-rows,head-rows]", "evaluate.rerank={k1: 3, k2: 1}"]
    other = wanted("ifd-demo", scored.experiment.data, place, "method.mask_margin=0", *asked)
    told: list[tuple[int, int, str | None]] = []
    again = evaluate(
        scored.model,
        other,
        str(scored.folder),
        details=False,
        progress=lambda done, total, note=None: told.append((done, total, note)),
    )
    now = written(scored.folder)
    assert before.items() < now.items()
    assert {path.parts[0] for path in now.keys() - before.keys()} == {"head-rows"}
    ranked = {name: value for name, value in scored.answer["metrics"].items() if name not in DISTANCES}
    shared = {name: value for name, value in ranked.items() if "-head/" not in name}
    assert {name: again.metrics[name] for name in shared} == shared
    modes = list(dict.fromkeys(name.rpartition("/")[0] for name in again.metrics))
    assert modes == [
        f"{mode}{cue}{how}" for cue in ("", "-body-rows", "-head-rows") for mode in MODES for how in ("", "-reranked")
    ]
    num_images = sum(len(Dataset.open(scored.experiment.data).index(split)) for split in ("query", "gallery"))
    of_images = [(done, total) for done, total, note in told if note is None]
    assert of_images[0] == (2 * num_images, 3 * num_images), "two of three cues are there"
    assert of_images[-1] == (3 * num_images, 3 * num_images)
    invalidate_stale_cache(open_store(str(scored.folder)), {"model": "another"})
    assert written(scored.folder) == {}


def written(folder: Path) -> dict[Path, int]:
    """Files of descriptors, below their folder, and when they were written."""
    features = folder / "features"
    return {path.relative_to(features): path.stat().st_mtime_ns for path in features.rglob("*.parquet")}


def bare(address: Path, label_map: str | None) -> str:
    """Test images with masks by a label map, or without; the gallery has none in either case where it is None."""
    splits = {
        name: [sample if label_map else replace(sample, parsing=None) for sample in tiny_samples(name, size=(40, 24))]
        for name in ("train", "query", "gallery")
    }
    write_dataset(
        str(address), splits, name="t", version="1", licence="drawn for tests", label_map=label_map, protocol="ltcc"
    )
    return str(address)


def test_cues_that_the_data_cannot_show_are_a_wrong_request_before_work(place: Path, tmp_path: Path) -> None:
    without, footless = bare(tmp_path / "bare", None), bare(tmp_path / "footless", "pascal7")
    model = checkpoint_of(wanted("baseline-demo", without, place), str(tmp_path / "model"), seed=1)
    with pytest.raises(
        RequestError,
        match=r"evaluate.cues = head, body: .* images in gallery, query of data .* have none\. .*use head-rows",
    ):
        evaluate(model, wanted("baseline-demo", without, place, "evaluate.cues=[head,body]"), str(tmp_path / "no"))
    with pytest.raises(
        RequestError, match=r"evaluate.cues = body: .*'pascal7' .*does not separate feet from legs .*body-rows"
    ):
        evaluate(model, wanted("baseline-demo", footless, place, "evaluate.cues=[head,body]"), str(tmp_path / "no"))
    assert not (tmp_path / "no").exists()


def test_a_cue_that_is_none_is_named_with_those_there_are(data: str, place: Path) -> None:
    with pytest.raises(
        RequestError, match=r"evaluate.cues.*head, head-body, body, head-rows, head-body-rows or body-rows"
    ):
        wanted("baseline-demo", data, place, "evaluate.cues=[hed]")
