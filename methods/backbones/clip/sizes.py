"""The published sizes of CLIP's towers."""

from __future__ import annotations

from dataclasses import dataclass

CONTEXT = 77  # positions of the text tower


@dataclass(frozen=True)
class TransformerSize:
    """width: channels of a token. heads: of its attention, which divide the width."""

    width: int
    layers: int
    heads: int

    def scaled(self, factor: float) -> TransformerSize:
        """`factor` times as wide, with heads as wide as before where the factor allows."""
        heads = max(1, round(self.heads * factor))
        return TransformerSize(max(1, round(self.width * factor / heads)) * heads, self.layers, heads)


@dataclass(frozen=True)
class CLIPSize:
    """image, text: the two transformers. patch: pixels along the side of a patch. grid: patches along the side of the square
    images that the published weights were trained on. dim: width of the space that both towers project into."""

    image: TransformerSize
    text: TransformerSize
    patch: int
    grid: int
    dim: int

    def scaled(self, factor: float) -> CLIPSize:
        dim = max(1, round(self.dim * factor))
        return CLIPSize(self.image.scaled(factor), self.text.scaled(factor), self.patch, self.grid, dim)


TOWERS = {
    "vit-b16": CLIPSize(TransformerSize(768, 12, 12), TransformerSize(512, 12, 8), patch=16, grid=14, dim=512),
    "vit-l14": CLIPSize(TransformerSize(1024, 24, 16), TransformerSize(768, 12, 12), patch=14, grid=16, dim=768),
}
# Text tower and common space of the small CLIP whose image tower is `CLIPCNN`; it has no patches.
TINY = CLIPSize(TransformerSize(96, 0, 1), TransformerSize(96, 2, 4), patch=16, grid=1, dim=96)
