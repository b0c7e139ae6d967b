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
    images that the published weights were trained on. dim: width of the space that both towers project into. weights: where
    both towers are published, with the SHA-256 of the file."""

    image: TransformerSize
    text: TransformerSize
    patch: int
    grid: int
    dim: int
    weights: str | None = None

    def scaled(self, factor: float) -> CLIPSize:
        """`factor` times as wide; only the published width has published weights."""
        if factor == 1:
            return self
        dim = max(1, round(self.dim * factor))
        return CLIPSize(self.image.scaled(factor), self.text.scaled(factor), self.patch, self.grid, dim)


# OpenAI's weights under their own names, as the hub has them in safetensors, at a revision that does not move.
HUB = "https://huggingface.co/timm/{}/resolve/{}/open_clip_model.safetensors#sha256={}"
B16 = HUB.format(
    "vit_base_patch16_clip_224.openai",
    "977e3dd0ec55ab8da155f2fbeb6b5f54948b6e3d",
    "4b8699299b1e8997753c64b052ba32031449d5d853f55a039148560ee02b820f",
)
L14 = HUB.format(
    "vit_large_patch14_clip_224.openai",
    "18d0535469bb561bf468d76c1d73aa35156c922b",
    "9ce2e8a8ebfff3793d7d375ad6d3c35cb9aebf3de7ace0fc7308accab7cd207e",
)
TOWERS = {
    "vit-b16": CLIPSize(TransformerSize(768, 12, 12), TransformerSize(512, 12, 8), 16, grid=14, dim=512, weights=B16),
    "vit-l14": CLIPSize(TransformerSize(1024, 24, 16), TransformerSize(768, 12, 12), 14, grid=16, dim=768, weights=L14),
}
# Text tower and common space of the small CLIP whose image tower is `CLIPCNN`; it has no patches.
TINY = CLIPSize(TransformerSize(96, 0, 1), TransformerSize(96, 2, 4), patch=16, grid=1, dim=96)
