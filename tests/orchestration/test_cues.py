"""The cue study of an evaluation: descriptors of what a cue shows, names of results, what is kept apart, wrong requests."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import Tensor

from datasets.augment import prepare, prepare_parsing
from datasets.cues import CUES, CueName, mean_colour, show
from datasets.decode import decode_image, decode_parsing
from datasets.schema import LABEL_MAPS
from datasets.shards import Dataset, write_dataset
from datasets.store import open_store
from methods.ranking import describe
from orchestration import assembly, checkpoint
from orchestration.embed import load_features
from orchestration.errors import RequestError
from orchestration.evaluate import Evaluation, evaluate
from orchestration.experiment import Experiment, load
from orchestration.scoring import score
from tests.orchestration.checkpoints import checkpoint_of
from tests.tiny import tiny_dataset, tiny_samples

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

MODES = ("general", "same-clothes", "clothes-changing")
SMALL = [
    "workers=2", "resources.cpus=0.5", "augment.height=32", "augment.width=16", "method.width=0.125", "evaluate.batch=3",
]  # fmt: skip


def wanted(recipe: str, data: str, place: Path, *more: str) -> Experiment:
    return load(recipe, [f"data={data}", f"storage={place}", *SMALL, *more])


@dataclass(frozen=True)
class Scored:
    """A model that takes masks beside images, its scores of two cues, and descriptors made in this process."""

    model: str
    experiment: Experiment
    folder: Path
    result: Evaluation
    whole: Evaluation
    told: list[tuple[int, int]]


@pytest.fixture(scope="module")
def data(place: Path) -> str:
    return tiny_dataset(place / "data", test_persons=12, size=(40, 24), row_group_bytes=8 << 10)


@pytest.fixture(scope="module")
def scored(data: str, place: Path, ray_cluster: str) -> Scored:
    plain = wanted("ifd-demo", data, place, "method.mask_margin=0")
    asked = wanted("ifd-demo", data, place, "method.mask_margin=0", "evaluate.cues=[head,body-rows]")
    model = checkpoint_of(plain, str(place / "model"), seed=1)
    told: list[tuple[int, int]] = []
    folder = place / "evaluation"
    whole = evaluate(model, plain, str(folder), draw_pictures=False)
    result = evaluate(model, asked, str(folder), progress=lambda done, total, note=None: told.append((done, total)))
    return Scored(model, asked, folder, result, whole, told)


def features_here(scored: Scored, split: str, cue: CueName | None) -> Tensor:
    """Descriptors of a split: image and mask painted over alike, before they are resized."""
    found = checkpoint.find(scored.model)
    method = assembly.build_method(scored.experiment, found.facts)
    checkpoint.load_method_state(method, found)
    settings = assembly.build_augmentation(scored.experiment)
    images, masks = [], []
    for sample in Dataset.open(scored.experiment.data).samples(split):
        image, mask = decode_image(sample.image)[None], decode_parsing(sample.parsing or b"")[None]
        if cue:
            image, left = show(CUES[cue], image, mask, LABEL_MAPS["lip20"], mean_colour(settings.mean))
            assert left is not None
            mask = left
        images.append(prepare(image, settings))
        masks.append(prepare_parsing(mask, settings))
    with torch.inference_mode():
        return describe(method.eval().embed, torch.cat(images), torch.cat(masks))


@pytest.mark.parametrize("cue", [None, "head", "body-rows"])
def test_descriptors_are_of_what_the_cue_shows_of_image_and_mask(scored: Scored, cue: CueName | None) -> None:
    folder = scored.folder / "cues" / cue if cue else scored.folder
    for split in ("query", "gallery"):
        expected = features_here(scored, split, cue)
        found = load_features(open_store(str(folder / "features")), split, np.arange(len(expected))).features
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_each_cue_has_results_of_its_own_beside_those_of_whole_images(scored: Scored) -> None:
    measures = ("mAP", "mINP", "rank-1", "rank-5", "rank-10", "rank-20")
    expected = {f"{mode}{cue}/{one}" for mode in MODES for cue in ("", "-head", "-body-rows") for one in measures}
    assert set(scored.result.metrics) == expected
    assert {name: scored.result.metrics[name] for name in scored.whole.metrics} == scored.whole.metrics
    table = pq.read_table(scored.folder / "queries.parquet")
    modes = [f"{mode}{cue}" for mode in MODES for cue in ("", "-head", "-body-rows")]
    assert list(dict.fromkeys(table["mode"].to_pylist())) == modes


def test_pictures_show_the_lists_of_each_cue_and_a_sheet_of_what_the_model_saw(scored: Scored) -> None:
    lists = {f"ranked-lists-{mode}{cue}.png" for mode in MODES for cue in ("", "-head", "-body-rows")}
    assert set(scored.result.pictures) == {"cmc.png", "cues.png", "hard-triples.png", *lists}
    sheet = np.asarray(Image.open(io.BytesIO(scored.result.pictures["cues.png"])).convert("RGB")).astype(int)
    painted = (np.abs(sheet - mean_colour((0.485, 0.456, 0.406))).max(2) <= 1).mean()
    assert 0.1 < painted < 0.6
    assert (scored.folder / "cues.png").exists()


def test_progress_counts_the_images_of_all_cues(scored: Scored) -> None:
    num_images = sum(len(Dataset.open(scored.experiment.data).index(split)) for split in ("query", "gallery"))
    done, total = zip(*scored.told, strict=True)
    assert set(total) == {3 * num_images}
    assert list(done) == sorted(done)
    assert done[0] == num_images, "descriptors of whole images are taken up from the evaluation before"
    assert done[-1] == 3 * num_images


def test_descriptors_of_another_cue_or_model_are_not_taken_for_these(scored: Scored, place: Path) -> None:
    """What was described once is taken up, cue by cue; another model's are made anew."""
    before = {path: path.stat().st_mtime_ns for path in scored.folder.rglob("*/features/*/*.parquet")}
    other = wanted(
        "ifd-demo", scored.experiment.data, place, "method.mask_margin=0", "evaluate.cues=[body-rows,head-rows]"
    )
    again = evaluate(scored.model, other, str(scored.folder), draw_pictures=False)
    now = {path: path.stat().st_mtime_ns for path in scored.folder.rglob("*/features/*/*.parquet")}
    assert before.items() < now.items()
    assert {path.relative_to(scored.folder).parts[1] for path in now.keys() - before.keys()} == {"head-rows"}
    shared = [name for name in scored.result.metrics if "-head/" not in name]
    assert {name: again.metrics[name] for name in shared} == {name: scored.result.metrics[name] for name in shared}
    stranger = checkpoint_of(scored.experiment, str(place / "stranger"), seed=2)
    renewed = evaluate(stranger, scored.experiment, str(scored.folder), draw_pictures=False)
    assert renewed.metrics != scored.result.metrics
    assert all(path.stat().st_mtime_ns > time for path, time in before.items())


