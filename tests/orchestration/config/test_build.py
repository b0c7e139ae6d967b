"""Optimizers as an experiment describes them: whose epochs a schedule counts, and biases with a rate of their own. What white
is."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from datasets.errors import DataError
from datasets.sampling.plan import Plan
from datasets.shards.dataset import Dataset
from datasets.storage.shared_arrays import temporary_folder
from methods.method import Stage, epochs_of
from orchestration.config import build
from orchestration.config.load import Experiment, load
from orchestration.engine.loop import set_rates
from tests.orchestration.two_stages import FIRST, WORDS, as_baseline
from tests.tiny import tiny_dataset

STAGES = (Stage("whole", 0, ("model",)),)
FACTS = {"num_persons": 3, "clothes_owner": [0, 1, 2], "label_map": None}


def optimization(experiment: Experiment) -> tuple[build.Optimization, dict[str, list[str]]]:
    with as_baseline():
        method = build.build_method(experiment, FACTS)
    named = {id(parameter): name for name, parameter in method.named_parameters()}
    made = build.build_optimization(experiment, method)
    names = [[named[id(p)] for p in group["params"]] for group in made.optimizers["model"].param_groups]
    return made, {"weights": names[0], "biases": names[1] if len(names) > 1 else []}


def experiment(*overrides: str) -> Experiment:
    with as_baseline():
        return load("baseline-demo", ["data=/given", "method.width=0.0625", *WORDS, *overrides])


def test_a_schedule_counts_its_optimizers_epochs() -> None:
    """The encoder is trained in the second stage alone: half a cosine over its epochs, whatever came before."""
    made, _ = optimization(experiment("epochs=7", "optimizers.model={name: sgd, lr: 2.0, schedule: {name: cosine}}"))
    length = 7 - FIRST
    expected = [2.0 * (1 + math.cos(math.pi * epoch / length)) / 2 for epoch in range(length)]
    assert [made.rate("model", epoch) for epoch in range(FIRST, 7)] == pytest.approx(expected, rel=1e-15)
    assert [made.rate("anchors", epoch) for epoch in range(FIRST)] == [0.05, 0.05]


def test_an_optimizer_without_epochs_has_no_schedule() -> None:
    stages = (Stage("one", 0, ("model",)), Stage("two", 4, ("head",)), Stage("three", 6, ("model",)))
    assert epochs_of(stages, "model", 9) == (0, 9)
    assert epochs_of(stages, "head", 9) == (4, 6)
    assert epochs_of(stages, "head", 5) == (4, 5)
    assert epochs_of(stages, "head", 4) == epochs_of(stages, "other", 9) == (0, 0)
    made, _ = optimization(
        experiment(f"epochs={FIRST}", "until=anchors", "optimizers.model.schedule={name: cosine}", "epochs=3")
    )
    assert made.rate("model", 0) == made.rate("model", FIRST)


def test_biases_may_learn_at_a_rate_of_their_own() -> None:
    words = ["optimizers.model={name: adam, lr: 0.5, bias_lr_factor: 2, schedule: {name: multistep, milestones: [1]}}"]
    made, names = optimization(experiment("epochs=6", *words))
    assert all(name.endswith("bias") for name in names["biases"])
    assert names["biases"]
    assert not any(name.endswith("bias") for name in names["weights"])
    for epoch, rate in ((FIRST, 0.5), (FIRST + 1, 0.05)):
        set_rates(made, epoch)
        assert [group["lr"] for group in made.optimizers["model"].param_groups] == pytest.approx([rate, 2 * rate])
    _, together = optimization(experiment())
    assert not together["biases"]
    assert {*names["biases"], *names["weights"]} == {*together["weights"]}


def test_a_step_moves_biases_by_their_own_rate() -> None:
    """Plain SGD on a sum: each parameter moves by its rate."""
    made, names = optimization(experiment("optimizers.model={name: sgd, lr: 0.5, momentum: 0, bias_lr_factor: 3}"))
    optimizer = made.optimizers["model"]
    before = {p: p.detach().clone() for group in optimizer.param_groups for p in group["params"]}
    torch.stack([p.sum() for p in before]).sum().backward()
    set_rates(made, FIRST)
    optimizer.step()
    weights, biases = (group["params"] for group in optimizer.param_groups)
    for owned, rate in ((weights, 0.5), (biases, 1.5)):
        for parameter in owned:
            torch.testing.assert_close(parameter.detach(), before[parameter] - rate)
    assert len(weights) + len(biases) == len(names["weights"]) + len(names["biases"])


def test_what_is_known_of_the_data_comes_back_from_its_description(tmp_path: Path) -> None:
    dataset = Dataset.open(tiny_dataset(tmp_path / "data", persons=5, clothes=2, images=3))
    described = build.describe_data(dataset, dataset.index("train"))
    owner = described["clothes_owner"].tolist()
    as_before = json.loads(json.dumps(described | {"clothes_owner": owner}))  # as versions before 0.2.0 stored it
    for one in (described, as_before):
        facts = build.data_facts(one)
        assert (facts.num_images, facts.num_persons, facts.num_clothes) == (30, 5, 10)
        assert facts.clothes_owner.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
        assert build.is_description(one)
    for wrong in (torch.tensor([0, 5]), torch.tensor([-1]), torch.tensor([0.0]), torch.tensor([[0]]), [5], [0.0], None):
        assert not build.is_description(described | {"clothes_owner": wrong})
    for damaged in (-1, 2.5, "30", True, None):
        assert not build.is_description(described | {"num_images": damaged})


def test_what_is_sent_to_workers_has_no_table_and_tells_other_data(tmp_path: Path) -> None:
    dataset = Dataset.open(tiny_dataset(tmp_path / "data", persons=5, clothes=2, images=3))
    index = dataset.index("train")
    sent = build.without_tables(build.describe_data(dataset, index))
    assert json.loads(json.dumps(sent)) == sent
    assert "clothes_owner" not in sent
    assert build.describe_same_data(dataset, index, sent)["clothes_owner"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    other = Dataset.open(tiny_dataset(tmp_path / "other", persons=6, clothes=2, images=3))
    with pytest.raises(DataError, match="was changed after this run was checked: its num_images was 30 and is 36 now"):
        build.describe_same_data(other, other.index("train"), sent)


def shared_experiment(data: str, folder: Path | None, words: Sequence[str] = ()) -> Experiment:
    return load("baseline-demo", [
        f"data={data}", "batch={people: 4, images: 2, lanes: 2}", f"stream.index_cache={folder or 'null'}",
        "augment.height=16", "augment.width=8", *words,
    ])  # fmt: skip


@pytest.mark.parametrize("words", [[], ["batch.window=2"], ["batch.sampler=chunks"], ["seed=5"]])
def test_batches_of_a_shared_index_and_plan_are_the_same_bits(tmp_path: Path, words: list[str]) -> None:
    data = tiny_dataset(tmp_path / "data", persons=8, clothes=2, images=4, row_group_bytes=3000)
    own = shared_experiment(data, None, words)
    shared = shared_experiment(data, tmp_path / "index", words)
    for experiment, is_shared in ((own, False), (shared, True), (shared, True)):
        assert (build.open_data(experiment).shared is not None) is is_shared
    for worker in range(2):
        feeds = [build.build_feed(one, build.open_data(one), worker, 2, STAGES) for one in (own, shared)]
        for epoch in range(2):
            assert feeds[0][0].num_batches(epoch) == feeds[1][0].num_batches(epoch)
            pairs = zip(*(feed.batches(epoch, 1) for feed, _ in feeds), strict=True)
            for ours, theirs in pairs:
                for name in ("images", "person", "clothes", "camera", "rows"):
                    assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
        for _, stream in feeds:
            stream.close()
    assert len(list((tmp_path / "index").glob("*.arrays"))) == 3, "the index and the plans of two epochs"


def test_a_plan_is_made_once_for_the_workers_of_a_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tiny_dataset(tmp_path / "data", persons=8, clothes=2, images=4)
    made: list[int] = []
    plan_epoch = build.plan_epoch

    def counted(*given: Any, **more: Any) -> Plan:
        made.append(more["epoch"])
        return plan_epoch(*given, **more)

    monkeypatch.setattr(build, "plan_epoch", counted)
    for folder, expected in ((tmp_path / "index", [0, 1]), (None, [0, 1, 0, 1])):
        made.clear()
        for worker in range(2):
            experiment = shared_experiment(data, folder)
            feed, stream = build.build_feed(experiment, build.open_data(experiment), worker, 2, STAGES)
            for epoch in (0, 0, 1):
                feed.num_batches(epoch)
                list(feed.batches(epoch, 0))
            stream.close()
        assert made == expected


def test_small_data_are_not_shared_unless_a_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tiny_dataset(tmp_path / "data")
    auto = load("baseline-demo", [f"data={data}"])
    assert build.open_data(auto).shared is None
    monkeypatch.setattr(build, "SHARED_FROM_ROWS", 10)
    shared = build.open_data(auto).shared
    assert shared is not None
    assert shared.folder == temporary_folder()


def test_white_is_white_before_the_experiments_normalisation() -> None:
    words = ["augment.mean=[0.5, 0.25, 0.0]", "augment.std=[0.25, 0.5, 2.0]", "method.width=0.0625", "data=/given"]
    method = build.build_method(load("ifd-demo", words), FACTS | {"clothes_owner": [0, 1, 2], "label_map": "lip20"})
    assert method.white == (2.0, 1.5, 0.5)
