"""Embedding in one process: tasks, readers and features. As a Ray Data job: test_evaluate.py."""

from __future__ import annotations

import functools
import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from datasets.errors import DataError
from datasets.format.tracklets import find_tracklets
from datasets.images.augment import preprocess
from datasets.images.decode import decode_image
from datasets.shards.dataset import Dataset, write_dataset
from datasets.storage.store import Store, open_store
from methods.method import Method
from methods.ranking import describe
from orchestration import cluster
from orchestration.config import build
from orchestration.config.load import Experiment, load
from orchestration.config.settings import ResourceSettings
from orchestration.engine import checkpoint
from orchestration.evaluation import embed as embedding
from orchestration.evaluation.embed import (
    CueRenderer,
    Descriptors,
    Embedder,
    EmbeddingJob,
    GroupReader,
    embed,
    feature_path,
    load_features,
    read_model,
    split_into_tasks,
)
from tests.orchestration.checkpoints import checkpoint_of
from tests.tiny import tiny_dataset, tiny_samples

SIZE = (32, 16)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("data") / "data"
    return tiny_dataset(folder, test_persons=4, size=SIZE, row_group_bytes=8 << 10)


@pytest.fixture(scope="module")
def trained(data: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Experiment, Method, str]:
    experiment = load("baseline-demo", [f"data={data}", "augment.height=32", "augment.width=16", "method.width=0.125"])
    address = checkpoint_of(experiment, str(tmp_path_factory.mktemp("run")), 1)
    found, method = read_model(address)
    return found, method.eval(), address


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "features"))


def job(data: str, store: Store, **changes: Any) -> EmbeddingJob:
    plain: dict[str, Any] = {"model": "", "batch": 3, "flip": True, "clip": None, "threads": 1, "gpu": False}
    return EmbeddingJob(data=data, destination=store.address, **(plain | changes))


def test_the_tasks_of_images_are_the_row_groups(data: str) -> None:
    index = Dataset.open(data).index("gallery")
    tasks = split_into_tasks(index, None)
    assert len(tasks.images) > 2
    assert tasks.images == {group: int((index.group == group).sum()) for group in range(len(index.groups))}
    assert tasks.tracklets is None


def test_the_tasks_of_tracklets_are_the_row_groups_in_which_some_begin(tmp_path: Path) -> None:
    """A tracklet's frames count where it begins, although they may lie in the next group."""
    index = Dataset.open(tiny_dataset(tmp_path / "data", test_persons=4, images=9, row_group_bytes=2 << 10)).index(
        "gallery"
    )
    tasks, tracklets = split_into_tasks(index, (4, 2)), find_tracklets(index)
    expected: dict[int, int] = {}
    for number in range(len(tracklets)):
        rows = tracklets.rows[tracklets.first[number] : tracklets.first[number + 1]]
        group = int(index.group[tracklets.first[number]])
        expected[group] = expected.get(group, 0) + len(rows)
    assert tasks.images == expected
    assert sum(tasks.images.values()) == len(index)


def test_rows_without_sequences_have_no_tracklets(tmp_path: Path) -> None:
    def bare(split: str) -> list[Any]:
        from dataclasses import replace

        return [replace(sample, sequence=None) for sample in tiny_samples(split)]

    write_dataset(
        str(tmp_path / "bare"), {name: bare(name) for name in ("train", "query", "gallery")}, name="t", version="1",
        licence="drawn", label_map="lip20", protocol="ltcc",
    )  # fmt: skip
    with pytest.raises(DataError, match="without sequence or frame"):
        split_into_tasks(Dataset.open(str(tmp_path / "bare")).index("gallery"), (4, 2))


