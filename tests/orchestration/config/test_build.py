"""Optimizers as an experiment describes them: whose epochs a schedule counts, and biases with a rate of their own. What white
is."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from datasets.shards.dataset import Dataset
from methods.method import Stage, epochs_of
from orchestration.config import build
from orchestration.config.load import Experiment, load
from orchestration.engine.loop import set_rates
from tests.orchestration.two_stages import FIRST, WORDS, as_baseline
from tests.tiny import tiny_dataset

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
    described = json.loads(json.dumps(build.describe_data(dataset, dataset.index("train"))))
    facts = build.data_facts(described)
    assert (facts.num_images, facts.num_persons, facts.num_clothes) == (30, 5, 10)
    assert facts.clothes_owner.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert build.is_description(described)
    for damaged in (-1, 2.5, "30", True, None):
        assert not build.is_description(described | {"num_images": damaged})


def test_white_is_white_before_the_experiments_normalisation() -> None:
    words = ["augment.mean=[0.5, 0.25, 0.0]", "augment.std=[0.25, 0.5, 2.0]", "method.width=0.0625", "data=/given"]
    method = build.build_method(load("ifd-demo", words), FACTS | {"clothes_owner": [0, 1, 2], "label_map": "lip20"})
    assert method.white == (2.0, 1.5, 0.5)
