"""The loop trains the same whatever the number of workers, from wherever it is taken up, and stops where it must."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from datasets.shards.dataset import Dataset
from datasets.storage.store import open_store
from datasets.streaming.stream import HostBatch
from methods.clothes_sampling import draw_clothes
from methods.method import Batch, Stage
from orchestration.config import build
from orchestration.config.load import Experiment, load
from orchestration.engine import checkpoint, loop
from orchestration.engine.loop import NonFiniteLossError, TrainingProgress
from orchestration.engine.restore import hand_over
from orchestration.engine.strategies.choice import build_strategy
from orchestration.engine.strategies.strategy import FullState
from tests.orchestration.processes import in_processes
from tests.orchestration.recorder import Recorder
from tests.tiny import tiny_dataset

EPOCHS = 4


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_dataset(tmp_path_factory.mktemp("data") / "tiny", persons=16, clothes=2, images=4)


def experiment(data: str, name: str = "cal-demo", *overrides: str) -> Experiment:
    settings = ["batch.people=8", "batch.images=4", "batch.lanes=4", "batch.window=all", f"epochs={EPOCHS}", "seed=3"]
    settings += ["augment.height=32", "augment.width=16", "method.width=0.125"]
    settings += ["method.adversarial_from_epoch=1"] if name == "cal-demo" else []
    return load(name, [f"data={data}", *settings, *overrides])


def train(
    wanted: dict[str, Any], recorder: Recorder | None = None, run: str | None = None, from_run: bool = False
) -> tuple[dict[str, torch.Tensor], Recorder]:
    """What a worker does, without Ray: the method's state at the end, and what the loop said."""
    described = Experiment.from_resolved(wanted)
    dataset = Dataset.open(described.data)
    facts = build.describe_data(dataset, dataset.index("train"))
    method = build.build_method(described, facts)
    optimization = build.build_optimization(described, method)
    found = checkpoint.find(str(run)) if from_run else None
    start = found.progress if found else TrainingProgress()
    strategy = build_strategy()
    hand_over(method, optimization.optimizers, strategy, found)
    feed, stream = build.build_feed(described, dataset, strategy.rank, strategy.workers, method.stages())
    recorder = recorder or Recorder()
    try:
        loop.train(
            method, feed, optimization, strategy, recorder,
            epochs=described.epochs, precision=described.precision, start=start,
        )  # fmt: skip
    except KeyboardInterrupt:
        assert run is not None
        checkpoint.save(
            open_store(run), strategy.full_state(), recorder.reached[-1],
            end_of_epoch=False, experiment=wanted, facts=facts,
        )  # fmt: skip
    finally:
        stream.close()
    return {name: value.clone() for name, value in method.state_dict().items()}, recorder


def weights_after(wanted: dict[str, Any]) -> dict[str, torch.Tensor]:
    return train(wanted)[0]


@pytest.mark.parametrize(
    "words", ["cal-demo augment.clothes_sampling={}", pytest.param("baseline-demo", marks=pytest.mark.long)]
)
def test_one_two_and_four_workers_end_with_the_same_float64_weights(data: str, words: str) -> None:
    wanted = experiment(data, *words.split(), "precision=float64").resolved()
    alone, recorder = train(wanted)
    assert len(recorder.steps) >= 10
    for workers in (2, 4):
        for state in in_processes(workers, weights_after, wanted):
            for key, value in alone.items():
                torch.testing.assert_close(state[key], value, rtol=1e-9, atol=1e-9, msg=lambda m, k=key: f"{k}: {m}")


def test_the_same_experiment_twice_gives_the_same_bits(data: str) -> None:
    wanted = experiment(data).resolved()
    first, second = train(wanted), train(wanted)
    assert all(torch.equal(first[0][name], second[0][name]) for name in first[0])
    numbers = [[{k: v for k, v in r.metrics.items() if not k.startswith("speed/")} for r in run.steps]
               for _, run in (first, second)]  # fmt: skip
    assert numbers[0] == numbers[1]


