"""CAL as a method: the two steps of an iteration, stages, ablations and their settings."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor

from methods.cal import CAL, CALSettings
from methods.losses.cal import clothes_adversarial_loss
from methods.method import DataFacts
from tests.methods.variants import NUM_CLOTHES, PARTS, SMALL, batch, build, facts


def cal(**settings: Any) -> CAL:
    torch.manual_seed(1)
    return CAL(CALSettings(**SMALL, **settings), facts()).double()


def cosine_logits(method: CAL, features: Tensor) -> Tensor:
    return F.normalize(features, dim=1) @ F.normalize(method.clothes_classifier.weight, dim=1).T / method.settings.tau


def test_the_defaults_are_the_papers_numbers() -> None:
    settings = CALSettings()
    assert (settings.backbone, settings.tau, settings.epsilon) == ("resnet50", 1 / 16, 0.1)
    assert (settings.adversarial_from_epoch, settings.objective, settings.proxies) == (25, "cal", "classifier")


def test_the_adversarial_loss_is_judged_by_the_clothes_classifier_after_its_step() -> None:
    method, whole = cal(adversarial_from_epoch=0, epsilon=0.3, tau=0.2), batch()
    features = method.encoder(whole.images)
    updates = method.updates(whole)
    clothes = next(updates)
    torch.testing.assert_close(clothes.loss, F.cross_entropy(cosine_logits(method, features), whole.clothes))
    with torch.no_grad():  # the step that the loop would make
        method.clothes_classifier.weight.copy_(torch.randn_like(method.clothes_classifier.weight))
    model = next(updates)
    own = facts().clothes_owner == whole.person[:, None]
    adversarial = clothes_adversarial_loss(cosine_logits(method, features), whole.clothes, own, 0.3)
    torch.testing.assert_close(model.logs["loss/adversarial"], adversarial.detach())
    torch.testing.assert_close(model.loss.detach(), model.logs["loss/identity"] + adversarial.detach())
    assert next(updates, None) is None


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [("identity", 0), ("adversarial", 25)]),
        ({"adversarial_from_epoch": 0}, [("adversarial", 0)]),
        ({"clothes_classifier_from_epoch": 0}, [("clothes-classifier", 0), ("adversarial", 25)]),
        (
            {"clothes_classifier_from_epoch": 5, "adversarial_from_epoch": 9},
            [("identity", 0), ("clothes-classifier", 5), ("adversarial", 9)],
        ),
    ],
)
def test_stages_follow_the_epochs_set(settings: dict[str, Any], expected: list[tuple[str, int]]) -> None:
    stages = cal(**settings).stages()
    assert [(stage.name, stage.first_epoch) for stage in stages] == expected
    for stage in stages:
        assert ("clothes_classifier" in stage.optimizers) is (stage.name != "identity")


@pytest.mark.parametrize("proxies", ["classifier", "memory"])
def test_while_pcbs_part_classifier_learns_alone_nothing_is_learned_of_clothes(proxies: str) -> None:
    body = PARTS | {"body": "pcb", "refine_from_epoch": 1, "finetune_from_epoch": 3}
    method, whole = CAL(CALSettings(**body, adversarial_from_epoch=0, proxies=proxies), facts()).double(), batch()
    clothes = ["clothes_classifier"] if proxies == "classifier" else []
    reached = {}
    for epoch in range(4):
        method.begin_epoch(epoch)
        method.zero_grad()
        remembered = method.memory.clone() if proxies == "memory" else None
        updates = list(method.updates(whole))
        for update in updates:
            update.loss.backward()
        reached[epoch] = {name for name, parameter in method.named_parameters() if parameter.grad is not None}
        is_alone = epoch in (1, 2)
        assert [update.optimizer for update in updates] == ([] if is_alone else clothes) + ["model"]
        assert ("loss/adversarial" in updates[-1].logs) is not is_alone
        assert remembered is None or torch.equal(remembered, method.memory) is is_alone
    alone = {"encoder.part_classifier.weight"}
    everything = {name for name, _ in method.named_parameters()}
    assert reached == {0: everything - alone, 1: alone, 2: alone, 3: everything}


def test_before_the_adversarial_stage_cal_is_the_baseline() -> None:
    method, baseline, whole = cal(), build("baseline"), batch()
    baseline.load_state_dict({k: v for k, v in method.state_dict().items() if not k.startswith("clothes_")})
    (update,) = method.updates(whole)
    torch.testing.assert_close(update.loss, next(baseline.updates(whole)).loss)


def test_with_clothes_classifier_only_the_backbone_learns_clothes_and_negative_unlearns_them() -> None:
    whole, term = batch(), {}
    for objective in ("clothes-classifier", "negative"):
        method = cal(adversarial_from_epoch=0, objective=objective)
        clothes, model = list(method.updates(whole))
        torch.testing.assert_close(model.logs["loss/adversarial"].abs(), clothes.loss.detach())
        term[objective] = model.logs["loss/adversarial"]
    assert term["clothes-classifier"] == -term["negative"] > 0


def test_the_memory_bank_is_written_by_the_batch_and_kept_in_checkpoints() -> None:
    method, whole = cal(adversarial_from_epoch=0, proxies="memory"), batch()
    (update,) = method.updates(whole)
    assert list(method.parameters_of()) == [update.optimizer] == ["model"]
    present = whole.clothes.unique()
    assert method.seen.nonzero()[:, 0].tolist() == present.tolist()
    features = method.encoder(whole.images).detach()
    means = torch.stack([features[whole.clothes == c].mean(0) for c in present])
    torch.testing.assert_close(method.memory[present], means)
    assert method.memory.shape == (NUM_CLOTHES, method.encoder.dim)
    assert {"memory", "seen"} <= set(method.state_dict())
    assert "clothes_owner" not in method.state_dict()


def test_clothes_weights_start_as_random_directions() -> None:
    weight = cal().clothes_classifier.weight
    torch.testing.assert_close(weight.norm(dim=1), torch.ones(NUM_CLOTHES, dtype=weight.dtype), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"proxies": "memory", "objective": "negative"}, 'set proxies to "classifier" or objective to "cal"'),
        ({"proxies": "memory", "clothes_classifier_from_epoch": 0}, "leave clothes_classifier_from_epoch out"),
        ({"clothes_classifier_from_epoch": 30}, r"\(30\) is after adversarial_from_epoch \(25\)"),
        ({"tau": 0}, "greater than 0"),
        ({"epsilon": 1.5}, "less than or equal to 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused_with_the_mend(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        CALSettings(**settings)


def test_what_cal_knows_of_clothes_grows_with_the_classes_and_not_with_the_people() -> None:
    people = 20_000  # the table of all people × all clothes would be 1.6 GB
    method = CAL(CALSettings(**SMALL, proxies="memory"), DataFacts(people, torch.arange(4 * people) % people))
    assert sum(buffer.numel() for name, buffer in method.named_buffers() if "memory" not in name) < 5 * 4 * people
