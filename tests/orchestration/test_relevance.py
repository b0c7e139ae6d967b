"""Which settings a method looks at is seen by trying it."""

from __future__ import annotations

import pytest

from methods import METHODS
from orchestration.experiment import load, recipes
from orchestration.relevance import inert, try_out


@pytest.mark.parametrize("name", [name for name in recipes() if name.endswith("-demo")])
def test_the_made_up_batch_suits_every_method(name: str) -> None:
    settings = load(name, ["data=not://given"]).method
    try_out(METHODS[settings.name], settings)


def test_settings_of_a_loss_without_weight_are_not_looked_at() -> None:
    unpaired = load("pixel-sampling-demo", ["data=not://given", "method.consistency_weight=0"])
    assert "does not look at it" in (inert("method.consistency", unpaired) or "")
    paired = load("pixel-sampling-demo", ["data=not://given"])
    assert inert("method.consistency", paired) is None
    assert "does not look at it" in (inert("method.finetune_from_epoch", paired) or "")