def stopped_by_rank_0(wanted: dict[str, Any]) -> tuple[TrainingProgress, list[dict[str, float]]]:
    """Where a worker is once rank 0, and no other, was asked to stop before its fourth step; and what it logged."""
    described = Experiment.from_resolved(wanted)
    dataset = Dataset.open(described.data)
    method = build.build_method(described, build.describe_data(dataset, dataset.index("train")))
    optimization, strategy = build.build_optimization(described, method), build_strategy()
    strategy.prepare(method, optimization.optimizers)
    feed, stream = build.build_feed(described, dataset, strategy.rank, strategy.workers, method.stages())
    recorder = Recorder()
    with closing(stream):
        reached = loop.train(
            method, feed, optimization, strategy, recorder, epochs=described.epochs,
            is_asked_to_stop=lambda: strategy.rank == 0 and len(recorder.steps) == 3,
        )  # fmt: skip
    assert reached == recorder.reached[-1]
    return reached, [report.metrics for report in recorder.steps]


@pytest.mark.parametrize("workers", [1, 3])
def test_all_workers_stop_after_the_step_at_which_one_was_asked_to(data: str, workers: int) -> None:
    wanted = experiment(data, "cal-demo", "batch.people=6", "batch.lanes=3", "workers=3").resolved()
    ends = in_processes(workers, stopped_by_rank_0, wanted) if workers > 1 else [stopped_by_rank_0(wanted)]
    assert {reached.step for reached, _ in ends} == {4}
    assert all(reached.epoch < EPOCHS for reached, _ in ends)
    assert not any("stop" in metrics for _, logged in ends for metrics in logged)
    assert not any(name.startswith("pace/") for _, logged in ends for metrics in logged for name in metrics)
    slowest = [[metrics.get("speed/slowest-rank") for metrics in logged] for _, logged in ends]
    assert all(ranks == slowest[0] for ranks in slowest)
    assert slowest[0][0] is None, "nothing is known in a group's first step"
    assert set(slowest[0][1:]) <= ({None} if workers == 1 else {0, 1, 2})


@pytest.mark.parametrize("steps", [2, 7], ids=["first epoch", "later epoch"])
def test_taken_up_in_mid_epoch_it_ends_bit_identical(data: str, tmp_path: Path, steps: int) -> None:
    wanted = experiment(data).resolved()
    undisturbed, whole = train(wanted)
    _, before = train(wanted, Recorder(stop_after=steps), run=str(tmp_path))
    resumed, after = train(wanted, run=str(tmp_path), from_run=True)
    assert before.reached[-1].batch > 0
    assert [r.step for r in before.steps + after.steps] == [r.step for r in whole.steps]
    assert all(torch.equal(undisturbed[name], resumed[name]) for name in undisturbed)


def test_the_adversarial_stage_begins_where_the_experiment_says(data: str) -> None:
    _, recorder = train(experiment(data).resolved())
    stages = {report.epoch: report.stage for report in recorder.steps}
    assert stages == {0: "identity"} | dict.fromkeys(range(1, EPOCHS), "adversarial")
    assert all(("loss/adversarial" in r.metrics) == (r.epoch >= 1) for r in recorder.steps)


def first_batch(wanted: Experiment) -> tuple[HostBatch, loop.Feed, Batch]:
    dataset = Dataset.open(wanted.data)
    feed, stream = build.build_feed(wanted, dataset, 0, 1, (Stage("all", 0, ("model",)),))
    host = next(feed.batches(0, 0))
    stream.close()
    return host, feed, loop.to_device(host, feed, 0, build_strategy(), "cpu", torch.float32)


def test_any_method_sees_images_and_then_the_same_in_other_clothes_with_the_same_labels(data: str) -> None:
    """Changed where masks, moved with the images, show clothes; before erasing, so that no erased pixel is anybody's."""
    host, feed, plain = first_batch(experiment(data, "cal-demo", "augment.erase=1"))
    assert not plain.is_paired
    assert plain.parsing is None
    host, feed, batch = first_batch(experiment(data, "cal-demo", "augment.erase=1", "augment.clothes_sampling={}"))
    assert batch.is_paired
    assert torch.equal(batch.images[:32], plain.images)
    assert batch.parsing is not None
    assert feed.clothes is not None
    for labels, given in ((batch.person, host.person), (batch.clothes, host.clothes)):
        assert torch.equal(labels, given.repeat(2))
    before, after = batch.images.chunk(2)
    masks, again = batch.parsing.chunk(2)
    assert torch.equal(masks, again)
    differs = (before != after).any(1)
    is_garment = torch.isin(feed.clothes.part_of_label[masks.long()], torch.tensor([2, 3], dtype=torch.uint8))
    assert not differs[~is_garment].any()
    assert differs[is_garment].double().mean() > 0.5
    erased = (before == torch.tensor(feed.augmentation.erase_fill)[:, None, None]).all(1)
    assert erased.any()
    assert torch.equal(erased, (after == torch.tensor(feed.augmentation.erase_fill)[:, None, None]).all(1))


