"""Partial FC: the classes of a draw depend on the seed, the draw's number and the class alone, and 1.0 is exact."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.losses.identity import identity_loss
from methods.sharded import losses
from methods.sharded.classifiers import ShardedCosineClassifier, ShardedLinearClassifier
from methods.sharded.sample import ClassSample, hashed, signed, uniform
from methods.sharded.share import Share

CLASSES = 2000


def drawn(sample: ClassSample, classes: Tensor, *needed: int) -> list[int]:
    return classes[sample(classes, torch.isin(classes, torch.tensor(needed)), is_new=True)].tolist()


def test_the_hash_is_splitmix64() -> None:
    """The first two numbers of the published generator with seed 1234567."""
    step = 0x9E3779B97F4A7C15
    found = [int(hashed(torch.tensor(signed(1234567 + n * step)))) & (1 << 64) - 1 for n in range(2)]
    assert found == [6457827717110365317, 3203168211198807973]


def test_numbers_are_uniform() -> None:
    numbers = uniform(hashed(torch.arange(100_000)))
    assert 0 <= float(numbers.min()) <= float(numbers.max()) < 1
    counts = torch.histc(numbers, 20, 0, 1)
    assert float((counts - 5000).abs().max()) < 5 * 5000**0.5


def test_each_draw_counts_its_share_and_what_is_needed() -> None:
    torch.manual_seed(8)
    sample, everyone = ClassSample(0.1), torch.arange(CLASSES)
    draws = [drawn(sample, everyone, 3, 1999) for _ in range(20)]
    assert all({3, 1999} <= set(draw) and draw == sorted(draw) for draw in draws)
    assert len({tuple(draw) for draw in draws}) == 20
    assert abs(sum(map(len, draws)) / 20 - 202) < 5 * (CLASSES * 0.09 / 20) ** 0.5
    assert int(sample.draws) == 20
    again = sample(everyone, torch.zeros(CLASSES, dtype=torch.bool), is_new=False)
    assert set(again.tolist()) <= set(draws[-1]) <= set(again.tolist()) | {3, 1999}


def test_parts_of_the_classes_draw_what_all_classes_would_and_resume_it() -> None:
    torch.manual_seed(8)
    sample, everyone = ClassSample(0.3), torch.arange(CLASSES)
    drawn(sample, everyone)
    state = sample.state_dict()
    expected = drawn(sample, everyone)
    for parts in (1, 2, 3, 4):
        found = []
        for part in range(parts):
            torch.manual_seed(8)
            other = ClassSample(0.3)
            other.load_state_dict({name: value - 1 for name, value in state.items()})
            found += drawn(other, Share(part, parts).of(CLASSES).numbers())
        assert found == expected
    torch.manual_seed(9)
    other = ClassSample(0.3)
    other.load_state_dict({name: value - 1 for name, value in state.items()})
    assert drawn(other, everyone) != expected, "another seed draws others"


def test_a_step_counts_the_sampled_classes_alone_and_a_share_of_1_counts_all() -> None:
    random = torch.Generator().manual_seed(1)
    features, labels = torch.randn(4, 6, generator=random).double(), torch.tensor([3, 3, 17, 40])
    for share in (1.0, 0.4):
        torch.manual_seed(2)
        classifier = ShardedLinearClassifier(6, Share(0, 1).of(50), counted=share).double()
        scores = classifier(features, labels)
        counted = scores.classes
        assert (len(counted) == 50) == (share == 1.0)
        assert {3, 17, 40} <= set(counted.tolist())
        assert int(scores.total) == len(counted)
        loss = losses.cross_entropy(scores, labels, 0.1)
        weight = classifier.weight.detach().clone().requires_grad_()
        places = torch.searchsorted(counted, labels)
        expected = identity_loss(F.linear(features, weight[counted]), places, 0.1)
        torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
        loss.backward()
        expected.backward()
        torch.testing.assert_close(classifier.weight.grad, weight.grad, rtol=1e-12, atol=1e-14)


def test_classes_are_counted_by_their_keys() -> None:
    torch.manual_seed(2)
    classifier = ShardedCosineClassifier(6, Share(0, 1).of(60), counted=0.1)
    owner = torch.arange(60) // 3
    features = torch.randn(2, 6)
    classifier(features, torch.tensor([0, 59]))
    for _ in range(2):
        found = classifier.held_fixed(features, torch.tensor([4, 11]), owner).classes.tolist()
        assert {12, 13, 14, 33, 34, 35} <= set(found)
        assert len(found) < 30
    assert classifier.sample is not None
    assert int(classifier.sample.draws) == 1
