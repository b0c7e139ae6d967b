"""The warp to SCHP's square and back: against torch's grid_sample, by hand, and as properties of label maps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from datasets.parsing.warp import from_square, to_square

SIZES = [(128, 64), (64, 128), (50, 50), (7, 3), (1, 9), (9, 1), (2, 2), (611, 300)]


def sampled(images: Tensor, size: tuple[int, int], step: float) -> Tensor:
    """By grid_sample: samples `step` pixels apart, centre upon centre, zero outside."""
    height, width = images.shape[2:]
    y = (height - 1) / 2 + (torch.arange(size[0], dtype=torch.float64) - (size[0] - 1) / 2) * step
    x = (width - 1) / 2 + (torch.arange(size[1], dtype=torch.float64) - (size[1] - 1) / 2) * step
    # Without aligned corners, -1 and 1 are the outer edges of the first and last pixel: so pixel p lies at (2p + 1) / n - 1.
    grid = torch.stack(torch.meshgrid((2 * x + 1) / width - 1, (2 * y + 1) / height - 1, indexing="xy"), -1)
    out = F.grid_sample(
        images.double(), grid[None].expand(len(images), -1, -1, -1), padding_mode="zeros", align_corners=False
    )
    return out.float()


@pytest.mark.parametrize("size", SIZES)
def test_the_warp_is_bilinear_sampling_with_zeros_around(size: tuple[int, int]) -> None:
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    step = max(max(size) - 1, 1) / 472
    torch.testing.assert_close(to_square(images, 473), sampled(images, (473, 473), step), atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", SIZES)
def test_the_way_back_is_upsampling_and_then_the_inverse_warp(size: tuple[int, int]) -> None:
    logits = torch.randn(2, 5, 119, 119, generator=torch.Generator().manual_seed(0))
    whole = F.interpolate(logits, (473, 473), mode="bilinear", align_corners=True)
    step = 472 / max(max(size) - 1, 1)
    torch.testing.assert_close(from_square(logits, 473, size), sampled(whole, size, step), atol=1e-4, rtol=0)


def test_corners_of_the_longer_side_lie_on_the_squares_edges() -> None:
    """A 5 × 3 crop in a square of 9: every second place is a pixel of the crop; the sides are empty."""
    image = torch.arange(1.0, 16).reshape(1, 1, 5, 3)
    square = to_square(image, 9)[0, 0]
    assert torch.equal(square[::2, 2:7:2], image[0, 0])
    assert square[0, 3] == 1.5
    assert square[:, [0, 8]].eq(0).all()
    assert torch.equal(square[:, 1], square[:, 2] / 2), "half a pixel outside, half of the border's zero"


@settings(max_examples=25)
@given(height=st.integers(1, 60), width=st.integers(1, 60), num_labels=st.integers(2, 6), seed=st.integers(0, 99))
def test_a_label_map_warped_there_and_back_is_itself(height: int, width: int, num_labels: int, seed: int) -> None:
    """The square is at least as fine as the crop, so every pixel's own label weighs the most."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, num_labels, (height // 6 + 1, width // 6 + 1))
    labels = torch.from_numpy(np.kron(blocks, np.ones((6, 6), dtype=np.int64))[:height, :width].copy())
    scores = F.one_hot(labels, num_labels).permute(2, 0, 1)[None].float()
    back = from_square(to_square(scores, 129), 129, (height, width))
    assert torch.equal(back[0].argmax(0), labels)


def test_a_crop_larger_than_the_square_loses_only_its_outlines() -> None:
    labels = torch.zeros(1000, 700, dtype=torch.int64)
    labels[200:800, 150:500] = 1
    scores = F.one_hot(labels, 2).permute(2, 0, 1)[None].float()
    back = from_square(to_square(scores, 473), 473, (1000, 700))[0].argmax(0)
    assert torch.equal(back[204:796, 154:496], labels[204:796, 154:496])
    away = F.max_pool2d(labels[None].float(), 9, stride=1, padding=4)[0] == 0
    assert not back[away].any()
