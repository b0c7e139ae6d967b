"""Stages: what begins them, what a survey shows, batches of rows; the same on any number of workers and after a resume."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datasets.images.augment import preprocess, preprocess_parsing
from datasets.images.decode import decode_image, decode_parsing
from datasets.shards.dataset import Dataset
from datasets.storage.store import open_store
from datasets.streaming.stream import HostBatch
from methods.method import Batch, Stage, Survey
from methods.separation import Separation
from orchestration.config import build
from orchestration.config.load import Experiment, load
from orchestration.engine import checkpoint, loop
from orchestration.engine.loop import TrainingProgress
from orchestration.engine.restore import hand_over
from orchestration.engine.strategies.choice import build_strategy
from orchestration.engine.survey import Survey as ReadSurvey
from orchestration.engine.survey import begin_stage, end_stage
from tests.orchestration.processes import in_processes
from tests.orchestration.recorder import Recorder
from tests.orchestration.two_stages import FIRST, SAMPLES, WORDS, TwoStages, as_baseline
from tests.tiny import tiny_dataset

EPOCHS = 4


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_dataset(
        tmp_path_factory.mktemp("data") / "tiny", persons=13, clothes=2, images=3, row_group_bytes=8 << 10
    )


def experiment(data: str, *overrides: str) -> Experiment:
    settings = ["batch.people=8", "batch.images=2", "batch.lanes=4", f"epochs={EPOCHS}", "seed=3", "evaluate.batch=7"]
    settings += ["augment.height=32", "augment.width=16", "method.width=0.0625"]
    with as_baseline():
        return load("baseline-demo", [f"data={data}", *settings, *WORDS, *overrides])


def prompted(data: str, *overrides: str) -> Experiment:
    """CCAF in small: an epoch of prompts, then an epoch of everything else."""
    settings = ["batch={people: 8, images: 2, lanes: 4}", "epochs=2", "seed=3", "evaluate.batch=7", "workers=1"]
    settings += ["augment={height: 32, width: 16}", "weights=null", "method.width=0.25"]
    settings += ["method.encoder_from_epoch=1", f"method.prompt_batch={SAMPLES}"]
    return load("ccaf-demo", [f"data={data}", *settings, *overrides])


class Run:
    """What a worker does, without Ray."""

    def __init__(self, wanted: dict[str, Any], run: str | None = None, recorder: Recorder | None = None) -> None:
        with as_baseline():
            self.experiment = Experiment.from_resolved(wanted)
            self.dataset = Dataset.open(self.experiment.data)
            self.facts = build.describe_data(self.dataset, self.dataset.index("train"))
            self.method: Any = build.build_method(self.experiment, self.facts)
        self.optimization = build.build_optimization(self.experiment, self.method)
        found = checkpoint.latest(open_store(run)) if run is not None else None
        self.start = found.progress if found else TrainingProgress()
        self.strategy = build_strategy()
        hand_over(self.method, self.optimization.optimizers, self.strategy, found)
        self.recorder = recorder or Recorder()
        self.feed, self.stream = build.build_feed(
            self.experiment, self.dataset, self.strategy.rank, self.strategy.workers, self.method.stages()
        )

    def train(self, epochs: int | None = None) -> None:
        self.start = loop.train(
            self.method, self.feed, self.optimization, self.strategy, self.recorder,
            epochs=epochs or self.experiment.epochs, precision=self.experiment.precision, start=self.start,
            last=self.experiment.epochs,
        )  # fmt: skip

    def state(self) -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in self.method.state_dict().items()}


End = tuple[dict[str, torch.Tensor], dict[str, float]]  # the state, and the AUC of the stage that tells something apart


def end_of(wanted: dict[str, Any]) -> End:
    run = Run(wanted)
    with closing(run.stream):
        run.train()
    return run.state(), aucs(run)


def aucs(*runs: Run) -> dict[str, float]:
    """Of the only stage that ended with something."""
    [(_, found)] = [ended for run in runs for ended in run.recorder.ended]
    return {name: one.auc for name, one in found.items()}


def ends_of_each(wanted: list[dict[str, Any]]) -> list[End]:
    return [end_of(one) for one in wanted]


def test_one_two_three_and_four_workers_end_with_the_same_float64_weights(data: str) -> None:
    """Shares of a survey are uneven: row groups of 13 persons."""
    float64 = "precision=float64"
    by_four = [experiment(data, float64).resolved(), prompted(data, float64).resolved()]
    by_three = [experiment(data, float64, "batch.lanes=3", "batch.people=6", "workers=3").resolved()]
    for wanted, counts in ((by_four, (2, 4)), (by_three, (3,))):
        alone = ends_of_each(wanted)
        of_workers = (ends for workers in counts for ends in in_processes(workers, ends_of_each, wanted))
        of_both = ((end, first) for ends in of_workers for end, first in zip(ends, alone, strict=True))
        for (state, auc), (expected, auc_alone) in of_both:
            assert auc == pytest.approx(auc_alone, abs=1e-9)
            for key, value in expected.items():
                assert (state[key] - value).abs().max() <= 1e-9 * value.abs().max().clamp(min=1), key


@pytest.mark.parametrize(
    ("described", "steps", "stages"),
    [
        (experiment, 3, {"anchors"}),
        (experiment, 14, {"identity"}),
        (prompted, 3, {"prompts"}),
        (prompted, 8, {"fine-tuning"}),
    ],
    ids=["first stage", "second stage", "prompts", "fine-tuning"],
)
def test_killed_in_either_stage_it_ends_bit_identical(
    data: str, tmp_path: Path, described: Callable[[str], Experiment], steps: int, stages: set[str]
) -> None:
    wanted = described(data).resolved()
    undisturbed, auc = end_of(wanted)
    before = Run(wanted, recorder=Recorder(stop_after=steps))
    with closing(before.stream), pytest.raises(KeyboardInterrupt):
        before.train()
    checkpoint.save(
        open_store(str(tmp_path)), before.strategy.full_state(), before.recorder.reached[-1],
        end_of_epoch=False, experiment=wanted, facts=before.facts,
    )  # fmt: skip
    after = Run(wanted, run=str(tmp_path))
    with closing(after.stream):
        after.train()
    assert {before.recorder.steps[-1].stage, after.recorder.steps[0].stage} == stages
    state = after.state()
    assert all(torch.equal(undisturbed[name], state[name]) for name in undisturbed)
    assert aucs(before, after) == auc


def test_under_autocast_prompts_and_fine_tuning_stay_near_float32(data: str) -> None:
    """bfloat16 has eight bits: losses are 2 % apart at most, and what training moved, 0.2 of its length."""
    runs = {
        precision: Run(prompted(data, f"precision={precision}").resolved()) for precision in ("float32", "bfloat16")
    }
    before = runs["float32"].state()
    for run in runs.values():
        with closing(run.stream):
            run.train()
    exact, short = runs.values()
    for one, other in zip(exact.recorder.steps, short.recorder.steps, strict=True):
        losses = {name: value for name, value in one.metrics.items() if name.startswith("loss/")}
        assert one.stage == other.stage
        assert losses != {name: other.metrics[name] for name in losses}
        assert losses == pytest.approx({name: other.metrics[name] for name in losses}, rel=0.05)
    trained = [name for pairs in exact.method.parameters_of().values() for name, _ in pairs]
    expected, found = exact.state(), short.state()
    assert {value.dtype for value in found.values() if value.is_floating_point()} == {torch.float32}
    assert all(torch.equal(value, before[name]) for name, value in found.items() if name.startswith("text."))
    moved, apart = (
        torch.cat([(expected[name] - other[name]).flatten() for name in trained]).norm() for other in (before, found)
    )
    assert 0 < apart < 0.4 * moved


def test_a_stage_begins_once_and_once_more_where_training_resumes_inside_it(data: str, tmp_path: Path) -> None:
    """The loop is entered again at every milestone of a sweep's trial."""
    wanted = experiment(data).resolved()
    run = Run(wanted)
    with closing(run.stream):
        for epochs in range(1, EPOCHS + 1):
            run.train(epochs)
            if epochs == 1:
                checkpoint.save(
                    open_store(str(tmp_path)), run.strategy.full_state(), run.start,
                    end_of_epoch=True, experiment=wanted, facts=run.facts,
                )  # fmt: skip
    resumed = Run(wanted, run=str(tmp_path))
    with closing(resumed.stream):
        resumed.train()
    for method in (run.method, resumed.method):
        assert method.begins == ["anchors", "identity"]
    assert run.method.ends == resumed.method.ends == ["anchors", "identity"]
    assert torch.equal(run.method.noise, resumed.method.noise), "a stage that draws numbers draws the same ones"
    assert run.state().keys() == resumed.state().keys()


