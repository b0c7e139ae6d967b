"""`redress train` end to end on Ray workers: through killed processes to the same bits and the same history."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from mlflow import MlflowClient

from datasets.conversion.holdout import holdout
from datasets.shards.dataset import Dataset
from datasets.storage.store import open_store
from methods.baseline import Baseline
from orchestration.config import build
from orchestration.config.load import Experiment, load
from orchestration.engine import checkpoint
from orchestration.engine.weights import keep
from orchestration.errors import RequestError
from orchestration.evaluation.evaluate import evaluate
from orchestration.progress import Progress
from orchestration.tracking.journal import read_steps
from orchestration.tracking.segments import SegmentReader
from orchestration.training import worker
from orchestration.training.preparation import fetch_backbone, prepare
from orchestration.training.selection import measured_by
from orchestration.training.train import train
from orchestration.training.worker import WorkerConfig
from tests.orchestration.checkpoints import checkpoint_of
from tests.tiny import tiny_dataset

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

EPOCHS = 2
SELECT = "select=best:val_query/clothes-changing/mAP"
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def data(place: Path) -> str:
    return tiny_dataset(place / "data", persons=30, clothes=2, images=6, test_persons=2)


def settings(data: str, storage: Path) -> list[str]:
    """CAL on three workers (two would hide what a third does), checkpoints in mid-epoch."""
    return [
        f"data={data}", f"storage={storage}", f"epochs={EPOCHS}", "seed=3", "workers=3", "resources.cpus=0.5",
        "batch.people=6", "batch.images=2", "batch.lanes=3", "checkpoint.every_batches=4",
        "augment.height=32", "augment.width=16", "method.width=0.125", "method.adversarial_from_epoch=1",
        "optimizers.model.schedule=null",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(data: str, place: Path, ray_cluster: str) -> dict[str, Any]:
    return train(load("cal-demo", settings(data, place / "undisturbed")))


@pytest.fixture(scope="module")
def survivor(data: str, place: Path, ray_cluster: str) -> dict[str, Any]:
    """A run of which one process after the other was killed: rank 0, which keeps journal and checkpoints, and the driver.

    The campaign of the system tests makes a shorter attack."""
    storage = place / "survivor"
    words = ["train", "cal-demo", *settings(data, storage), "--json"]
    log = (place / "driver.log").open("w")
    driver = subprocess.Popen(
        [sys.executable, "-m", "orchestration", *words],
        cwd=ROOT, stdout=log, stderr=log, env=os.environ | {"RAY_ADDRESS": ray_cluster},
    )  # fmt: skip
    try:
        run = wait_for_steps(storage, 6, attempts=1)
        os.kill(worker_pid(0), signal.SIGKILL)
        wait_for_steps(storage, 20, attempts=2)
    finally:
        driver.kill()
        driver.wait()
        log.close()
    return train(load("cal-demo", settings(data, storage)), resume=run.name)


def wait_for_steps(storage: Path, steps: int, attempts: int, timeout_s: float = 120) -> Path:
    """The folder of the only run below `storage`, when so many attempts have written so many steps to its journal."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        for run in storage.glob("*"):
            if len(journals(str(run))) >= attempts and len(read_steps(open_store(str(run)))) >= steps:
                return run
        time.sleep(0.05)
    raise TimeoutError(f"no run below {storage} came to {steps} steps in {attempts} attempts")


def worker_pid(rank: int) -> int:
    """The process of a rank in Ray Train's newest attempt."""
    import ray
    from ray.train.v2._internal.state.state_actor import get_state_actor

    runs = ray.get(get_state_actor().get_train_run_attempts.remote())
    attempts = [attempt for attempts in runs.values() for attempt in attempts.values()]
    newest = max(attempts, key=lambda attempt: attempt.start_time_ns)
    return next(worker.pid for worker in newest.workers if worker.world_rank == rank)