def test_a_reader_returns_rows_in_their_order_and_reads_a_group_once(
    data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = Dataset.open(data)
    index = dataset.index("gallery")
    images = {key: sample.image for sample in dataset.samples("gallery") for key in [sample.key]}
    read, groups = dataset.read_group, list[int]()

    def counted(split: str, group: int, columns: tuple[str, ...]) -> pa.Table:
        groups.append(group)
        return read(split, group, columns)

    monkeypatch.setattr(dataset, "read_group", counted)
    reader = GroupReader(dataset, index, ("image",))
    last = len(index) - 1
    rows = np.array([last, 0, 1, last])
    assert [row["image"] for row in reader(rows)] == [images[index.keys()[row]] for row in rows]
    assert groups == [0, len(index.groups) - 1]
    reader(np.array([last]))
    assert groups == [0, len(index.groups) - 1], "the last group is cached"
    reader(np.array([0]))
    assert groups == [0, len(index.groups) - 1, 0], "and no other"


def test_an_actor_writes_the_descriptors_that_the_method_gives(
    data: str, trained: tuple[Experiment, Method, str], store: Store
) -> None:
    experiment, method, address = trained
    actor = Embedder(job(data, store, model=address))
    answer = actor({"split": np.array(["query"]), "group": np.array([1]), "cue": np.array([""])})
    dataset = Dataset.open(data)
    index = dataset.index("query")
    rows = np.flatnonzero(index.group == 1)
    assert answer["rows"].tolist() == [len(rows)]
    table = pq.read_table(io.BytesIO(store.read(feature_path("query", 1))))
    assert table["row"].to_pylist() == rows.tolist()
    samples = {sample.key: sample for sample in dataset.samples("query")}
    augmentation = build.build_augmentation(experiment)
    images = torch.cat([preprocess(decode_image(samples[index.keys()[row]].image)[None], augmentation) for row in rows])
    with torch.no_grad():
        expected = describe(method.embed, images, flip=True)
    torch.testing.assert_close(torch.tensor(table["feature"].to_pylist()), expected, atol=1e-5, rtol=0)


def test_a_group_that_is_there_is_not_embedded_again(
    data: str, trained: tuple[Experiment, Method, str], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment, method, _ = trained
    actor = Embedder(job(data, store), (experiment, method))
    store.write(feature_path("query", 0), b"of an earlier run")
    monkeypatch.setattr(actor, "embed_images", None)
    assert actor.embed_group("query", 0) == int((Dataset.open(data).index("query").group == 0).sum())
    assert store.read(feature_path("query", 0)) == b"of an earlier run"


def test_a_cue_has_a_folder_of_its_own_and_masks_are_read_only_where_needed(
    data: str, trained: tuple[Experiment, Method, str]
) -> None:
    assert feature_path("query", 7) == "query/000007.parquet"
    assert feature_path("query", 7, "head") == "head/query/000007.parquet"
    dataset, augmentation = Dataset.open(data), build.build_augmentation(trained[0])
    assert CueRenderer(dataset, augmentation, None).columns == ("image",)
    assert CueRenderer(dataset, augmentation, "head-rows").columns == ("image",)
    assert CueRenderer(dataset, augmentation, "head").columns == ("image", "parsing")
    assert CueRenderer(dataset, augmentation, None, with_masks=True).columns == ("image", "parsing")


def write(store: Store, group: int, rows: list[int]) -> None:
    values = np.array([[row, row / 2] for row in rows], dtype=np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), 2)
    pq.write_table(pa.table({"row": pa.array(rows), "feature": column}), buffer := io.BytesIO())
    store.write(feature_path("query", group), buffer.getvalue())


def test_features_are_put_together_in_the_order_of_the_rows(store: Store) -> None:
    write(store, 0, [9, 4])
    write(store, 1, [2])
    rows = np.array([2, 4, 9])
    found = load_features(store, "query", rows)
    assert found.features.tolist() == [[2, 1], [4, 2], [9, 4.5]]
    assert found.of(np.array([4, 9])).tolist() == [[4, 2], [9, 4.5]]
    assert found.of(rows) is found.features


def test_a_row_without_features_is_an_error_with_the_remedy(store: Store) -> None:
    with pytest.raises(RuntimeError, match=r"2 of 2 rows of split 'query' have no features\. Delete the folder"):
        load_features(store, "query", np.array([1, 2]))
    write(store, 0, [1])
    with pytest.raises(RuntimeError, match=r"1 of 2 rows"):
        load_features(store, "query", np.array([1, 2]))


def test_a_model_is_read_as_it_was_saved(trained: tuple[Experiment, Method, str]) -> None:
    experiment, method, address = trained
    saved = checkpoint.load_tensors(checkpoint.find(address), checkpoint.FILES[0])
    assert experiment.resolved() == checkpoint.find(address).experiment
    assert all(torch.equal(value, saved[name]) for name, value in method.state_dict().items())
    assert isinstance(Descriptors(np.arange(1), torch.ones(1, 1)).of(np.array([0])), torch.Tensor)


class RayStartedError(Exception):
    """Ray would start."""


@pytest.mark.parametrize(("limit", "gpu", "on_ray"), [(10_000, False, False), (3, False, True), (10_000, True, True)])
def test_a_few_images_without_a_gpu_are_embedded_in_this_process(
    trained: tuple[Experiment, Method, str],
    data: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    limit: int,
    gpu: bool,
    on_ray: bool,
) -> None:
    def start(_: object) -> None:
        raise RayStartedError

    monkeypatch.setattr(cluster, "connect", start)
    monkeypatch.setattr(embedding, "IN_PROCESS", limit)
    threads = torch.get_num_threads()
    job = EmbeddingJob(trained[2], data, str(tmp_path), batch=4, flip=True, clip=None, threads=threads + 1)
    seen: list[tuple[int, int]] = []
    start_embedding = functools.partial(
        embed, job, ["query", "gallery"], workers=(2,), resources=ResourceSettings(gpu=gpu)
    )
    if on_ray:
        with pytest.raises(RayStartedError):
            start_embedding()
        return
    start_embedding(progress=lambda *now: seen.append(now))
    assert torch.get_num_threads() == threads
    total = sum(len(Dataset.open(data).index(split)) for split in ("query", "gallery"))
    assert seen[0] == (0, total)
    assert seen[-1] == (total, total)
    start_embedding(progress=lambda *now: seen.append(now))
    assert seen[-1] == (total, total), "what is there is not embedded again"
    rows = np.arange(len(Dataset.open(data).index("query")))
    assert load_features(open_store(str(tmp_path)), "query", rows).features.shape[0] == len(rows)