def test_a_survey_shows_every_row_once_in_order_as_a_test_image(data: str) -> None:
    dataset = Dataset.open(data)
    described = experiment(data, "augment.clothes_sampling={}")  # so that masks are read
    augmentation = build.build_augmentation(described)
    seen: list[Batch] = []
    counts: list[int] = []
    for worker in range(3):
        feed, stream = build.build_feed(described, dataset, worker, 3, TwoStages.stages(None))  # type: ignore[arg-type]
        with closing(stream):
            share = list(ReadSurvey(feed.survey, augmentation, torch.float32, "cpu", counts.append))
        assert all(len(batch.rows) == 7 for batch in share[:-1])
        assert counts[-1] == sum(len(batch.rows) for batch in share)
        seen += share
    index = dataset.index("train")
    assert torch.cat([batch.rows for batch in seen]).tolist() == list(range(len(index)))
    assert torch.cat([batch.person for batch in seen]).tolist() == index.person.tolist()
    assert torch.cat([batch.clothes for batch in seen]).tolist() == index.clothes.tolist()
    at = 0
    images, masks = torch.cat([b.images for b in seen]), torch.cat([b.parsing for b in seen if b.parsing is not None])
    for group in range(len(index.groups)):
        for row in dataset.read_group("train", group, ("image", "parsing")).to_pylist():
            assert torch.equal(images[at], preprocess(decode_image(row["image"])[None], augmentation)[0])
            assert torch.equal(masks[at], preprocess_parsing(decode_parsing(row["parsing"])[None], augmentation)[0])
            at += 1
    assert at == len(index)


