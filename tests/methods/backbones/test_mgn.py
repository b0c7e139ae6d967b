"""MGN: what its branches, stripes and reductions give to the losses of its paper."""

from __future__ import annotations

import torch

from methods.backbones.body import Triplet
from methods.backbones.mgn import MGN
from methods.baseline import Baseline, BaselineSettings
from methods.losses.triplet import triplet_euclidean_loss
from tests.methods.backbones.small import images, small
from tests.methods.variants import SMALL, batch, facts


def test_mgn_learns_identities_from_whole_vectors_and_reduced_stripes_and_compares_reduced_whole_ones() -> None:
    body = small("mgn").eval()
    assert isinstance(body, MGN)
    shared = body.trunk(images())
    branches = [branch(shared) for branch in body.branches]
    assert [one.shape[2:] for one in branches] == [(3, 2), (6, 3), (6, 3)]
    whole = [one.amax((2, 3)) for one in branches]
    parts = [one.amax((2, 3)) for one in (*branches[1].chunk(2, 2), *branches[2].chunk(3, 2))]
    reduced = [reduce(vector) for reduce, vector in zip(body.reductions, (*whole, *parts), strict=True)]
    found = body.embeddings(images())
    torch.testing.assert_close(found.features, torch.cat(reduced, 1))
    torch.testing.assert_close(list(found.classified), [*whole, *reduced[3:]])
    torch.testing.assert_close(list(found.compared), reduced[:3])


def test_mgn_trains_with_the_triplet_loss_of_its_paper_unless_told_otherwise() -> None:
    assert BaselineSettings(body="mgn").triplet == Triplet(1.0, 1.2, "euclidean")
    assert BaselineSettings(body="mgn", triplet_margin=0.5).triplet == Triplet(1.0, 0.5, "euclidean")
    assert BaselineSettings().triplet == BaselineSettings(body="hpm").triplet == Triplet(0.0, 0.3, "cosine")
    method, whole = Baseline(BaselineSettings(**SMALL, body="mgn", label_smoothing=0), facts()).double(), batch()
    update = next(method.updates(whole))
    found = method.encoder.embeddings(whole.images)
    expected = sum(triplet_euclidean_loss(one, whole.person, one, whole.person, 1.2) for one in found.compared)
    torch.testing.assert_close(update.logs["loss/triplet"], torch.as_tensor(expected))
    torch.testing.assert_close(update.loss.detach(), update.logs["loss/identity"] + expected)
