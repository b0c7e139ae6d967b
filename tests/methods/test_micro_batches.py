"""Micro-batches: refused where batch norm would see them, and kept apart in memory. Their gradients: test_recompute.py."""

from __future__ import annotations

import pytest
import torch

from methods.method import Method
from methods.micro_batches import bodies_of, use_micro_batches
from methods.recompute import recompute_blocks
from tests.methods.test_recompute import PER_IMAGE, gradients, kept_bytes
from tests.methods.variants import batch, build


def test_a_tower_keeps_what_one_micro_batch_needs_alone() -> None:
    images = torch.randn(12, 3, 32, 16)
    [body] = bodies_of(build("cal on CLIP's ViT", torch.float32))
    before = kept_bytes(body.train(), images)
    use_micro_batches(body, 4)
    assert kept_bytes(body, images) < before / 5


def test_a_body_with_batch_norm_takes_no_micro_batches() -> None:
    with pytest.raises(ValueError, match="ImageEncoder does not compute each image by itself"):
        use_micro_batches(build("cal"), 2)


@pytest.mark.parametrize("variant", PER_IMAGE)
def test_bodies_that_say_so_have_no_batch_norm_before_their_features(variant: str) -> None:
    """In training, the maps and pooled features of an image are the same bits or near, whatever stands beside it."""
    for body in bodies_of(build(variant)):
        images = batch().images
        body.train()
        whole, alone = (body.pooled(body.maps(given)) for given in (images, images[:3]))
        torch.testing.assert_close(whole[:3], alone, rtol=1e-12, atol=1e-12)


def test_both_ways_go_together() -> None:
    def both(method: Method) -> None:
        recompute_blocks(method)
        use_micro_batches(method, 3)

    whole, parts = gradients("cal on CLIP's ViT"), gradients("cal on CLIP's ViT", both)
    for name, expected in whole.items():
        torch.testing.assert_close(parts[name], expected, rtol=1e-10, atol=1e-12)
