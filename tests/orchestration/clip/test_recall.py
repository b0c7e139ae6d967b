"""Recall of sentences among images."""

from __future__ import annotations

import torch

from orchestration.clip.recall import distinct, recall


def test_recall_counts_the_images_that_are_more_similar_than_the_own() -> None:
    texts = torch.eye(12)[:3]
    images = torch.eye(12)[:3].clone()
    images[1] = torch.tensor([1.0, 0.9, *[0.0] * 10])  # sentence 1 finds it first all the same; sentence 0 not its own
    images[0] = torch.tensor([0.1, 1.0, *[0.0] * 10])
    found = recall(images, texts)
    assert found[1] == 1 / 3  # sentence 2
    assert found[5] == found[10] == 1


def test_perfect_and_reversed_features() -> None:
    features = torch.nn.functional.normalize(torch.randn(40, 8, generator=torch.Generator().manual_seed(0)))
    assert recall(features, features) == {1: 1.0, 5: 1.0, 10: 1.0}
    assert recall(features, -features)[10] == 0


def test_no_sentence_is_chosen_twice() -> None:
    sentences = ["a", "b", "a", "c", "b", "d"]
    chosen = distinct(sentences, 3, torch.Generator().manual_seed(1))
    assert len({sentences[place] for place in chosen}) == len(chosen) == 3
    assert {sentences[place] for place in distinct(sentences, 9, torch.Generator().manual_seed(2))} == set("abcd")
