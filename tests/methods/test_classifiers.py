"""Classifiers: their start, and that held fixed they give the same and train nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from methods.classifiers import CosineClassifier, LinearClassifier

KINDS: dict[str, Callable[[], Any]] = {
    "linear": lambda: LinearClassifier(6, 9),
    "linear without bias": lambda: LinearClassifier(6, 9, bias=False),
    "cosine": lambda: CosineClassifier(6, 9),
}


@pytest.mark.parametrize("kind", KINDS)
def test_held_fixed_it_gives_the_same_and_trains_the_features_alone(kind: str) -> None:
    torch.manual_seed(0)
    classifier = KINDS[kind]().double()
    features = torch.randn(4, 6, dtype=torch.float64)
    grads = []
    for call in (classifier, classifier.held_fixed):
        rows = features.clone().requires_grad_()
        logits = call(rows)
        logits.square().sum().backward()
        assert rows.grad is not None
        grads.append((logits.detach(), rows.grad))
    assert torch.equal(grads[0][0], grads[1][0])
    assert torch.equal(grads[0][1], grads[1][1])
    classifier.zero_grad()
    classifier.held_fixed(features.requires_grad_()).sum().backward()
    assert all(parameter.grad is None for parameter in classifier.parameters())


def test_a_cosine_classifier_gives_cosines_and_starts_as_directions() -> None:
    torch.manual_seed(0)
    classifier = CosineClassifier(6, 9).double()
    torch.testing.assert_close(classifier.weight.norm(dim=1), torch.ones(9, dtype=torch.float64), rtol=0, atol=1e-6)
    features = torch.randn(4, 6, dtype=torch.float64)
    expected = F.cosine_similarity(features[:, None], classifier.weight[None], dim=2)
    torch.testing.assert_close(classifier(features), expected, rtol=1e-12, atol=1e-12)


def test_a_linear_classifier_starts_as_published() -> None:
    torch.manual_seed(0)
    classifier = LinearClassifier(500, 400)
    assert abs(float(classifier.weight.detach().std()) - 1e-3) < 1e-5
    assert abs(float(classifier.weight.detach().mean())) < 1e-5
    assert not classifier.bias.any()