class Watched(TwoStages):
    """Notes how it is called by a survey."""

    def begin_stage(self, stage: Stage, survey: Survey) -> None:
        assert not self.training
        assert not torch.is_grad_enabled()
        super().begin_stage(stage, survey)

    def end_stage(self, stage: Stage, survey: Survey) -> Mapping[str, Separation]:
        assert not self.training
        assert not torch.is_grad_enabled()
        return super().end_stage(stage, survey)


def test_a_survey_leaves_the_state_the_mode_and_the_random_numbers_as_they_were(data: str) -> None:
    wanted = experiment(data).resolved()
    run = Run(wanted)
    run.method.__class__ = Watched
    with closing(run.stream):
        run.method.train()
        run.method.begin_epoch(0)
        before = run.state()
        torch.manual_seed(11)
        expected = torch.randn(4)
        torch.manual_seed(11)
        survey = ReadSurvey(run.feed.survey, run.feed.augmentation, torch.float32, "cpu", lambda images: None)
        begin_stage(run.method, survey, 3, run.strategy)
        assert torch.equal(torch.randn(4), expected)
        torch.manual_seed(11)
        assert end_stage(run.method, survey, 3, run.strategy).keys() == {"anchors"}
        assert torch.equal(torch.randn(4), expected)
    after = run.state()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert run.method.training
    assert len(run.method.table) == len(run.dataset.index("train"))
    assert not run.method.table.requires_grad


def test_a_stage_that_does_not_iterate_its_survey_reads_nothing(data: str) -> None:
    run = Run(experiment(data).resolved())

    def unwanted() -> Iterator[HostBatch]:
        raise AssertionError("read")

    with closing(run.stream):
        run.method.begin_epoch(FIRST)
        survey = ReadSurvey(unwanted, run.feed.augmentation, torch.float32, "cpu", lambda images: None)
        begin_stage(run.method, survey, 3, run.strategy)
        assert run.method.begins == ["identity"]
        assert run.stream.stats.groups_read == 0


