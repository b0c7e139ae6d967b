"""Published CLIP weights: both layouts in use load alike, everything else is refused by name with both values."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from methods.backbones.clip.image_tower import ImageTower
from methods.backbones.clip.prompts import VOCABULARY
from methods.backbones.clip.sizes import CLIPSize, TransformerSize
from methods.backbones.clip.state import layout_of, load_image_tower, load_text_tower
from methods.backbones.clip.text_tower import TextTower
from methods.method import MethodError
from tests.methods.backbones.clip import reference
from tests.methods.backbones.clip.reference import TINY

TOKENS = 49408
State = dict[str, Any]


def towers(size: CLIPSize = TINY, seed: int = 0) -> tuple[ImageTower, TextTower]:
    torch.manual_seed(seed)
    made = ImageTower(size), TextTower(size, VOCABULARY)
    for tower in made:
        reference.randomised(tower, seed)
    return made


def published(size: CLIPSize = TINY) -> State:
    """OpenAI's layout, with the whole table of tokens and what an archive of theirs holds beside."""
    image, text = towers(size)
    table = torch.randn(TOKENS, size.text.width, generator=torch.Generator().manual_seed(5))
    table[list(VOCABULARY)] = text.token_embedding.weight.detach()
    state: State = {f"visual.{key}": value for key, value in image.state_dict().items()}
    state |= {**text.state_dict(), "token_embedding.weight": table}
    return state | {name: torch.tensor(1) for name in ("input_resolution", "context_length", "vocab_size")}


def hugging_face(state: State) -> State:
    """The same weights as `CLIPModel` names them, written down from its modules."""
    made: State = {
        "logit_scale": state["logit_scale"],
        "text_projection.weight": state["text_projection"].T.contiguous(),
    }
    made["visual_projection.weight"] = state["visual.proj"].T.contiguous()
    for model, prefix, layers in (("vision_model", "visual.", TINY.image.layers), ("text_model", "", TINY.text.layers)):
        for layer in range(layers):
            own, theirs = f"{prefix}transformer.resblocks.{layer}", f"{model}.encoder.layers.{layer}"
            for kind in ("weight", "bias"):
                joint = state[f"{own}.attn.in_proj_{kind}"].chunk(3)
                for letter, part in zip("qkv", joint, strict=True):
                    made[f"{theirs}.self_attn.{letter}_proj.{kind}"] = part
                made[f"{theirs}.self_attn.out_proj.{kind}"] = state[f"{own}.attn.out_proj.{kind}"]
                made[f"{theirs}.layer_norm1.{kind}"] = state[f"{own}.ln_1.{kind}"]
                made[f"{theirs}.layer_norm2.{kind}"] = state[f"{own}.ln_2.{kind}"]
                made[f"{theirs}.mlp.fc1.{kind}"] = state[f"{own}.mlp.c_fc.{kind}"]
                made[f"{theirs}.mlp.fc2.{kind}"] = state[f"{own}.mlp.c_proj.{kind}"]
    for kind in ("weight", "bias"):
        made[f"vision_model.pre_layrnorm.{kind}"] = state[f"visual.ln_pre.{kind}"]
        made[f"vision_model.post_layernorm.{kind}"] = state[f"visual.ln_post.{kind}"]
        made[f"text_model.final_layer_norm.{kind}"] = state[f"ln_final.{kind}"]
    vision, text = "vision_model.embeddings", "text_model.embeddings"
    made[f"{vision}.class_embedding"] = state["visual.class_embedding"]
    made[f"{vision}.patch_embedding.weight"] = state["visual.conv1.weight"]
    made[f"{vision}.position_embedding.weight"] = state["visual.positional_embedding"]
    made[f"{vision}.position_ids"] = torch.arange(10)[None]
    made[f"{text}.token_embedding.weight"] = state["token_embedding.weight"]
    made[f"{text}.position_embedding.weight"] = state["positional_embedding"]
    made[f"{text}.position_ids"] = torch.arange(77)[None]
    return made


def load(state: State) -> tuple[ImageTower, TextTower]:
    found = towers(seed=9)
    load_image_tower(found[0], state)
    load_text_tower(found[1], state)
    return found


def assert_equal(found: nn.Module, expected: nn.Module) -> None:
    for (name, one), (_, other) in zip(found.state_dict().items(), expected.state_dict().items(), strict=True):
        assert torch.equal(one, other), name


@pytest.mark.parametrize("layout", ["OpenAI's names", "Hugging Face's CLIPModel"])
def test_both_layouts_load_into_the_same_towers(layout: str) -> None:
    state = published() if layout == "OpenAI's names" else hugging_face(published())
    assert layout_of(state) == layout
    for one, other in zip(load(state), towers(), strict=True):
        assert_equal(one, other)


