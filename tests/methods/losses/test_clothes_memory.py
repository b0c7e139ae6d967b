"""The memory bank of clothes classes: golden sequences of steps, and what it must not do."""

from __future__ import annotations

import pytest
import torch

from methods.losses.cal import clothes_adversarial_loss
from methods.losses.clothes_memory import update_memory
from methods.losses.cosine import cosines
from tests import golden


@pytest.mark.parametrize("dtype", golden.DTYPES, ids=str)
@pytest.mark.parametrize("case", golden.cases("cal_memory"))
def test_golden_memory_bank_averages_the_samples_of_a_class(case: golden.Case, dtype: torch.dtype) -> None:
    given, params = case.inputs(dtype), case.params
    bank = torch.zeros(params["num_clothes"], params["feat_dim"], dtype=dtype)
    initialised = torch.zeros(params["num_clothes"], dtype=torch.bool)
    for step in range(params["steps"]):
        features = given[f"features_{step}"].requires_grad_()
        clothes, person = given[f"clothes_ids_{step}"], given[f"pids_{step}"]
        bank, initialised = update_memory(bank, initialised, features, clothes, params["momentum"])
        logits = params["scale"] * cosines(features, bank)
        own = given["pid2clothes"].bool()[person]
        loss = clothes_adversarial_loss(logits, clothes, own, params["epsilon"], initialised)
        loss.backward()
        case.check(f"mean_loss_{step}", loss)
        case.check(f"mean_grad_{step}", features.grad)
        case.check(f"mean_memory_{step}", bank)
        assert bool(initialised.all()) == case.expected[f"mean_filled_{step}"]


def test_momentum_counts_only_once_every_class_is_initialised() -> None:
    bank, initialised = torch.zeros(2, 1), torch.tensor([False, False])
    for clothes, value, expected in [(0, 1.0, [1.0, 0.0]), (0, 3.0, [3.0, 0.0]), (1, 5.0, [3.0, 5.0])]:
        bank, initialised = update_memory(bank, initialised, torch.tensor([[value]]), torch.tensor([clothes]), 0.9)
        assert bank[:, 0].tolist() == expected
    bank, initialised = update_memory(bank, initialised, torch.tensor([[13.0]]), torch.tensor([0]), 0.9)
    torch.testing.assert_close(bank[:, 0], torch.tensor([4.0, 5.0]))


def test_the_bank_given_is_left_as_it_was_and_keeps_no_gradient() -> None:
    bank, initialised = torch.zeros(2, 3), torch.tensor([False, True])
    after, _ = update_memory(bank, initialised, torch.randn(4, 3, requires_grad=True), torch.tensor([0, 0, 1, 1]), 0.0)
    assert not after.requires_grad
    assert bank.abs().sum() == 0
    assert initialised.tolist() == [False, True]
