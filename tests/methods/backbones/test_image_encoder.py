"""The encoder on clips of video: CAL's C2D, frame by frame; images as ever."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from methods.backbones.image_encoder import ImageEncoder
from tests import golden


@pytest.mark.parametrize("dtype", golden.DTYPES, ids=str)
@pytest.mark.parametrize("case", golden.cases("video_blocks", "video_head_pool"))
def test_golden_head_of_the_video_model(case: golden.Case, dtype: torch.dtype) -> None:
    """The maps as if they were frames; the neck, which follows, is golden-tested with the poolings."""
    encoder = ImageEncoder("resnet18", width=1 / 16, pooling="max").to(dtype)
    encoder.backbone = nn.Identity()  # type: ignore[assignment]
    maps = case.inputs(dtype)["x"].transpose(1, 2)  # [B, T, C, H, W]
    encoder.neck = nn.BatchNorm1d(maps.shape[2], eps=0.0).to(dtype).eval()
    case.check("pooled", encoder(maps))


@pytest.mark.parametrize("pooling", ["max-average", "max"])
def test_a_clip_is_the_mean_of_its_frames_before_the_neck(pooling: str) -> None:
    torch.manual_seed(0)
    encoder = ImageEncoder("resnet18", width=1 / 16, pooling=pooling).double().eval()
    clips = torch.randn(3, 4, 3, 32, 16, dtype=torch.float64)
    frames = torch.stack([encoder(clips[:, t]) for t in range(4)])  # the neck is affine in eval mode
    torch.testing.assert_close(encoder(clips), frames.mean(0))
    assert encoder(clips).shape == (3, encoder.dim)


def test_a_clip_of_one_frame_is_an_image() -> None:
    torch.manual_seed(0)
    encoder = ImageEncoder("resnet18", width=1 / 16).eval()
    images = torch.randn(3, 3, 32, 16)
    assert torch.equal(encoder(images[:, None]), encoder(images))


def test_the_published_video_model_has_its_size() -> None:
    with torch.device("meta"):
        encoder = ImageEncoder("resnet50", pooling="max")
        assert encoder(torch.empty(2, 8, 3, 256, 128)).shape == (2, 2048)
    assert round(sum(p.numel() for p in encoder.parameters()) / 1e6, 2) == 23.51
