"""The recipes of CLIP-ReID against transcriptions of its published code: rates, biases, descriptor, the second stage's loss."""

from __future__ import annotations

import math
from bisect import bisect_right

import pytest
import torch
from torch import Tensor, nn

from methods.backbones.clip_vit import CLIPViT
from methods.ccaf import CCAF, CCAFSettings
from methods.method import DataFacts, Needs
from orchestration.config import build
from orchestration.config.load import Experiment, load
from orchestration.config.meta import build_on_meta
from orchestration.engine.loop import LR_FACTOR
from tests import golden
from tests.methods.variants import NUM_PERSONS, batch, begin

STAGE_1, STAGE_2 = 120, 60  # epochs: configs/person/vit_clipreid.yml, MAX_EPOCHS


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    return load("clip-reid-market1501", ["data=/given"])


def method_of(experiment: Experiment) -> CCAF:
    method = build_on_meta(experiment)
    assert isinstance(method, CCAF)
    return method


def test_the_recipes_are_one_recipe_for_three_data_sets() -> None:
    trees = [load(f"clip-reid-{data}", ["data=/given"]).resolved() for data in ("prcc", "ltcc", "market1501")]
    assert all(tree | {"name": ""} == trees[0] | {"name": ""} for tree in trees)


def test_batches_and_images_are_the_codes(experiment: Experiment) -> None:
    augment, given = experiment.augment, experiment.batch
    assert (given.people * given.images, given.images, given.sampler) == (64, 4, "distinct")
    assert (augment.height, augment.width, augment.flip, augment.pad, augment.erase) == (256, 128, 0.5, 10, 0.5)
    assert augment.erase_area == pytest.approx((0.02, 1 / 3))  # timm's defaults
    assert augment.erase_aspect == pytest.approx((0.3, 1 / 0.3))
    assert {*augment.mean, *augment.std} == {0.5}
    assert not experiment.evaluate.flip
    assert experiment.select == "last"


def test_prompts_learn_alone_for_120_epochs_then_the_encoder_for_60(experiment: Experiment) -> None:
    prompts, tuning = method_of(experiment).stages()
    assert (prompts.first_epoch, prompts.optimizers, prompts.samples) == (0, ("prompts",), 64)
    assert (tuning.first_epoch, tuning.optimizers) == (STAGE_1, ("model",))
    assert experiment.epochs == STAGE_1 + STAGE_2


def rate_of_stage_1(epoch: int) -> float:
    """solver/cosine_lr.py as train_clipreid.py calls it; epochs count from 1, and the step comes before each."""
    base, first, last, warm = 3.5e-4, 1e-5, 1e-6, 5
    if epoch < warm:
        return first + epoch * (base - first) / warm
    if epoch // STAGE_1 >= 1:  # cycle_limit
        return last
    return last + 0.5 * (base - last) * (1 + math.cos(math.pi * epoch / STAGE_1))


def rate_of_stage_2(epoch: int) -> float:
    """solver/lr_scheduler.py, stepped before each epoch."""
    alpha = epoch / 10
    warm = 0.1 * (1 - alpha) + alpha if epoch < 10 else 1
    return float(5e-6 * warm * 0.1 ** bisect_right([30, 50], epoch))


def test_the_rates_of_every_epoch_are_the_codes(experiment: Experiment) -> None:
    optimization = build.build_optimization(experiment, method_of(experiment))
    found = [optimization.rate("prompts", epoch) for epoch in range(STAGE_1)]
    assert found == pytest.approx([rate_of_stage_1(epoch) for epoch in range(1, STAGE_1 + 1)], rel=1e-12)
    found = [optimization.rate("model", STAGE_1 + epoch) for epoch in range(STAGE_2)]
    assert found == pytest.approx([rate_of_stage_2(epoch) for epoch in range(1, STAGE_2 + 1)], rel=1e-12)


def test_biases_of_the_encoder_learn_twice_as_fast(experiment: Experiment) -> None:
    method = method_of(experiment)
    optimizers = build.build_optimization(experiment, method).optimizers
    factors = {id(p): group.get(LR_FACTOR, 1) for group in optimizers["model"].param_groups for p in group["params"]}
    owned = dict(method.parameters_of()["model"])
    assert len(factors) == len(owned)
    assert {name: factors[id(p)] for name, p in owned.items()} == {name: 2 if "bias" in name else 1 for name in owned}
    assert any(name.endswith("in_proj_bias") for name in owned)
    assert not any("bottleneck" in name or "necks" in name for name in owned if "bias" in name)
    assert [group.get(LR_FACTOR, 1) for group in optimizers["prompts"].param_groups] == [1]
    assert {group["weight_decay"] for one in optimizers.values() for group in one.param_groups} == {1e-4}
    assert {type(one) for one in optimizers.values()} == {torch.optim.Adam}