def test_redress_evaluate_scores_cues_and_ranks_them_again(data: str, place: Path, ray_cluster: str) -> None:
    model = checkpoint_of(wanted("baseline-demo", data, place), str(place / "plain"), seed=1)
    answer = score(model, ["evaluate.cues=[head-body]", "evaluate.rerank={k1: 3, k2: 1}"])
    modes = dict.fromkeys(name.rpartition("/")[0] for name in answer["metrics"])
    assert list(modes) == [
        f"{mode}{cue}{how}" for cue in ("", "-head-body") for mode in MODES for how in ("", "-reranked")
    ]  # fmt: skip
    assert sum(path.endswith("/cues.png") for path in answer["pictures"]) == 1


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
        RequestError, match=r"evaluate.cues = head, body: .* without one in gallery, query\. .*take head-rows"
    ):
        evaluate(model, wanted("baseline-demo", without, place, "evaluate.cues=[head,body]"), str(tmp_path / "no"))
    with pytest.raises(
        RequestError, match=r"evaluate.cues = body: .*'pascal7' .*does not tell feet from legs .*body-rows"
    ):
        evaluate(model, wanted("baseline-demo", footless, place, "evaluate.cues=[head,body]"), str(tmp_path / "no"))
    assert not (tmp_path / "no").exists()


def test_a_cue_that_is_none_is_named_with_those_there_are(data: str, place: Path) -> None:
    with pytest.raises(
        RequestError, match=r"evaluate.cues.*head, head-body, body, head-rows, head-body-rows or body-rows"
    ):
        wanted("baseline-demo", data, place, "evaluate.cues=[hed]")
