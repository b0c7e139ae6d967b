"""Tracklets through `redress evaluate`: the published clips, averaged, ranked; tracklets may span row groups."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from datasets.conversion.convert import ConversionSettings, convert
from datasets.conversion.holdout import holdout
from datasets.format.schema import Sample
from datasets.format.tracklets import find_tracklets
from datasets.images.augment import preprocess
from datasets.images.decode import decode_image
from datasets.protocols import protocols
from datasets.protocols.protocols import PROTOCOLS
from datasets.shards.dataset import Dataset, write_dataset
from datasets.storage.store import open_store
from methods import METHODS
from orchestration.config import build
from orchestration.config.load import Experiment, load
from orchestration.config.settings import EvaluateSettings
from orchestration.config.stored import facts_of
from orchestration.engine import checkpoint
from orchestration.engine.restore import load_method_state
from orchestration.errors import RequestError
from orchestration.evaluation.embed import load_features
from orchestration.evaluation.evaluate import cache_key, evaluate
from orchestration.evaluation.score import score
from orchestration.training.train import train
from tests import layouts
from tests.layouts import Fixture
from tests.orchestration.checkpoints import checkpoint_of
from tests.orchestration.evaluation.published import reference
from tests.tiny import draw_crop, jpeg

pytestmark = pytest.mark.timeout(300)

SPLITS = ("query", "gallery")
WANTED = [
    "evaluate.clip_length=4",
    "evaluate.clip_stride=2",
    "evaluate.batch=9",
]  # as the fixture's clips; 2 clips a pass


@dataclass(frozen=True)
class Video:
    tree: Fixture
    experiment: Experiment
    model: str
    expected: dict[str, Tensor] = field(default_factory=dict)  # descriptor by tracklet, made in this process


@pytest.fixture(scope="module")
def video(place: Path) -> Video:
    tree = layouts.unpack("ccvid", place / "tree")
    convert("ccvid", tree.root, str(place / "ccvid"), ConversionSettings(row_group_bytes=3000))
    sizes = ["augment.height=32", "augment.width=16", "method.width=0.125", "precision=float64", "resources.cpus=0.5"]
    experiment = load("baseline-demo", [f"data={place / 'ccvid'}", f"storage={place}", *sizes, *WANTED])
    made = Video(tree, experiment, checkpoint_of(experiment, str(place / "run"), seed=1))
    made.expected.update({name: plainly(made, clips) for name, clips in published_clips(tree).items()})
    return made


def published_clips(tree: Fixture) -> dict[str, list[list[str]]]:
    """Tracklet → the files of each of its clips, as the published parser lists them."""
    [parser] = tree.expected["parsers"]
    options = parser["options"]
    assert (options["seq_len"], options["stride"]) == (4, 2), "clips of other frames than this test's settings"
    files = {row["path"]: row["frames"] for split in SPLITS for row in parser["splits"][split]}
    clips: dict[str, list[list[str]]] = {}
    for split in SPLITS:
        for clip in parser["extra"][f"{split}_clips"]:
            name = clip["tracklet"]
            clips.setdefault(name, []).append([f"{name}/{files[name][frame]}" for frame in clip["frames"]])
    return clips


def plainly(video: Video, clips: list[list[str]]) -> Tensor:
    """float32 [D]: raw features of clips, one at a time from the files, averaged, then of length 1."""
    found = checkpoint.find(video.model)
    method = build.build_method(video.experiment, facts_of(found))
    load_method_state(method, found)
    method.eval()
    settings = build.build_augmentation(video.experiment)
    total = torch.zeros(())
    with torch.inference_mode():
        for clip in clips:
            frames = [decode_image((video.tree.root / path).read_bytes())[None] for path in clip]
            images = torch.cat([preprocess(frame, settings, torch.float64) for frame in frames])
            total = total + method.embed(images[None])[0]
    mean = total / len(clips)
    return (mean / mean.norm()).float()


def people(folder: Path) -> str:
    """Train and test people of two outfits and two walks each, a tracklet of three frames for every pair of these."""
    content: dict[str, list[Sample]] = {"train": [], "query": [], "gallery": []}
    for person, outfit, walk in itertools.product(range(8), "ab", (1, 2)):
        name = f"session1/{person:03d}{outfit}_{walk:02d}"
        frames = (draw_crop(np.random.default_rng(frame), person, ord(outfit), (24, 12))[0] for frame in range(3))
        split = "train" if person < 6 else ("gallery", "query")[walk - 1]
        for frame, image in enumerate(frames):
            labels = f"{person:03d}", outfit, f"session1/{walk:02d}", name, str(frame)
            content[split].append(Sample(jpeg(image), None, *labels, f"{name}/{frame}.jpg"))
    about = {"name": "x", "version": "1", "licence": "none", "label_map": None, "protocol": "ccvid"}
    write_dataset(str(folder), content, **about, row_group_bytes=2000)
    return str(folder)


@pytest.fixture(scope="module")
def answer(video: Video) -> dict[str, Any]:
    return score(video.model, ["evaluate.rerank.k1=3", "evaluate.rerank.k2=2"])


def folder_of(answer: dict[str, Any]) -> Path:
    return Path(answer["pictures"][0]).parent


def test_some_tracklet_spans_row_groups(video: Video) -> None:
    index = Dataset.open(video.experiment.data).index("query")
    tracklets = find_tracklets(index)
    groups = [np.unique(index.group[rows]) for rows in np.split(tracklets.rows, tracklets.first[1:-1])]
    assert max(map(len, groups)) > 1


def test_descriptors_are_the_mean_of_the_published_clips(video: Video, answer: dict[str, Any]) -> None:
    dataset = Dataset.open(video.experiment.data)
    for split, index in zip(SPLITS, dataset.indexes(*SPLITS), strict=True):
        rows = protocols.samples(PROTOCOLS["ccvid"], index)
        found = load_features(open_store(str(folder_of(answer) / "features")), split, rows).features
        expected = torch.stack([video.expected[index.sequence_names[s]] for s in index.sequence[rows]])
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("rule", ["general", "same-clothes", "clothes-changing"])
def test_metrics_are_those_of_a_plain_loop_over_tracklets(video: Video, answer: dict[str, Any], rule: str) -> None:
    [parser] = video.tree.expected["parsers"]
    query, gallery = (sorted(parser["splits"][split], key=lambda row: row["path"]) for split in SPLITS)
    asked, shown = (torch.stack([video.expected[row["path"]] for row in rows]) for rows in (query, gallery))
    expected = reference((-asked @ shown.T).numpy(), query, gallery, rule)
    found = {name: answer["metrics"].get(f"{rule}/{name}") for name in expected}
    assert found == pytest.approx(expected, abs=1e-9)
    assert f"{rule}-reranked/mAP" in answer["metrics"]
    table = pq.read_table(folder_of(answer) / "queries.parquet").to_pylist()
    assert sorted(row["query"] for row in table if row["mode"] == rule) == [row["path"] for row in query]


def test_ranked_lists_show_frames(answer: dict[str, Any]) -> None:
    names = {Path(path).name for path in answer["pictures"]}
    assert {
        "cmc.png",
        "distances.png",
        "hard-triples.png",
        "t-sne.png",
        "ranked-lists-general.png",
        "ranked-lists-clothes-changing-reranked.png",
    } <= names
    assert all(Path(path).read_bytes().startswith(b"\x89PNG") for path in answer["pictures"])


def test_a_second_evaluation_embeds_nothing_anew(video: Video, answer: dict[str, Any]) -> None:
    written = {file: file.stat().st_mtime_ns for file in folder_of(answer).glob("features/*/*.parquet")}
    again = score(video.model, ["evaluate.flip=false"])  # clips are never mirrored
    assert folder_of(again) == folder_of(answer)
    assert {file: file.stat().st_mtime_ns for file in written} == written
    assert again["metrics"] == {k: v for k, v in answer["metrics"].items() if "-reranked/" not in k}


def test_descriptors_of_other_clips_are_kept_apart(video: Video) -> None:
    dataset, found = Dataset.open(video.experiment.data), checkpoint.find(video.model)
    told = [
        cache_key(found, dataset, PROTOCOLS[protocol], EvaluateSettings(clip_length=length, clip_stride=stride))
        for protocol, length, stride in [
            ("ccvid", 8, 4),
            ("ccvid", 4, 4),
            ("ccvid", 8, 2),
            ("ltcc", 8, 4),
            ("ltcc", 4, 2),
        ]
    ]
    assert len({json.dumps(one, sort_keys=True) for one in told}) == 4  # images have no clips


def test_a_method_of_single_images_is_refused_before_work(video: Video, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(METHODS["baseline"], "takes_clips", False)
    with pytest.raises(
        RequestError, match=r"'ccvid' ranks tracklets by their clips, and method 'baseline' takes single im"
    ):
        score(video.model)
    with pytest.raises(RequestError, match="Choose a data set of images, or a model of cal"):
        train(video.experiment)


def test_held_out_people_are_scored_by_their_tracklets(video: Video, place: Path) -> None:
    holdout(people(place / "people"), str(place / "held"), persons=2)
    experiment = video.experiment.model_copy(update={"data": str(place / "held")})
    result = evaluate(video.model, experiment, str(place / "selection"), validation=True)
    kinds = {name.partition("/")[0] for name in result.metrics}
    assert kinds == {"general", "same-clothes", "clothes-changing", "distance"}
    query = Dataset.open(str(place / "held")).index("val_query")
    for ranking in result.rankings.values():
        assert len(ranking.per_query_ap) == len(np.unique(query.sequence)) == 4
        assert ranking.num_valid >= 2