def final_state(result: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Everything that the last checkpoint keeps: parameters, buffers, optimizers' states."""
    last = checkpoint.find(result["run"])
    return {f"{file}/{name}": t for file in checkpoint.FILES for name, t in checkpoint.load_tensors(last, file).items()}


def history(result: dict[str, Any]) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of every point that MLflow has of training and evaluation, by metric."""
    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    names = [n for n in client.get_run(result["run_id"]).data.metrics if not n.startswith(("speed/", "system/"))]
    return {n: [(p.step, p.value) for p in client.get_metric_history(result["run_id"], n)] for n in names}


def test_a_run_is_trained_tracked_evaluated(undisturbed: dict[str, Any]) -> None:
    steps = [record for _, record in read_steps(open_store(undisturbed["run"]))]
    assert [s["step"] for s in steps] == list(range(len(steps)))
    assert {s["epoch"] for s in steps} == set(range(EPOCHS))
    recorded = [(s["step"], s["metrics"]["loss/model"]) for s in steps]
    points = history(undisturbed)
    assert points["loss/model"] == recorded
    for name, value in undisturbed["metrics"].items():
        assert points[name] == [(len(steps), value)]
    run = MlflowClient(os.environ["MLFLOW_TRACKING_URI"]).get_run(undisturbed["run_id"])
    assert run.info.status == "FINISHED"
    assert all(open_store(undisturbed["run"]).exists(p.removeprefix(undisturbed["run"] + "/"))
               for p in undisturbed["pictures"])  # fmt: skip


@pytest.mark.long
def test_a_run_whose_processes_were_killed_ends_with_the_same_bits(
    undisturbed: dict[str, Any], survivor: dict[str, Any]
) -> None:
    expected, found = final_state(undisturbed), final_state(survivor)
    assert expected.keys() == found.keys()
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []


@pytest.mark.long
def test_a_run_whose_processes_were_killed_has_the_same_history(
    undisturbed: dict[str, Any], survivor: dict[str, Any]
) -> None:
    assert history(survivor) == history(undisturbed)
    assert survivor["metrics"] == undisturbed["metrics"]
    run = MlflowClient(os.environ["MLFLOW_TRACKING_URI"]).get_run(survivor["run_id"])
    assert run.info.status == "FINISHED"


@pytest.mark.long
def test_the_processes_were_killed_in_mid_epoch(survivor: dict[str, Any]) -> None:
    last_of_each_attempt = [records[-1] for records in journals(survivor["run"])]
    assert len(last_of_each_attempt) == 3, "one attempt, and one after each kill"
    assert all(record["batch"] > 0 for record in last_of_each_attempt[:-1])


def journals(run: str) -> list[list[dict[str, Any]]]:
    """The records of each process that wrote the run's journal, told apart by when it began."""
    found: dict[int, list[dict[str, Any]]] = {}
    for header, record in SegmentReader(open_store(run), "journal").read_new():
        found.setdefault(header["began"], []).append(record)
    return list(found.values())


@pytest.fixture(scope="module")
def held(data: str, place: Path) -> str:
    holdout(data, str(place / "held"), persons=8)
    return str(place / "held")


def small(data: str, storage: Path, *overrides: str) -> Experiment:
    """The baseline on one worker."""
    sizes = ["augment.height=32", "augment.width=16", "method.width=0.125", "resources.cpus=0.5", "workers=1"]
    batches = ["batch.people=6", "batch.images=2", "batch.lanes=3", "epochs=2", "optimizers.model.schedule=null"]
    return load("baseline-demo", [f"data={data}", f"storage={storage}", *sizes, *batches, *overrides])


def losses(run: str) -> list[float]:
    return [record["metrics"]["loss/model"] for _, record in read_steps(open_store(run))]


def train_here(config: WorkerConfig) -> str:
    """What a lone worker does, in this process; the run's storage."""
    worker.run(config, open_store(config.run), torch.device("cpu"))
    return config.run


@pytest.fixture(scope="module")
def selected(held: str, place: Path, ray_cluster: str) -> dict[str, Any]:
    """A run from another's weights, whose model is chosen on people who were held out."""
    experiment = small(held, place / "selected", SELECT)
    return train(experiment, init_from=checkpoint_of(experiment, str(place / "init"), seed=7))


def test_the_model_is_the_best_on_people_held_out(selected: dict[str, Any], held: str, place: Path) -> None:
    run = open_store(selected["run"])
    scores = {}
    for folder in checkpoint.complete_folders(run):
        found = checkpoint.read(run, folder)
        result = evaluate_validation(found.address, run.join("selection", f"{found.progress.step:08d}"))
        scores[found.address] = result["clothes-changing/mAP"]
    assert len(scores) == 2
    assert selected["checkpoint"] == max(scores, key=lambda address: scores[address])
    assert [checkpoint.find(address).score for address in scores] == [
        checkpoint.Score(value, measured_by(small(held, place, SELECT))) for value in scores.values()
    ]
    points = dict(history(selected)["validation/clothes-changing/mAP"])
    assert points == {checkpoint.find(address).progress.step: value for address, value in scores.items()}


def evaluate_validation(model: str, destination: str) -> dict[str, float]:
    """The scores of a checkpoint on val_query from what selection left at `destination`."""
    experiment = Experiment.from_resolved(checkpoint.find(model).experiment)
    return evaluate(model, experiment, destination, validation=True, details=False).metrics


def test_training_starts_from_the_weights_of_another_run(selected: dict[str, Any], held: str, place: Path) -> None:
    experiment = small(held, place)
    facts = prepare(experiment).facts
    initial = str(place / "init")
    here = train_here(WorkerConfig(experiment.resolved(), str(place / "here"), facts, init_from=initial))
    assert losses(here) == losses(selected["run"])
    fresh = train_here(WorkerConfig(experiment.resolved(), str(place / "fresh"), facts))
    assert losses(fresh)[0] != losses(here)[0]


def test_initial_weights_that_do_not_fit_are_named(data: str, place: Path) -> None:
    wider = checkpoint_of(small(data, place, "method.width=0.25"), str(place / "wider"), seed=7)
    told = r"(?s)init_from = .*backbone\.bn1\.bias is 16, expected 8;.*in all.*Use one of the same backbone"
    with pytest.raises(RequestError, match=told):
        train(small(data, place / "misfits"), init_from=wider)
    with pytest.raises(RequestError, match=r"init_from = .*no checkpoint at .*nothing-here"):
        train(small(data, place / "misfits"), init_from=str(place / "nothing-here"))
    assert not (place / "misfits").exists()


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_a_backbone_from_a_file_is_what_training_starts_from(data: str, place: Path, suffix: str) -> None:
    state = backbone_state(small(data, place, "seed=9"))
    file = place / f"backbone.{suffix}"
    if suffix == "safetensors":
        safetensors.torch.save_file(state, file)
    else:
        torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}, "epoch": 3}, file)
    experiment = small(data, place, f"weights={file}", "epochs=1")
    prepared = prepare(experiment)
    storage = open_store(str(place / suffix))
    fetched = fetch_backbone(prepared)
    assert fetched is not None
    address = keep(storage, fetched)
    method = build.build_method(experiment, prepared.facts)
    config = WorkerConfig(experiment.resolved(), storage.address, prepared.facts, weights=address)
    worker.load_initial_weights(config, method)
    assert isinstance(method, Baseline)
    loaded = method.encoder.backbone.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