def test_a_stage_of_samples_draws_rows_over_the_whole_split_and_reads_none(data: str) -> None:
    run = Run(experiment(data).resolved())
    index = run.dataset.index("train")
    with closing(run.stream):
        epochs = [torch.stack([host.rows for host in run.feed.batches(epoch, 0)]) for epoch in range(FIRST)]
        assert run.stream.stats.groups_read == 0
        again = torch.stack([host.rows for host in run.feed.batches(0, 2)])
        hosts = list(run.feed.batches(0, 0))
    assert torch.equal(again, epochs[0][2:])
    assert not torch.equal(epochs[0], epochs[1])
    for rows in epochs:
        assert rows.shape == (len(index) // SAMPLES, SAMPLES) == (run.feed.num_batches(0), SAMPLES)
        assert len(rows.unique()) == rows.numel()
    for host in hosts:
        assert host.images.numel() == 0
        assert host.parsing is None
        assert host.person.tolist() == index.person[host.rows].tolist()
        assert host.clothes.tolist() == index.clothes[host.rows].tolist()


def test_workers_share_a_batch_of_rows_in_contiguous_parts(data: str) -> None:
    run = Run(experiment(data).resolved())
    whole = [host.rows for host in run.feed.batches(0, 0)]
    shares = []
    for worker in range(3):
        feed, stream = build.build_feed(run.experiment, run.dataset, worker, 3, run.method.stages())
        with closing(stream):
            shares.append([host.rows for host in feed.batches(0, 0)])
    for number, rows in enumerate(whole):
        assert torch.equal(rows, torch.cat([share[number] for share in shares]))


def test_steps_on_rows_are_counted_as_rows_and_the_survey_is_reported(data: str) -> None:
    run = Run(experiment(data).resolved())
    with closing(run.stream):
        run.train()
    of_stage = {name: [s.metrics for s in run.recorder.steps if s.stage == name] for name in ("anchors", "identity")}
    assert all("speed/rows-per-s" in m and "speed/images-per-s" not in m for m in of_stage["anchors"])
    assert all("speed/images-per-s" in m and "speed/rows-per-s" not in m for m in of_stage["identity"])
    total = len(run.dataset.index("train"))
    once = [("anchors", min(7 * n, total)) for n in range(1, -(-total // 7) + 1)]
    assert run.recorder.surveyed == 2 * once  # where the stage begins, and where it ends


def test_batches_carry_their_rows(data: str) -> None:
    run = Run(experiment(data).resolved())
    with closing(run.stream):
        host = next(run.feed.batches(FIRST, 0))
        batch = loop.to_device(host, run.feed, FIRST, run.strategy, "cpu", torch.float32)
    assert torch.equal(batch.rows, host.rows)
    assert batch.person.tolist() == run.dataset.index("train").person[np.asarray(batch.rows)].tolist()


def test_what_a_stage_tells_apart_stands_among_the_metrics_of_its_last_step(data: str) -> None:
    run = Run(experiment(data, "precision=float64").resolved())
    with closing(run.stream):
        run.train(FIRST)
        survey = ReadSurvey(run.feed.survey, run.feed.augmentation, torch.float64, "cpu", lambda images: None)
        with torch.no_grad():
            run.method.eval()
            images = [(batch.person, run.method.encoder(batch.images)) for batch in survey]
        anchors = run.method.anchors.detach().double()
        run.train()
    with_auc = [(step.stage, step.epoch, "auc/anchors" in step.metrics) for step in run.recorder.steps]
    assert [at for at, (*_, has) in enumerate(with_auc) if has] == [max(
        at for at, (stage, *_) in enumerate(with_auc) if stage == "anchors"
    )]  # fmt: skip
    person, features = (torch.cat(parts) for parts in zip(*images, strict=True))
    similar = (features / features.norm(dim=1, keepdim=True)) @ (anchors / anchors.norm(dim=1, keepdim=True)).T
    is_own = torch.arange(len(anchors)) == person[:, None]
    own, other = similar[is_own], similar[~is_own]
    expected = ((own[:, None] > other).double() + (own[:, None] == other).double() / 2).mean()
    [found] = [step.metrics["auc/anchors"] for step in run.recorder.steps if "auc/anchors" in step.metrics]
    assert found == pytest.approx(float(expected), abs=1e-6)  # similarities are rounded to float32
    [(_, separations)] = run.recorder.ended
    assert (int(separations["anchors"].own.sum()), int(separations["anchors"].other.sum())) == (len(own), len(other))
