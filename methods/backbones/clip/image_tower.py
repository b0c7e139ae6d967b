"""CLIP's image tower: a vision transformer for images of any size, with patches that may overlap."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.backbones.clip.sizes import CLIPSize
from methods.backbones.clip.transformer import Transformer
from methods.method import MethodError


class ImageTokens(NamedTuple):
    """The class token, then the h · w patches of each image, row by row.

    before: [B, 1 + h·w, width], before the last block. after: [B, 1 + h·w, width], behind it and the last layer norm.
    projected: [B, 1 + h·w, dim], in the space of the text tower.
    """

    before: Tensor
    after: Tensor
    projected: Tensor


class ImageTower(nn.Module):
    """images [B, 3, H, W] → `ImageTokens`. E_v of the papers is `projected` of the class token.

    stride: pixels between the left edges of neighbouring patches; the patch's side by default, less where patches overlap
    (TransReID and CLIP-ReID: 12). An image has (H - patch) // stride + 1 rows of patches; pixels that fill no patch are cut.

    The position embedding keeps the square grid of the published weights and is resized to the image's grid at each
    call, so one state serves all sizes. Published codes resize it once and train the result.
    """

    def __init__(self, size: CLIPSize, stride: int | None = None) -> None:
        super().__init__()
        width = size.image.width
        self.patch, self.stride = size.patch, stride or size.patch
        self.conv1 = nn.Conv2d(3, width, size.patch, stride=self.stride, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(1 + size.grid**2, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(size.image, is_causal=False)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(torch.empty(width, size.dim))
        for parameter in (self.class_embedding, self.positional_embedding, self.proj):
            nn.init.normal_(parameter, std=width**-0.5)

    def forward(self, images: Tensor) -> ImageTokens:
        before = self.before_last(images)
        return ImageTokens(before, *self.last(before))

    def before_last(self, images: Tensor) -> Tensor:
        """images [B, 3, H, W] → tokens before the last block [B, 1 + h·w, width]."""
        grid = self.grid(images.shape[2], images.shape[3])
        patches = self.conv1(images).flatten(2).mT
        first = self.class_embedding.expand(patches.shape[0], 1, -1)
        tokens = torch.cat([first, patches], 1) + resized(self.positional_embedding, grid)
        tokens = self.ln_pre(tokens)
        for block in self.transformer.resblocks[:-1]:
            tokens = block(tokens)
        return tokens

    def last(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """tokens before the last block → (after, projected), as in `ImageTokens`."""
        after = self.ln_post(self.transformer.resblocks[-1](tokens))
        return after, after @ self.proj

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches (h, w). Raises: MethodError where the image is smaller than a patch."""
        if min(height, width) < self.patch:
            raise MethodError(
                f"an image of {height} × {width} pixels has no patch of {self.patch} × {self.patch}. Set augment.height and "
                f"augment.width to at least {self.patch}"
            )
        return (height - self.patch) // self.stride + 1, (width - self.patch) // self.stride + 1


def resized(positions: Tensor, grid: tuple[int, int]) -> Tensor:
    """positions [1 + g·g, C] of a square grid → [1 + h·w, C] of another one.

    The class token's stays as it is; the others are interpolated bilinearly, without antialiasing (CLIP-ReID's code).
    """
    side = math.isqrt(positions.shape[0] - 1)
    square = positions[1:].T.unflatten(1, (side, side))[None]
    places = F.interpolate(square, grid, mode="bilinear", align_corners=False)[0].flatten(1).T
    return torch.cat([positions[:1], places])