def test_weights_in_half_precision_are_widened() -> None:
    halves = {key: value.half() if value.is_floating_point() else value for key, value in published().items()}
    found = load(halves)[0]
    assert found.proj.dtype == torch.float32
    torch.testing.assert_close(found.proj, towers()[0].proj, rtol=1e-3, atol=1e-3)


def test_a_table_of_the_prompts_rows_alone_is_taken_as_these() -> None:
    trimmed = published() | {"token_embedding.weight": towers()[1].token_embedding.weight.detach()}
    assert_equal(load(trimmed)[1], towers()[1])


def without(state: State, *beginnings: str) -> State:
    return {key: value for key, value in state.items() if not key.startswith(beginnings)}


def other(**changes: Any) -> State:
    return published(CLIPSize(**{**vars(TINY), **changes}))


TIMM = {
    "cls_token": torch.zeros(1, 1, 24),
    "pos_embed": torch.zeros(1, 10, 24),
    "patch_embed.proj.weight": torch.zeros(24, 3, 8, 8),
}


@pytest.mark.parametrize(
    ("state", "told"),
    [
        (TIMM, r"timm's layout, which has CLIP's image tower alone \(patch_embed\.proj\.weight\)"),
        ({"visual.attnpool.positional_embedding": torch.zeros(1)}, "CLIP's ResNet, and the towers here are vision"),
        ({"conv1.weight": torch.zeros(1), "layer1.0.conv1.weight": torch.zeros(1)}, "a ResNet, named as torchvision"),
        ({"text_model.embeddings.token_embedding.weight": torch.zeros(1)}, "without an image tower"),
        ({"model.a": torch.zeros(1), "model.b": torch.zeros(1), "head": torch.zeros(1)}, "begin with model, head; expected"),
        ({}, "begin with nothing; expected visual.class_embedding or vision_model"),
        (other(grid=4), "grid 4 × 4, expected 3 × 3"),
        (other(image=TransformerSize(32, 3, 4)), "width 32, expected 24"),
        (other(image=TransformerSize(24, 2, 3)), "layers 2, expected 3"),
        (other(patch=4), "patch 4, expected 8"),
        (other(dim=12), "dim 12, expected 10"),
        (published() | {"visual.positional_embedding": torch.zeros(129, 24)}, "grid of 128 places, no square, expected 3 × 3"),
        (without(published(), "visual.proj"), "dim 0, expected 10"),
        (without(published(), "visual.ln_pre."), "2 missing: ln_pre.weight, ln_pre.bias"),
        (published() | {"visual.head.weight": torch.zeros(1)}, "1 unknown: head.weight"),
        (without(hugging_face(published()), "vision_model.encoder.layers.1.self_attn.k_proj"), "2 missing: .*1.attn.in_proj"),
    ],
)  # fmt: skip
def test_what_is_no_image_tower_of_this_size_is_refused_with_both_values(state: State, told: str) -> None:
    tower = towers(seed=9)[0]
    before = {key: value.clone() for key, value in tower.state_dict().items()}
    with pytest.raises(MethodError, match=told) as error:
        load_image_tower(tower, state)
    assert "expected" in str(error.value) or "Give a state dict of CLIP's ViT-B/16 or ViT-L/14" in str(error.value)
    assert all(torch.equal(before[key], value) for key, value in tower.state_dict().items())


IMAGE_ALONE = {key: value for key, value in published().items() if key.startswith("visual.")}


@pytest.mark.parametrize(
    ("state", "told"),
    [
        (IMAGE_ALONE, r"these weights \(OpenAI's names\) have no text tower: their keys begin with visual, and none"),
        (without(hugging_face(published()), "text_model"), r"\(Hugging Face's CLIPModel\) have no text tower"),
        (other(text=TransformerSize(24, 2, 2)), "width 24, expected 16"),
        (other(text=TransformerSize(16, 3, 2)), "layers 3, expected 2"),
        (published() | {"positional_embedding": torch.zeros(64, 16)}, "context 64, expected 77"),
        (published() | {"token_embedding.weight": torch.zeros(114, 16)}, "114 tokens; expected CLIP's 49408, or the 8"),
        (without(published(), "logit_scale"), "1 missing: logit_scale"),
    ],
)  # fmt: skip
def test_what_is_no_text_tower_of_this_size_is_refused_with_both_values(state: State, told: str) -> None:
    with pytest.raises(MethodError, match=told):
        load_text_tower(towers(seed=9)[1], state)


def test_an_image_tower_loads_from_weights_without_text() -> None:
    found: list[Tensor] = []
    for state in (IMAGE_ALONE, without(hugging_face(published()), "text_model", "text_projection", "logit_scale")):
        tower = towers(seed=9)[0]
        load_image_tower(tower, state)
        found.append(tower.proj)
    assert torch.equal(*found)
