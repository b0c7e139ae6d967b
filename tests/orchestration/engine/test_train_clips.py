"""Training on clips of video: a tracklet data set, the loop on one and two workers, resumed, and what cannot be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from datasets.errors import DataError
from methods.method import Stage
from orchestration.config import build
from orchestration.config.load import Experiment, load
from tests.datasets.streams import write
from tests.orchestration.engine.test_loop import Recorder, train, weights_after
from tests.orchestration.processes import in_processes
from tests.tiny import tiny_dataset, tiny_samples

EPOCHS = 2


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """10 people in two outfits, three tracklets of seven frames in each."""
    return tiny_dataset(tmp_path_factory.mktemp("data") / "walks", persons=10, clothes=2, images=21)


def experiment(data: str, name: str = "cal-ccvid", *overrides: str) -> Experiment:
    small = [
        "batch.people=4", "batch.images=3", "batch.lanes=2", "batch.clip={length: 3, stride: 2}", f"epochs={EPOCHS}",
        "augment.height=32", "augment.width=16", "method.backbone=resnet18", "method.width=0.0625", "weights=null",
        "threads=1", "stream.threads=1", "seed=3",
    ]  # fmt: skip
    small += ["method.adversarial_from_epoch=1"] if name == "cal-ccvid" else []
    return load(name, [f"data={data}", *small, *overrides])


def test_one_and_two_workers_train_the_same_on_clips(data: str) -> None:
    wanted = experiment(data, "cal-ccvid", "precision=float64", "batch.window=2", "augment.erase=0.5").resolved()
    alone, recorder = train(wanted)
    assert {report.stage for report in recorder.steps} == {"identity", "adversarial"}
    assert len(recorder.steps) >= 6
    for state in in_processes(2, weights_after, wanted):
        for key, value in alone.items():
            torch.testing.assert_close(state[key], value, rtol=1e-9, atol=1e-9, msg=lambda m, k=key: f"{k}: {m}")


def test_taken_up_in_mid_epoch_it_ends_bit_identical(data: str, tmp_path: Path) -> None:
    wanted = experiment(data).resolved()
    undisturbed, whole = train(wanted)
    _, before = train(wanted, Recorder(stop_after=7), run=str(tmp_path))
    resumed, after = train(wanted, run=str(tmp_path), from_run=True)
    assert before.reached[-1].batch > 0
    assert [r.step for r in before.steps + after.steps] == [r.step for r in whole.steps]
    assert all(torch.equal(undisturbed[name], resumed[name]) for name in undisturbed)


def test_speed_counts_frames(data: str) -> None:
    _, recorder = train(experiment(data, "baseline-ccvid", "epochs=1").resolved())
    metrics = recorder.steps[0].metrics
    assert metrics["speed/images-per-s"] * metrics["speed/step-s"] == pytest.approx(4 * 3 * 3)


def test_a_data_set_of_images_is_refused_before_anything_starts(tmp_path: Path) -> None:
    still = write(tmp_path, (replace(s, sequence=None) for s in tiny_samples("train", parsing=False)), parsing=False)
    with pytest.raises(DataError, match=r"without sequence or frame.*set batch.clip=null to train on images"):
        build.build_feed(experiment(still.address), still, 0, 1, (Stage("all", 0, ("model",)),))
