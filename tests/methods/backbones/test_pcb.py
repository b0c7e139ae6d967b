"""PCB: stripes and refined parts against plain sums, and what trains while the part classifier is induced."""

from __future__ import annotations

import pytest
import torch

from methods.backbones.pcb import PARTS, PCB
from methods.baseline import Baseline, BaselineSettings
from tests.methods.backbones.small import images, refined, small
from tests.methods.variants import SMALL, batch, facts


def test_pcb_pools_each_stripes_average_and_shares_one_reduction() -> None:
    body = small("pcb").eval()
    assert isinstance(body, PCB)
    maps = body.maps(images())
    found = body.embeddings_of(maps)
    weight, norm = body.reduction.convolution.weight, body.reduction.norm
    for part in range(PARTS):
        g = maps[:, :, part].mean(2)  # a stripe is one row of six
        own = found.features[:, part * body.channels : (part + 1) * body.channels]
        torch.testing.assert_close(own, g / g.norm(dim=1, keepdim=True))
        h = norm(g @ weight.T).clamp(min=0)
        torch.testing.assert_close(found.classified[part], h)
    assert found.compared == (found.features,)
    raw = torch.cat([maps[:, :, part].mean(2) for part in range(PARTS)], 1)
    torch.testing.assert_close(small("pcb", descriptor="G").eval()(images()), raw)
    torch.testing.assert_close(small("pcb", descriptor="H").eval()(images()), torch.cat(found.classified, 1))
    parts = [h / h.norm(dim=1, keepdim=True).clamp(min=1e-12) for h in found.classified]
    torch.testing.assert_close(small("pcb", descriptor="normalised-H").eval()(images()), torch.cat(parts, 1))


def test_refined_parts_average_all_places_by_how_likely_they_are_of_the_part() -> None:
    body = refined(4)
    maps = body.maps(images()).detach()
    logits = torch.einsum("pc,bchw->bphw", body.part_classifier.weight[:, :, 0, 0], maps)
    weights = logits.exp() / logits.exp().sum(1, keepdim=True)  # Eq. 4
    expected = torch.stack([(weights[:, [part]] * maps).mean((2, 3)) * PARTS for part in range(PARTS)], 1)
    torch.testing.assert_close(body.pooled(maps), expected)


def test_a_part_classifier_that_says_just_the_stripes_pools_as_the_stripes() -> None:
    """Each of six rows is a part of its own: the maps' first channels tell the row, and the classifier believes them."""
    plain, body = small("pcb"), refined(4)
    maps = images().new_zeros(2, body.channels, 6, 3)
    maps[:, :6] = torch.eye(6, dtype=torch.float64)[:, :, None]
    with torch.no_grad():
        body.part_classifier.weight.zero_()
        body.part_classifier.weight[torch.arange(6), torch.arange(6), 0, 0] = 1e4
    torch.testing.assert_close(body.pooled(maps), plain.pooled(maps))


@pytest.mark.parametrize("height", [96, 160])  # six rows, and ten: stripes that overlap
def test_at_test_time_parts_are_pooled_as_in_the_last_training_step(height: int) -> None:
    given = torch.randn(4, 3, height, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    before, plain = refined(1), small("pcb")
    assert isinstance(plain, PCB)
    maps = before.maps(given)
    before.pooled(maps)
    torch.testing.assert_close(before.eval().pooled(maps), plain.pooled(maps))
    after = refined(2)
    trained = after.pooled(maps)
    fresh = refined(0).eval()
    fresh.load_state_dict(after.state_dict())
    torch.testing.assert_close(fresh.pooled(maps), trained)
    assert not torch.allclose(trained, plain.pooled(maps))


def test_while_the_part_classifier_is_induced_nothing_else_has_a_gradient() -> None:
    settings = BaselineSettings(**SMALL, body="pcb", refine_from_epoch=2, finetune_from_epoch=4)
    method, whole = Baseline(settings, facts()).double(), batch()
    assert [(stage.title, stage.first_epoch) for stage in method.stages()] == [
        ("identity, stripes", 0),
        ("identity, part classifier", 2),
        ("identity, refined parts", 4),
    ]
    reached = {}
    for epoch in (0, 1, 2, 3, 4):
        method.begin_epoch(epoch)
        method.zero_grad()
        next(method.updates(whole)).loss.backward()
        reached[epoch] = {name for name, parameter in method.named_parameters() if parameter.grad is not None}
    alone = {"encoder.part_classifier.weight"}
    everything = {name for name, _ in method.named_parameters()}
    assert reached == {0: everything - alone, 1: everything - alone, 2: alone, 3: alone, 4: everything}
