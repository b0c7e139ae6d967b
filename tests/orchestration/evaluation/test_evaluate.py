"""Evaluation through Ray Data: every row embedded once, scored as features made in this process are, taken up again."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from datasets.images.augment import preprocess
from datasets.images.decode import decode_image
from datasets.protocols.protocols import PROTOCOLS
from datasets.shards.dataset import Dataset
from datasets.storage.store import open_store
from methods.matches import Labels
from methods.ranking import describe, rank
from orchestration.config import build
from orchestration.config.load import Experiment, load
from orchestration.config.stored import facts_of
from orchestration.engine import checkpoint
from orchestration.engine.restore import load_method_state
from orchestration.errors import RequestError
from orchestration.evaluation import embed
from orchestration.evaluation.embed import load_features
from orchestration.evaluation.evaluate import Evaluation, evaluate
from orchestration.measures import DISTANCES
from tests.orchestration.checkpoints import checkpoint_of
from tests.tiny import tiny_dataset

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

SPLITS = ("query", "gallery")


@dataclass(frozen=True)
class Scored:
    model: str
    experiment: Experiment
    folder: Path
    result: Evaluation
    expected: dict[str, Tensor]  # descriptors by split, made in this process


@pytest.fixture(scope="module")
def experiment(place: Path) -> Experiment:
    data = tiny_dataset(place / "data", test_persons=16, size=(64, 32), row_group_bytes=8 << 10)
    settings = [f"data={data}", f"storage={place}", "workers=2", "resources.cpus=0.5", "evaluate.batch=3"]
    sizes = ["augment.height=64", "augment.width=32", "method.width=0.375", "precision=float64"]
    return load("baseline-demo", [*settings, *sizes])


@pytest.fixture(scope="module", autouse=True)
def on_ray() -> Iterator[None]:
    """However few images there are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embed, "IN_PROCESS", 0)
        yield


@pytest.fixture(scope="module")
def scored(experiment: Experiment, place: Path, ray_cluster: str) -> Scored:
    model = checkpoint_of(experiment, str(place / "model"), seed=1)
    folder = place / "evaluation"
    expected = {split: features_here(model, experiment, split) for split in SPLITS}
    return Scored(model, experiment, folder, evaluate(model, experiment, str(folder)), expected)


def features_here(model: str, experiment: Experiment, split: str) -> Tensor:
    """Descriptors of a split, all at once and in this process: float32 [N, D]."""
    found = checkpoint.find(model)
    method = build.build_method(experiment, facts_of(found))
    load_method_state(method, found)
    method.eval()
    settings = build.build_augmentation(experiment)
    images = [decode_image(sample.image)[None] for sample in Dataset.open(experiment.data).samples(split)]
    with torch.inference_mode():
        return describe(method.embed, preprocess(torch.cat(images), settings, torch.float64)).float()


def labels_here(data: str, split: str) -> Labels:
    """From the strings of the data set, numbered by what Python makes of them."""
    samples = list(Dataset.open(data).samples(split))
    columns = ([s.person for s in samples], [s.camera for s in samples], [f"{s.person}/{s.clothes}" for s in samples])
    return Labels(*(torch.tensor([int.from_bytes(text.encode(), "big") for text in column]) for column in columns))


def features_there(folder: Path, data: str, split: str) -> Tensor:
    rows = np.arange(len(Dataset.open(data).index(split)))
    return load_features(open_store(str(folder / "features")), split, rows).features


def test_descriptors_are_those_computed_in_this_process(scored: Scored) -> None:
    for split in SPLITS:
        found = features_there(scored.folder, scored.experiment.data, split)
        torch.testing.assert_close(found, scored.expected[split], rtol=0, atol=1e-6)
        torch.testing.assert_close(found.norm(dim=1), torch.ones(len(found)))


def test_metrics_are_those_of_ranking_in_this_process(scored: Scored) -> None:
    of_query, of_gallery = (labels_here(scored.experiment.data, split) for split in SPLITS)
    expected = {}
    for mode in PROTOCOLS["ltcc"].modes:
        ranking = rank(
            scored.expected["query"], scored.expected["gallery"], of_query, of_gallery, mode.rule, ranks=(1, 5, 10, 20)
        )
        expected |= {f"{mode.name}/rank-{k}": value for k, value in ranking.cmc.items()}
        expected |= {f"{mode.name}/mAP": ranking.mAP, f"{mode.name}/mINP": ranking.mINP}
    found = {name: value for name, value in scored.result.metrics.items() if name not in DISTANCES}
    assert found == pytest.approx(expected, abs=1e-9)
    assert len(expected) == 18


