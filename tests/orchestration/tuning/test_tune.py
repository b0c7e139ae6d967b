"""`redress tune` on the session's cluster: real trainings of tiny networks, in MLflow as a sweep and its trials."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import Run
from PIL import Image

from datasets.conversion.holdout import holdout
from datasets.storage.store import open_store
from orchestration import cluster
from orchestration.config.load import Experiment, load
from orchestration.config.settings import WorkerRange
from orchestration.engine import checkpoint
from orchestration.errors import RequestError
from orchestration.sweeps.settings import SweepSettings, plan
from orchestration.tracking.journal import read_steps
from orchestration.training import worker
from orchestration.training.preparation import prepare
from orchestration.tuning import sweep_runs
from orchestration.tuning.tune import tune
from tests.tiny import tiny_dataset

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

OBJECTIVE = "clothes-changing/mAP"


@pytest.fixture(scope="module")
def held(place: Path) -> str:
    tiny_dataset(place / "data", persons=12, clothes=2, images=4, test_persons=2)
    holdout(str(place / "data"), str(place / "held"), persons=3)
    return str(place / "held")


def experiment(held: str, place: Path, *more: str) -> Experiment:
    settings = [
        f"data={held}", f"storage={place / 'runs'}", "epochs=2", "workers=1", "resources.cpus=0.5", "batch.people=4",
        "batch.images=2", "batch.lanes=2", "augment.height=32", "augment.width=16", "method.width=0.125",
        "method.adversarial_from_epoch=1", "optimizers.model.schedule=null",
    ]  # fmt: skip
    return load("cal-demo", [*settings, *more])


@pytest.fixture(scope="module")
def swept(held: str, place: Path, ray_cluster: str) -> dict[str, Any]:
    """Two seeds of four configurations. With a learning rate of 1e30 the loss becomes infinite."""
    settings = SweepSettings(
        over=("optimizers.model.lr=[1e-3, 1e30]", "method.epsilon=[0.1, 0.5]"),
        seeds=2,
        every=1,
        retries=1,
        concurrent=2,
        register="swept",
    )
    return tune(experiment(held, place), settings)


def client() -> MlflowClient:
    return MlflowClient(os.environ["MLFLOW_TRACKING_URI"])


def trials(answer: dict[str, Any]) -> list[Run]:
    return list(sweep_runs.children(client(), answer["sweep"]))


def test_a_sweep_has_a_run_and_each_point_and_seed_a_child_found_by_tags(swept: dict[str, Any]) -> None:
    parent, children = client().get_run(swept["sweep"]), trials(swept)
    assert parent.info.status == "FINISHED"
    assert len(children) == 8
    tags = [child.data.tags for child in children]
    assert {(t["point"], t["seed"]) for t in tags} == {(p["point"], str(s)) for p in swept["points"] for s in (1, 2)}
    assert {(t["sweep"], t["mlflow.parentRunId"]) for t in tags} == {(swept["sweep"], swept["sweep"])}
    for child in children:
        values = json.loads(child.data.tags["sweep.values"])
        assert float(child.data.params["optimizers.model.lr"]) == values["optimizers.model.lr"]
        assert child.data.params["seed"] == child.data.tags["seed"]


def test_a_childs_curves_are_its_journal_and_its_validation(swept: dict[str, Any]) -> None:
    best = client().get_run(swept["best"]["run_id"])
    steps = [record for _, record in read_steps(open_store(best.data.tags["storage"]))]
    losses = client().get_metric_history(best.info.run_id, "loss/model")
    assert [(p.step, p.value) for p in losses] == [(s["step"], s["metrics"]["loss/model"]) for s in steps]
    scored = client().get_metric_history(best.info.run_id, f"validation/{OBJECTIVE}")
    first = sum(step["epoch"] == 0 for step in steps)
    assert [p.step for p in scored] == [first, len(steps)]
    assert any(name.startswith("system/") for name in best.data.metrics)


def test_the_score_is_the_mean_over_seeds_of_the_last_epochs_validation(swept: dict[str, Any]) -> None:
    for point in swept["points"]:
        finals = [
            child.data.metrics[f"validation/{OBJECTIVE}"]
            for child in trials(swept)
            if child.data.tags["point"] == point["point"] and child.data.tags["sweep.state"] == "finished"
        ]
        assert sorted(finals) == sorted(score for score in point["seeds"].values() if score is not None)
        if finals:
            assert point["score"] == pytest.approx(np.mean(finals))
            assert point["spread"] == pytest.approx(np.std(finals, ddof=1))
    assert swept["best"]["score"] == max(point["score"] or 0 for point in swept["points"])


def test_a_trial_that_fails_for_good_is_reported_and_the_sweep_goes_on(swept: dict[str, Any]) -> None:
    lost = [point for point in swept["points"] if point["values"]["optimizers.model.lr"] == 1e30]
    assert [point["state"] for point in lost] == ["2 failed", "2 failed"]
    assert all("NonFiniteLossError: step" in reason for point in lost for reason in point["failures"].values())
    assert [point["score"] for point in lost] == [None, None]
    failed = [child for child in trials(swept) if child.info.status == "FAILED"]
    assert len(failed) == 4
    assert all("NonFiniteLossError" in child.data.tags["sweep.reason"] for child in failed)


def test_trials_of_one_worker_take_turns_in_the_same_processes(swept: dict[str, Any]) -> None:
    processes = [child.data.tags["sweep.process"] for child in trials(swept)]
    assert len(processes) == 8
    assert len(set(processes)) < 8


def test_the_best_is_a_candidate_that_names_its_sweep(swept: dict[str, Any]) -> None:
    found = client().get_model_version_by_alias("swept", "candidate")
    assert swept["model"] == f"models:/swept/{found.version}"
    assert found.tags["sweep"] == swept["sweep"]
    assert found.tags["sweep.point"] == swept["best"]["point"]
    assert found.run_id == swept["best"]["run_id"]
    assert client().get_run(swept["sweep"]).data.tags["sweep.model"] == swept["model"]
    assert f"metric.{OBJECTIVE}" in found.tags  # of the test people, as of any registered model


def test_the_parent_shows_each_parameter_each_pair_and_every_point(swept: dict[str, Any]) -> None:
    store = open_store(swept["run"])
    keys = ("optimizers.model.lr", "method.epsilon")
    names = [*(f"sensitivity-{key}.png" for key in keys), f"heat-map-{keys[0]}-{keys[1]}.png"]
    assert set(swept["pictures"]) == set(names)
    for name in names:
        assert Image.open(io.BytesIO(store.read(f"artifacts/pictures/{name}"))).width > 400
    page = store.read("artifacts/parallel-coordinates.html").decode()
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")
    artifacts = {item.path for item in client().list_artifacts(swept["sweep"])}
    assert {"pictures", "tables", "parallel-coordinates.html", "result.json"} <= artifacts


def test_a_sweep_that_is_done_trains_and_registers_nothing_again(swept: dict[str, Any], held: str, place: Path) -> None:
    """All but the failed, which get another chance."""
    before = {child.info.run_id: child.info.end_time for child in trials(swept)}
    settings = SweepSettings(
        over=("optimizers.model.lr=[1e-3, 1e30]", "method.epsilon=[0.1, 0.5]"),
        seeds=2,
        every=1,
        retries=0,
        concurrent=2,
        register="swept",
    )
    again = tune(experiment(held, place), settings, resume=swept["sweep"])
    after = {child.info.run_id: child.info.end_time for child in trials(swept)}
    assert after.keys() == before.keys()
    kept = {child.info.run_id for child in trials(swept) if child.info.status == "FINISHED"}
    assert len(kept) == 4
    assert all(before[run] == after[run] for run in kept)
    assert again["best"] == swept["best"]
    assert again["model"] == swept["model"]
    assert len(client().search_model_versions("name='swept'")) == 1


def test_scoring_in_the_midst_does_not_change_what_is_trained(held: str, place: Path) -> None:
    wanted = experiment(held, place)
    facts = prepare(wanted).facts
    ends = []
    for name, schedule in (("plain", None), ("scored", worker.ValidationSchedule(every=1, waits=False))):
        store = open_store(str(place / name))
        config = worker.WorkerConfig(wanted.resolved(), store.address, facts, validation=schedule)
        worker.run(config, store, torch.device("cpu"))
        last = checkpoint.find(store.address)
        ends.append({n: t for file in checkpoint.FILES for n, t in checkpoint.load_tensors(last, file).items()})
    assert all(bool((ends[0][name] == ends[1][name]).all()) for name in ends[0])


@pytest.mark.parametrize(
    ("over", "told"),
    [
        ("method.taus=[1, 2]", r'(?s)method.taus.*"cal" has no such setting.*Did you mean tau'),
        ("method.tau=[0.1, -1]", "(?s)method.tau = -1.*must be above 0"),
        ("batch.images=uniform(1, 4)", r"(?s)batch.images.*expected a whole number.*For whole numbers.*int\(1, 4\)"),
        ("method.memory_momentum=[0, 0.5]", '"cal" does not use it with these settings'),
        ("augment.erase_area=[[0.1, 0.2], [0.2, 0.3]]", "nothing is erased while augment.erase is 0"),
        ("seed=[1, 2]", "set --seeds"),
        ("workers=[1, 2]", "not what they learn"),
        ("strategy.name=[fsdp, zero]", "not what they learn"),
        ("hang_s=[60.0, 90.0]", "not what they learn"),
        ("data=[a, b]", "scores on different data cannot be compared"),
        ("stream.threads=[1, 2]", "not what they learn"),
        ("evaluate.cues=[[], [head-rows]]", "cues are scored on the test set"),
        ("evaluate.rerank.k1=[10, 20]", "mAP, which is measured before re-ranking"),
        ("augment.erase=uniform(0, 2)", r"at most 1.0$"),
    ],
)
def test_settings_that_cannot_be_swept_are_refused_before_any_trial(
    held: str, place: Path, over: str, told: str
) -> None:
    with pytest.raises(RequestError, match=told):
        plan(experiment(held, place), SweepSettings(over=(over,)))


def test_a_setting_counts_where_another_that_is_swept_makes_it_count(held: str, place: Path) -> None:
    wanted = load("cal-demo", [f"data={held}", "epochs=2", "method.adversarial_from_epoch=1"])
    over = ("method.memory_momentum=[0, 0.5]", "method.objective=[cal, negative]")
    with pytest.raises(RequestError, match="does not use it"):
        plan(wanted, SweepSettings(over=over))
    fits = plan(wanted, SweepSettings(over=("augment.erase_aspect=[[0.3, 3], [0.5, 2]]", "augment.erase=[0, 0.5]")))
    assert fits.points == 4


def test_a_request_that_no_sweep_can_serve_is_refused_with_the_mend(held: str, place: Path) -> None:
    over = ("method.tau=log(1/64, 1/4)",)
    refusals = [
        (SweepSettings(over=()), "--over KEY=VALUES"),
        (
            SweepSettings(over=over, objective="clothes-changing/map"),
            r"does not report it. It reports general/rank-1.*/mAP",
        ),
        (SweepSettings(over=over, search="grid"), r"method.tau is a range.*log\(1/64, 1/4, 5\)"),
        (SweepSettings(over=over, search="gird"), "expected grid, random or bayes"),
        (SweepSettings(over=over, stop="ahsa"), "expected none, asha or median"),
        (SweepSettings(over=over, stop="asha", grace=2), "no run of 2 epochs can stop early with --grace 2"),
        (SweepSettings(over=over, every=9), "--every 9: a run has 2 epochs"),
        (SweepSettings(over=over, register="a/b"), "--register a/b: a registered model's name has neither"),
        (SweepSettings(over=over, retries=-1), "--retries -1: expected 0 or more"),
        (
            SweepSettings(over=("batch.people=[4, 6]", "batch.lanes=[2, 4]")),
            "1 of the 4 combinations cannot be trained",
        ),
    ]
    for settings, told in refusals:
        with pytest.raises(RequestError, match=f"(?s){told}"):
            plan(experiment(held, place), settings)
    with pytest.raises(RequestError, match=r"no split val_query.*redress data holdout"):
        plan(experiment(str(place / "data"), place), SweepSettings(over=over))
    wanted = experiment(held, place, "select=best:val_query/general/mAP")
    with pytest.raises(RequestError, match="Set select=last"):
        plan(wanted, SweepSettings(over=over))
    elastic = wanted.model_copy(update={"select": "last", "workers": WorkerRange(min=1, max=3)})
    with pytest.raises(RequestError, match=r"workers is a range.*Set workers to 1 or 2"):
        plan(elastic, SweepSettings(over=over))
    with pytest.raises(RequestError, match=r"--over batch.people: with 16, data .* 16 identities; split 'train' has 9"):
        tune(experiment(held, place), SweepSettings(over=("batch.people=[4, 16]",)))


def test_trials_never_starve_one_another_of_workers() -> None:
    fit = cluster.trials_that_fit
    node = {"CPU": 8.0, "GPU": 3.0}
    assert fit([node, node], {"CPU": 1.0}, workers=4) == 4
    assert fit([node, node], {"CPU": 1.0, "GPU": 1.0}, workers=4) == 1
    assert fit([node, node], {"CPU": 3.0}, workers=1) == 4  # two on each node, not 16 / 3
    assert fit([{"CPU": 2.0}], {"CPU": 0.5}, workers=2) == 2
    assert fit([{"CPU": 2.0}, {}], {"CPU": 4.0}, workers=1) == 0