def backbone_state(experiment: Experiment) -> dict[str, torch.Tensor]:
    method = build.build_method(experiment, prepare(experiment).facts)
    assert isinstance(method, Baseline)
    return dict(method.encoder.backbone.state_dict())


class Code:
    """What a hostile file runs when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, ("touch pickled-code-ran",))


def test_files_that_are_no_weights_for_this_are_refused(
    data: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    state = backbone_state(small(data, place))
    missing, *_ = state
    fitting = {name: tensor for name, tensor in state.items() if name != missing}
    torch.save({"state_dict": Code()}, "code.pth")
    torch.save(fitting, "mismatch.pth")
    torch.save([1, 2], "list.pth")
    Path("empty.pth").touch()
    Path("garbage.safetensors").write_bytes(b"no tensors")
    refusals = {
        "code.pth": r"without pickled code",
        "mismatch.pth": re.escape(missing),
        "list.pth": "holds no state dict",
        "empty.pth": "cannot be read",
        "garbage.safetensors": "cannot be read",
        "absent.pth": "absent.pth",
    }
    for name, told in refusals.items():
        with pytest.raises(RequestError, match=rf"(?s)weights = .*{name}.*{told}"):
            train(small(data, place / "unfit", f"weights={tmp_path / name}"))
    assert not Path("pickled-code-ran").exists()
    assert not (place / "unfit").exists()


def test_a_run_is_not_taken_up_as_another(undisturbed: dict[str, Any], data: str, held: str, place: Path) -> None:
    storage = place / "undisturbed"
    tracked = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    with pytest.raises(RequestError, match=r"(?s)another experiment.*batch.images: began with 2, now 3.*--init-from"):
        train(load("cal-demo", [*settings(data, storage), "batch.images=3"]), resume=undisturbed["run_id"])
    with pytest.raises(RequestError, match=r"fingerprint.*Resume with the data of the run"):
        train(load("cal-demo", settings(held, storage)), resume=undisturbed["run"])
    with pytest.raises(RequestError, match="has no run 0123"):
        train(load("cal-demo", settings(data, storage)), resume="0123456789abcdef" * 2)
    assert tracked.get_run(undisturbed["run_id"]).info.status == "FINISHED"


class Heard(Progress):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []

    def say(self, text: str) -> None:
        self.told.append(text)


def test_what_a_stage_came_to_tell_apart_is_said_logged_and_drawn(data: str, place: Path, ray_cluster: str) -> None:
    """CCAF on two workers, one of which has more images than the other."""
    heard = Heard()
    words = [f"data={data}", f"storage={place / 'stages'}", "workers=2", "resources.cpus=0.5", "epochs=3"]
    words += ["weights=null", "method.width=0.25", "method.encoder_from_epoch=2", "method.prompt_batch=8"]
    words += ["batch={people: 6, images: 2, lanes: 2}", "augment.height=32", "augment.width=16"]
    found = train(load("ccaf-demo", words), progress=heard)
    [line] = [text for text in heard.told if "AUC" in text]
    assert line.startswith("stage 'prompts' ended after epoch 2; AUC of own against others: persons-shielding ")
    points = history(found)
    for view in ("shielding", "clothes", "whole"):
        [(step, auc)] = points[f"auc/persons-{view}"]
        assert step == 2 * (len(Dataset.open(data).index("train")) // 8) - 1
        assert f"persons-{view} {auc:.3f}" in line
    files = MlflowClient(os.environ["MLFLOW_TRACKING_URI"]).list_artifacts(found["run_id"], "pictures")
    assert "pictures/stage-prompts.png" in {file.path for file in files}