def test_the_descriptor_has_1280_numbers_and_three_features_are_compared(experiment: Experiment) -> None:
    method = method_of(experiment)
    images = torch.empty(2, 3, 256, 128, device="meta")
    found = method.encoder.embeddings(images)
    assert method.embed(images).shape == found.before_neck.shape == (2, 768 + 512)
    assert [one.shape[1] for one in found.classified] == [768, 512]
    assert [one.shape[1] for one in found.compared] == [768, 768, 512]
    assert method.encoder.maps(images).shape[2] == 1 + 16 * 8
    assert method.state_dict()["prompts.persons.tokens"].shape[1:] == (4, 512)


def test_neither_masks_nor_clothes_labels_are_needed(experiment: Experiment) -> None:
    assert build.method_needs(experiment) == Needs()
    assert not build.needs_parsing(experiment)
    assert {name.partition(".")[0] for name, _ in method_of(experiment).named_parameters()} == {
        "encoder", "classifier", "text", "prompts",
    }  # fmt: skip


# The loss of the second stage: loss/make_loss.py, softmax_loss.py and triplet_loss.py


def clip_reid_total(scores: list[Tensor], features: list[Tensor], logits: Tensor, person: Tensor) -> Tensor:
    """ID_LOSS_WEIGHT 0.25, TRIPLET_LOSS_WEIGHT 1, I2T_LOSS_WEIGHT 1, MARGIN 0.3."""
    identity = torch.stack([smoothed_cross_entropy(score, person) for score in scores]).sum()
    triplet = torch.stack([hardest_triplets(one, person) for one in features]).sum()
    return smoothed_cross_entropy(logits, person) + 0.25 * identity + triplet


def smoothed_cross_entropy(scores: Tensor, person: Tensor) -> Tensor:
    targets = torch.zeros_like(scores).scatter(1, person[:, None], 1.0)
    targets = (1 - 0.1) * targets + 0.1 / scores.shape[1]
    return (-targets * scores.log_softmax(1)).mean(0).sum()


def hardest_triplets(features: Tensor, person: Tensor) -> Tensor:
    squares = features.square().sum(1)
    distance = (squares[:, None] + squares[None] - 2 * features @ features.T).clamp(min=1e-12).sqrt()
    terms = []
    for own, row in zip(person, distance, strict=True):
        terms.append((row[person == own].max() - row[person != own].min() + 0.3).clamp(min=0))
    return torch.stack(terms).mean()


@pytest.mark.parametrize("case", golden.cases("clip_stage2", "clip_reid_stage2_total"))
def test_the_transcription_gives_the_golden_total(case: golden.Case) -> None:
    given = case.inputs(torch.float64)
    features, scores = [given[f"feat_{at}"] for at in (0, 1, 2)], [given[f"score_{at}"] for at in (0, 1)]
    case.check("total", clip_reid_total(scores, features, given["i2t_logits"], given["targets"]))


def test_the_second_stage_minimises_the_codes_total(experiment: Experiment) -> None:
    """Value and every gradient, in float64, of the recipe's settings on narrow towers."""
    tree = experiment.resolved()["method"]
    settings = CCAFSettings(**{k: v for k, v in tree.items() if k != "name"} | {"width": 1 / 16})
    torch.manual_seed(4)
    method = CCAF(settings, DataFacts(NUM_PERSONS, torch.empty(0, dtype=torch.int64))).double().train()
    assert isinstance(method.encoder, CLIPViT)
    whole = batch()
    begin(method, STAGE_1)
    (update,) = method.updates(whole)
    assert update.optimizer == "model"

    tokens = [one[:, 0] for one in method.encoder.tower(whole.images)]  # block 11, block 12 with ln_post, projected
    scores = []
    for one, neck, classifier in zip(tokens[1:], method.encoder.necks, method.classifier, strict=True):  # type: ignore[call-overload]
        assert isinstance(neck, nn.BatchNorm1d)
        standard = (one - one.mean(0)) / (one.var(0, unbiased=False) + 1e-5).sqrt()
        scores.append((neck.weight * standard + neck.bias) @ classifier.weight.T)
    texts = method.prompts["persons"](torch.arange(NUM_PERSONS), method.text).detach()
    total = clip_reid_total(scores, tokens, tokens[2] @ texts.T, whole.person)

    torch.testing.assert_close(update.loss, total, rtol=1e-12, atol=1e-12)
    names, parameters = zip(*method.parameters_of()["model"], strict=True)
    found = torch.autograd.grad(update.loss, parameters)
    expected = torch.autograd.grad(total, parameters)
    torch.testing.assert_close(
        dict(zip(names, found, strict=True)), dict(zip(names, expected, strict=True)), rtol=1e-7, atol=1e-11
    )