def test_distances_are_those_of_the_pairs_in_this_process(scored: Scored) -> None:
    of_query, of_gallery = (labels_here(scored.experiment.data, split) for split in SPLITS)
    distance = 1 - (scored.expected["query"].double() @ scored.expected["gallery"].double().T).numpy()
    same = of_query.person[:, None] == of_gallery.person
    counted = same & (of_query.camera[:, None] != of_gallery.camera)
    alike = of_query.clothes[:, None] == of_gallery.clothes
    sets = (counted & alike, counted & ~alike, counted, ~same)
    means = [distance[pairs].mean() for pairs in sets]
    expected = dict(zip(DISTANCES, [*means, means[3] - means[2]], strict=True))
    assert {name: scored.result.metrics[name] for name in DISTANCES} == pytest.approx(expected, abs=1e-6)


def test_each_querys_result_is_kept(scored: Scored) -> None:
    table = pq.read_table(scored.folder / "queries.parquet")
    keys = Dataset.open(scored.experiment.data).index("query").keys()
    for mode, ranking in scored.result.rankings.items():
        rows = table.filter(np.array(table["mode"].to_pylist()) == mode)
        assert rows["query"].to_pylist() == keys
        precision = [p for p in rows["average_precision"].to_pylist() if p is not None]
        assert np.mean(precision) == pytest.approx(scored.result.metrics[f"{mode}/mAP"])
        assert len(precision) == ranking.num_valid


def test_pictures_are_written(scored: Scored) -> None:
    others = {"cmc.png", "distances.png", "hard-triples.png", "t-sne.png"}
    names = others | {*(f"ranked-lists-{mode.name}.png" for mode in PROTOCOLS["ltcc"].modes)}
    assert set(scored.result.pictures) == names
    for name in names:
        assert (scored.folder / name).read_bytes().startswith(b"\x89PNG")


def test_a_second_evaluation_takes_up_what_is_there(scored: Scored) -> None:
    before = written(scored.folder)
    told: list[tuple[int, int]] = []
    again = evaluate(
        scored.model,
        scored.experiment,
        str(scored.folder),
        progress=lambda *done: told.append(done),
        details=False,
    )
    assert again.metrics == {name: value for name, value in scored.result.metrics.items() if name not in DISTANCES}
    assert written(scored.folder) == before
    assert told[-1][0] == told[-1][1] == sum(len(Dataset.open(scored.experiment.data).index(s)) for s in SPLITS)


def test_rows_without_descriptors_are_counted(scored: Scored, tmp_path: Path) -> None:
    (tmp_path / "query").mkdir()
    files = sorted((scored.folder / "features/query").iterdir())
    for file in files[1:]:
        (tmp_path / "query" / file.name).write_bytes(file.read_bytes())
    missing, total = len(pq.read_table(files[0])), len(Dataset.open(scored.experiment.data).index("query"))
    with pytest.raises(RuntimeError, match=rf"{missing} of {total} rows of split 'query' have no features.*again"):
        load_features(open_store(str(tmp_path)), "query", np.arange(total))


def test_another_model_and_a_killed_actor_leave_no_row_wrong(scored: Scored, place: Path, ray_cluster: str) -> None:
    """The descriptors at the destination are of another model, and an actor dies while they are made anew."""
    other = checkpoint_of(scored.experiment, str(place / "other"), seed=2)
    before = written(scored.folder)
    with ThreadPoolExecutor(1) as pool:
        killed = pool.submit(kill_an_actor, ray_cluster, scored.folder, before)
        result = evaluate(other, scored.experiment, str(scored.folder), details=False)
        num_left = killed.result()
    assert num_left > 0, "nothing was left to do"
    for split in SPLITS:
        expected = features_here(other, scored.experiment, split)
        found = features_there(scored.folder, scored.experiment.data, split)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert result.metrics != scored.result.metrics


def kill_an_actor(cluster: str, folder: Path, before: dict[str, int]) -> int:
    """SIGKILL an embedding actor once some files are anew; returns how many files were still to come."""
    from ray.util.state import list_actors

    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        now = written(folder)
        if len(now) >= 3 and not set(now.items()) & set(before.items()):
            actors = list_actors(cluster, filters=[("state", "=", "ALIVE")], detail=True)
            pids = [actor.pid for actor in actors if "Embedder" in actor.class_name]
            os.kill(pids[0], signal.SIGKILL)
            return len(before) - len(written(folder))
        time.sleep(0.02)
    raise TimeoutError("no actor wrote descriptors")


def written(folder: Path) -> dict[str, int]:
    """Files of descriptors and when they were written; those of another model may be deleted while this looks."""
    found = {}
    for file in folder.glob("features/*/*.parquet"):
        with suppress(FileNotFoundError):
            found[str(file.relative_to(folder))] = file.stat().st_mtime_ns
    return found


def test_what_cannot_be_scored_ends_before_work(experiment: Experiment, place: Path) -> None:
    model = checkpoint_of(experiment, str(place / "model"), seed=1)
    with pytest.raises(RequestError, match=r"val_query.*redress data holdout"):
        evaluate(model, experiment, str(place / "nowhere"), validation=True)
    with pytest.raises(RequestError, match=r"no checkpoint at .*empty.*redress runs list"):
        evaluate(str(place / "empty"), experiment, str(place / "nowhere"))
    assert not (place / "nowhere").exists()