def test_other_clothes_may_take_the_place_of_the_images(data: str) -> None:
    words = ("augment.clothes_sampling={beside: false, probability: 0.5}", "augment.flip=0", "augment.pad=0")
    _, _, plain = first_batch(experiment(data, "baseline-demo", *words[1:]))
    _, feed, batch = first_batch(experiment(data, "baseline-demo", *words))
    assert not batch.is_paired
    assert len(batch.images) == 32
    assert feed.clothes is not None
    changed = draw_clothes(feed.clothes, 32, (3, 0, 0)).is_changed
    assert 4 < changed.sum() < 28
    assert torch.equal((batch.images != plain.images).flatten(1).any(1), changed)


def test_losses_and_gradient_norms_of_each_update_are_reported(data: str) -> None:
    _, recorder = train(experiment(data).resolved())
    last = recorder.steps[-1].metrics
    for name in ("model", "clothes_classifier"):
        assert last[f"loss/{name}"] > 0
        assert last[f"gradient-norm/{name}"] > 0
    assert last["speed/images-per-s"] > 0


def test_a_loss_that_is_not_finite_stops_the_run_before_the_weights_change(data: str) -> None:
    described = experiment(data)
    dataset = Dataset.open(data)
    facts = build.describe_data(dataset, dataset.index("train"))
    method = build.build_method(described, facts)
    optimization = build.build_optimization(described, method)
    feed, stream = build.build_feed(described, dataset, 0, 1, method.stages())
    states: list[dict[str, torch.Tensor]] = []

    class Poison(Recorder):
        def on_progress(self, progress: TrainingProgress, end_of_epoch: bool) -> None:
            if progress.step == 2:
                states.append({n: p.detach().clone() for n, p in method.named_parameters()})

    def poisoned(epoch: int, first_batch: int) -> Iterator[HostBatch]:
        yield from feed.batches(epoch, first_batch)

    def nan_from_the_third_step(_: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return tuple(torch.full_like(x, torch.nan) for x in inputs) if states else inputs

    method.classifier.register_forward_pre_hook(nan_from_the_third_step)
    strategy = build_strategy()
    strategy.prepare(method, optimization.optimizers)
    with pytest.raises(NonFiniteLossError, match=r"step 2 \(epoch 0, batch 2\).*learning rate") as raised:
        loop.train(method, replace(feed, batches=poisoned), optimization, strategy, Poison(), epochs=EPOCHS)
    stream.close()
    assert raised.value.progress == TrainingProgress(0, 2, 2)
    assert len(raised.value.rows) == 32
    assert all(torch.equal(states[0][n], p) for n, p in method.named_parameters())


def test_an_altered_checkpoint_is_refused(data: str, tmp_path: Path) -> None:
    wanted = experiment(data).resolved()
    train(wanted, Recorder(stop_after=1), run=str(tmp_path))
    file = next(tmp_path.rglob("model.safetensors"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(checkpoint.CorruptCheckpointError, match=r"model\.safetensors.*digest"):
        train(wanted, run=str(tmp_path), from_run=True)


def test_only_the_newest_checkpoints_are_kept(data: str, tmp_path: Path) -> None:
    described = experiment(data)
    dataset = Dataset.open(data)
    facts = build.describe_data(dataset, dataset.index("train"))
    method = build.build_method(described, facts)
    state = FullState(method.state_dict(), {})
    store = open_store(str(tmp_path))
    for step in range(4):
        folder = checkpoint.save(
            store, state, TrainingProgress(0, step, step),
            end_of_epoch=False, experiment=described.resolved(), facts=facts,
        )  # fmt: skip
        checkpoint.prune(store, folder, keep=2)
    assert checkpoint.complete_folders(store) == ["checkpoints/00000002", "checkpoints/00000003"]
    assert not (tmp_path / "checkpoints/00000001/model.safetensors").exists()
