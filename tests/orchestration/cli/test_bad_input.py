"""What is wrong with a request is found before training starts, and what is wrong with the data before it is used."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient

from datasets.format.schema import Sample
from datasets.shards.dataset import Dataset, write_dataset
from datasets.storage.store import open_store
from datasets.streaming.stream import plan_epoch
from methods import METHODS
from methods.method import Needs
from orchestration.cli.main import failure
from orchestration.config.load import Experiment, load
from orchestration.engine import checkpoint
from orchestration.errors import RequestError
from orchestration.evaluation.evaluate import metric_names, open_for_evaluation
from orchestration.tracking.journal import read_steps
from orchestration.training.train import TrainingFailedError, train
from tests.servers.process import free_port
from tests.tiny import tiny_dataset, tiny_samples

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_dataset(tmp_path_factory.mktemp("data") / "tiny", persons=12)


@pytest.fixture
def copy(data: str, tmp_path: Path) -> Path:
    """The data set, to be damaged."""
    return Path(shutil.copytree(data, tmp_path / "copy"))


def wanted(data: str | Path, storage: Path, *overrides: str) -> Experiment:
    small = ["augment.height=32", "augment.width=16", "method.width=0.125", "workers=1", "resources.cpus=0.5"]
    batches = ["batch.people=4", "batch.images=2", "batch.lanes=1", "epochs=2", "optimizers.model.schedule=null"]
    return load("baseline-demo", [f"data={data}", f"storage={storage / 'runs'}", *small, *batches, *overrides])


def refused(match: str, data: str | Path, storage: Path, *overrides: str) -> None:
    """Ends with one message that says `match`, before there is a run."""
    with pytest.raises(RequestError, match=match):
        train(wanted(data, storage, *overrides))
    assert not (storage / "runs").exists()


@pytest.mark.parametrize(
    ("name", "overrides", "told"),
    [
        ("baseline-dem", [], r"baseline-dem\b.*Did you mean baseline-demo\?"),
        ("baseline-demo", ["method.labl_smoothing=0.1"], r"method\.labl_smoothing.*Did you mean label_smoothing\?"),
        ("baseline-demo", ["epochs=many"], r"epochs = many.*expected a whole number"),
        ("baseline-demo", ["batch.people=10", "workers=4"], r"4 workers cannot share 10 people × 8 images equally"),
        ("baseline-demo", ["evaluate.rerank.k1=0"], r"evaluate\.rerank\.k1 = 0 .*must be at least 1"),
        ("baseline-demo", ["evaluate.rerank.k=9"], r"evaluate\.rerank has no such setting; it has k1, k2, weight"),
        ("baseline-demo", ["evaluate.clip_length=0"], r"evaluate\.clip_length = 0 .*must be at least 1"),
    ],
    ids=["experiment", "key", "type", "combination", "k1", "rerank", "clip"],
)
def test_wrong_words(name: str, overrides: list[str], told: str) -> None:
    with pytest.raises(RequestError, match=told):
        load(name, ["data=s3://reid/ltcc", *overrides])


def remove_manifest(copy: Path) -> None:
    (copy / "manifest.json").unlink()


def cut_manifest(copy: Path) -> None:
    text = (copy / "manifest.json").read_bytes()
    (copy / "manifest.json").write_bytes(text[: len(text) // 2])


def remove_shard(copy: Path) -> None:
    next((copy / "gallery").glob("*.parquet")).unlink()


def lengthen_shard(copy: Path) -> None:
    with next((copy / "train").glob("*.parquet")).open("ab") as shard:
        shard.write(b"\0")


def alter_index(copy: Path) -> None:
    alter(copy / "index.parquet", 200)


def alter(file: Path, offset: int) -> None:
    content = bytearray(file.read_bytes())
    content[offset] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (shutil.rmtree, r"no data set at .*nothing is there; check the address"),
        (remove_manifest, r"has no manifest\.json, which is written last.*interrupted"),
        (cut_manifest, r"manifest\.json"),
        (remove_shard, r"gallery/.*is missing, expected \d+ bytes"),
        (lengthen_shard, r"train/.*has \d+ bytes, expected \d+ bytes"),
        (alter_index, r"index\.parquet differs from its digest"),
    ],
)
def test_data_that_are_not_whole(damage: Callable[[Path], None], told: str, copy: Path, tmp_path: Path) -> None:
    damage(copy)
    refused(told, copy, tmp_path)


def test_an_address_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    refused(r"cannot .* s3://reid/ltcc", "s3://reid/ltcc", tmp_path)


def test_a_method_that_needs_masks_where_there_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(METHODS["baseline"], "needs", staticmethod(lambda settings: Needs(parsing=True)))
    bare = tiny_dataset(tmp_path / "bare", parsing=False)
    refused(r"bare: method 'baseline' needs parsing masks and this data set has none.*--parsing", bare, tmp_path)


def test_clothes_that_shall_be_sampled_where_there_are_no_masks(tmp_path: Path) -> None:
    bare = tiny_dataset(tmp_path / "bare", parsing=False)
    told = r"bare: augment.clothes_sampling needs parsing masks and this data set has none.*--parsing"
    refused(told, bare, tmp_path, "augment.clothes_sampling={}")


def test_a_method_that_needs_clothes_where_there_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(METHODS["baseline"], "needs", staticmethod(lambda settings: Needs(clothes=True)))
    splits = {
        name: [replace(s, parsing=None, clothes=None) for s in tiny_samples(name)]
        for name in ("train", "query", "gallery")
    }
    write(tmp_path / "bare", splits, protocol="general")
    refused(
        r"needs clothes labels, and \d+ of \d+ images \(such as .*\) of split 'train' have none",
        tmp_path / "bare",
        tmp_path,
    )


def write(address: Path, splits: dict[str, list[Sample]], protocol: str) -> None:
    write_dataset(
        str(address), splits, name="t", version="1", licence="drawn for tests", label_map=None, protocol=protocol
    )


def test_more_people_in_a_batch_than_there_are(data: str, tmp_path: Path) -> None:
    refused(r"16 people × 2 images needs 16 identities; split 'train' has 12", data, tmp_path, "batch.people=16")


def test_lanes_that_hold_too_few_people(tmp_path: Path) -> None:
    """Whole row groups belong to a lane: with all people in one of them, the other lanes have nobody."""
    together = tiny_dataset(tmp_path / "together", persons=12, row_group_bytes=64 << 20)
    refused(r"together: .*lane", together, tmp_path, "batch.lanes=4", "batch.window=1")


def test_a_split_without_a_valid_query(tmp_path: Path) -> None:
    people = {"train": "train", "query": "query", "gallery": "train"}  # the gallery holds none of the query's people
    splits = {name: [replace(s, parsing=None) for s in tiny_samples(of)] for name, of in people.items()}
    write(tmp_path / "strangers", splits, protocol="ltcc")
    refused(r"'general'.*no valid query: no person of query is in gallery", tmp_path / "strangers", tmp_path)


def test_a_selection_that_the_data_cannot_give(data: str, tmp_path: Path) -> None:
    by_held_out = "select=best:val_query/general/mAP"
    refused(r"no split val_query.*make them from train with `redress data holdout`", data, tmp_path, by_held_out)
    on_test = ["select=best:query/genral/mAP", "select_on_test=true"]
    refused(r"'ltcc' has no such metric.*best:query/general/mAP", data, tmp_path, *on_test)


def test_metrics_are_known_before_the_evaluation(tmp_path: Path) -> None:
    """A gallery of 16 has no rank-20, one of two images no rank-5."""
    dataset, protocol = open_for_evaluation(tiny_dataset(tmp_path / "few", splits="prcc", test_persons=2, images=8))
    assert len(dataset.index("gallery")) == 16
    names = metric_names(dataset, protocol)
    measures = ("rank-1", "rank-5", "rank-10", "mAP", "mINP")
    modes = {"same-clothes": "query_same", "clothes-changing": "query_diff"}
    expected = {f"{mode}/{measure}": split for mode, split in modes.items() for measure in measures}
    for mode, split in modes.items():
        expected |= {f"{mode}-single-shot/{measure}": split for measure in ("rank-1", "mAP", "mINP")}
    assert names == expected


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_more_workers_than_the_cluster_holds(data: str, tmp_path: Path) -> None:
    many = ["batch.people=12", "batch.lanes=12", "workers=12"]
    refused(r"12 workers need 6 CPUs, the Ray cluster has 4\. Set workers lower", data, tmp_path, *many)
    refused(r"1 workers? needs? 1 GPUs?, the Ray cluster has 0", data, tmp_path, "resources.gpu=true")


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_an_mlflow_that_does_not_answer(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    refused(r"MLflow at http://127.* cannot be used.*Start it.*MLFLOW_TRACKING_URI", data, tmp_path)


def test_a_wrong_request_is_one_message_and_status_2(copy: Path, tmp_path: Path) -> None:
    remove_manifest(copy)
    words = ["train", "baseline-demo", f"data={copy}", f"storage={tmp_path / 'runs'}"]
    done = subprocess.run([sys.executable, "-m", "orchestration", *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "has no manifest.json" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "runs").exists()


@pytest.mark.ray
@pytest.mark.timeout(300)
def test_an_altered_byte_stops_the_run_before_its_row_group_is_used(
    place: Path, tmp_path: Path, ray_cluster: str
) -> None:
    """The row group is the one that training comes to last. Mended, the run is taken up and ends."""
    data = Path(tiny_dataset(tmp_path / "data", persons=24, images=4, row_group_bytes=16 << 10, test_persons=2))
    experiment = wanted(data, tmp_path, "batch.window=1", "checkpoint.every_batches=2", "max_failures=3")
    group, first_use = group_used_last(experiment)
    place_of_group = Dataset.open(str(data)).index("train").groups[group]
    damaged = place_of_group.offset + place_of_group.length // 2
    alter(data / place_of_group.shard, damaged)
    with pytest.raises(
        TrainingFailedError, match=rf"CorruptData: .*row group {place_of_group.group} at offset"
    ) as raised:
        train(experiment)
    assert failure(raised.value)["status"] == 1
    (storage,) = (tmp_path / "runs").iterdir()
    store = open_store(str(storage))
    steps = [record["step"] for _, record in read_steps(store)]
    assert 0 < len(steps) <= first_use
    newest = checkpoint.latest(store)
    assert newest is not None
    assert newest.progress.step <= first_use
    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    assert client.get_run(storage.name).info.status == "FAILED"
    assert attempts() <= 2, "what cannot be mended by trying again was tried again"

    alter(data / place_of_group.shard, damaged)
    result = train(experiment, resume=storage.name)
    history = client.get_metric_history(storage.name, "loss/model")
    assert [point.step for point in history] == list(range(len(history)))
    assert len(history) > first_use
    assert client.get_run(storage.name).info.status == "FINISHED"
    assert result["metrics"]


def group_used_last(experiment: Experiment) -> tuple[int, int]:
    """The row group of train whose first use in epoch 0 is the latest, and the batch of that use."""
    dataset = Dataset.open(experiment.data)
    index, batch = dataset.index("train"), experiment.batch
    plan = plan_epoch(
        index, dataset.fingerprint, sampler=batch.sampler, people=batch.people, images=batch.images,
        window=batch.window, lanes=batch.lanes, seed=experiment.seed, epoch=0,
    )  # fmt: skip
    first_use: dict[int, int] = {}
    for number, rows in enumerate(plan.rows):
        for group in index.group[rows].tolist():
            first_use.setdefault(group, number)
    return max(first_use.items(), key=lambda item: item[1])


def attempts() -> int:
    """How often Ray Train started the workers of its newest run."""
    import ray
    from ray.train.v2._internal.state.state_actor import get_state_actor

    runs = ray.get(get_state_actor().get_train_run_attempts.remote())
    newest = max(runs.values(), key=lambda tries: max(attempt.start_time_ns for attempt in tries.values()))
    return len(newest)
